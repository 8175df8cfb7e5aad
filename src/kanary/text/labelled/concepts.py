"""Every concept that the labelled corpus knows: its name, what it is a kind of, and what it means."""

import functools
from dataclasses import dataclass

from kanary.errors import KanaryError, nearest


@dataclass(frozen=True)
class Concept:
    """Something that holds, or does not, at a token of the labelled corpus."""

    name: str
    """``family.what``, for example ``honesty.lie``."""
    says: str
    """When it holds, in one sentence."""
    parent: str | None = None
    """The concept of which it is a kind; wherever this one holds, its parent does."""
    unit: str | None = None
    """For graded concepts: what its value is measured in."""
    switch: bool = True
    """Whether a passage can be written again with this concept alone switched (a contrastive pair)."""
    common: bool = False
    """Whether other families may say it too, where nobody marks it: it is judged in passages of its own family alone."""

    @property
    def family(self) -> str:
        return self.name.partition(".")[0]


_KNOWN: dict[str, Concept] = {}


def concept(
    name: str,
    says: str,
    *,
    parent: str | None = None,
    unit: str | None = None,
    switch: bool = True,
    common: bool = False,
) -> str:
    """Registers a concept and returns its name; a parent must be registered before its children."""
    if name in _KNOWN:
        raise ValueError(f"concept {name!r} is registered twice")
    if parent is not None and parent not in _KNOWN:
        raise ValueError(f"concept {name!r} has the parent {parent!r}, which is not registered yet")
    _KNOWN[name] = Concept(name, says, parent, unit, switch, common)
    return name


def known() -> dict[str, Concept]:
    """Every concept by name, parents before children."""
    import_families()
    return dict(_KNOWN)


def find_concept(name: str) -> Concept:
    """The concept called ``name``; raises :class:`KanaryError` with near names if there is none."""
    import_families()
    if name not in _KNOWN:
        raise KanaryError(f"Unknown concept {name!r}. {nearest(name, _KNOWN)}")
    return _KNOWN[name]


def ancestors(name: str) -> list[str]:
    """The concept's parents, nearest first."""
    found = []
    parent = _KNOWN[name].parent
    while parent is not None:
        found.append(parent)
        parent = _KNOWN[parent].parent
    return found


@functools.cache  # it is asked for with every record
def import_families() -> None:
    """Imports the modules that register concepts and writers: ``grammar``, and every one of ``families``."""
    import importlib
    import pkgutil

    from kanary.text.labelled import families

    importlib.import_module("kanary.text.labelled.grammar")
    for module in sorted(m.name for m in pkgutil.iter_modules(families.__path__)):
        importlib.import_module(f"{families.__name__}.{module}")
