"""What ``kanary explain`` costs without a language model: the whole command, start and reading included.

    python bench/explain.py runs/first --features 1000 --workers 1,2 --repeat 2

The run needs an index; it is copied first, because what is found is kept with it. Rules, and every score that runs no model
(``--scorers``), without controls. Target: under 60 s for 1,000 features of the demo's SAE on two quiet cores.

A line for each number of processes: ``clock_s`` and ``cpu_s`` (of all processes) are the medians of ``--repeat`` runs,
``x_one`` the clock of the first line by that of this one, ``peak_mb`` the most memory of all processes together (Linux only;
what they share is counted once), ``cpu_ms_per_feature`` the processor time that a feature adds, by a run of a tenth of them.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SCORERS = "detection,fuzzing,intruder,simulation,examples,rubric"


class Cost(NamedTuple):
    """Of one command."""

    clock_s: float
    cpu_s: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--sae", help="name of the SAE, where the run has several")
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--scorers", default=SCORERS)
    parser.add_argument("--workers", default="1,2", help="processes, commas between")
    parser.add_argument("--repeat", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(given.run, Path(folder) / "run")
        for line in lines(copy, given):
            print(json.dumps(line), flush=True)


def lines(run: Path, given: argparse.Namespace) -> Iterator[dict[str, float]]:
    first = 0.0
    few = max(1, given.features // 10)
    for workers in map(int, given.workers.split(",")):
        costs = [cost(command(run, given, given.features, workers)) for _ in range(given.repeat)]
        clock, cpu, peak = (statistics.median(column) for column in zip(*costs, strict=True))
        less = cost(command(run, given, few, workers))
        first = first or clock
        yield {
            "workers": workers,
            "features": given.features,
            "clock_s": round(clock, 1),
            "cpu_s": round(cpu, 1),
            "x_one": round(first / clock, 2),
            "peak_mb": round(peak),
            "cpu_ms_per_feature": round(1000 * (cpu - less.cpu_s) / max(1, given.features - few), 1),
            "repeat": given.repeat,
        }


def command(run: Path, given: argparse.Namespace, features: int, workers: int) -> list[str]:
    kanary = [sys.executable, "-c", "from kanary.cli import main; main()"]
    words = ["explain", str(run), "--features", f"alive:{features}", "--scorers", given.scorers, "--controls", "0"]
    named = ["--sae", given.sae] if given.sae else []
    return [*kanary, *words, *named, "--workers", str(workers), "--out", str(run / "bench")]


def cost(words: list[str]) -> Cost:
    """Runs the command to its end."""
    before, start, peak = _cpu(), time.perf_counter(), 0.0
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(_memory_mb, _tree(process.pid))))
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: status {process.returncode}")
    return Cost(time.perf_counter() - start, _cpu() - before, peak)


def _cpu() -> float:
    """Seconds of processor time of all processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(each for child in children for each in _tree(int(child)))]


def _memory_mb(pid: int) -> float:
    """Of a process, what it shares by its part of it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    main()
