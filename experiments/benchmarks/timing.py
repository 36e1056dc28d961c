"""Times several programs alternately: in each round every program runs for a while.

So a drift of the machine's speed affects all of them alike. A measurement ends when its last result is computed.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

StepTimer = Callable[[int], float]
"""Trains for a number of steps, and returns the seconds per step."""


def alternate(timers: Mapping[str, StepTimer], steps: Mapping[str, int], rounds: int) -> dict[str, list[float]]:
    """The seconds per step of each program, one value for each round of `steps[name]` steps."""
    seconds = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            seconds[name].append(timer(steps[name]))
    return seconds


def steps_in(seconds: float, seconds_per_step: float) -> int:
    """The number of steps that take about so many seconds, at least one."""
    return max(1, round(seconds / seconds_per_step))


def best_rate(product: Callable[[], Any], operations: float, repeats: int = 5) -> float:
    """The operations per second of the fastest of a few calls, after one that is not timed."""
    product()
    fastest = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        product()
        fastest = min(fastest, time.perf_counter() - start)
    return operations / fastest


def spread(seconds: Iterable[float]) -> dict[str, float]:
    """Median, minimum and maximum, in milliseconds."""
    milliseconds = [1000 * value for value in seconds]
    return {"median_ms": statistics.median(milliseconds), "min_ms": min(milliseconds), "max_ms": max(milliseconds)}


def table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Formats rows as a text table: the first column is left-aligned, the others right-aligned."""
    cells = [list(map(str, heads)), *(list(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: list[str]) -> str:
        first, *others = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        return "  ".join([first, *(cell.strip().rjust(len(cell)) for cell in others)])

    return "\n".join(map(line, cells))


def machine() -> dict[str, Any]:
    """The machine, the version of Python and the command."""
    return {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(),
            "command": " ".join(sys.orig_argv)}  # fmt: skip


def write(path: Path | None, record: dict) -> None:
    """Writes a record as JSON; nothing if there is no path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
