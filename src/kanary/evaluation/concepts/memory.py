"""How much memory is free, so that what will not fit is refused before hours of other work and not killed after them."""

from pathlib import Path

_ROOT = Path("/")
_LIMITS = (
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.stat"),
    (
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
        "sys/fs/cgroup/memory/memory.usage_in_bytes",
        "sys/fs/cgroup/memory/memory.stat",
    ),
)
"""Where a container (cgroup version 2, version 1) says what it may use, what it uses, and what of that can be dropped."""


def free_memory() -> int | None:
    """Bytes that can be taken without swapping: what Linux calls available, at most what the container may still use.

    None where the system does not say (no ``/proc``): then nothing can be refused.
    """
    known = [_available(), *(_left(*files) for files in _LIMITS)]
    return min((each for each in known if each is not None), default=None)


def gigabytes(size: float) -> str:
    """``3.28 GB``."""
    return f"{size / 1e9:.2f} GB"


def round_down(tokens: float) -> int:
    """Nine tenths of ``tokens``, as a number that is easily written: two digits and zeros; at least 1."""
    digits = str(int(0.9 * tokens))
    return max(1, int(digits[:2] + "0" * len(digits[2:])))


def _available() -> int | None:
    kilobytes = _number("proc/meminfo", "MemAvailable:")
    return None if kilobytes is None else 1024 * kilobytes


def _left(limit: str, used: str, stat: str) -> int | None:
    """None without a limit; files that were read and can be dropped do not count as used."""
    most, now = _number(limit), _number(used)
    if most is None or now is None:
        return None
    droppable = _number(stat, "total_inactive_file") or _number(stat, "inactive_file") or 0
    return max(0, most - now + droppable)


def _number(file: str, key: str = "") -> int | None:
    """The number that a file holds, or that stands behind ``key`` in it; None if there is none ("max": no limit)."""
    try:
        lines = (_ROOT / file).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for words in map(str.split, lines):
        found = words[1:2] if key else words[:1]
        if words[:1] == [key] or not key:
            return int(found[0]) if found and found[0].isdecimal() else None
    return None
