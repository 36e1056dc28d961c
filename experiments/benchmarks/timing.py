"""How are programs timed beside each other? In rounds: each plays for a while, then the next, over and over.

So a drift of the machine's speed meets all of them alike. Every measurement ends when its last result is there.
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

Play = Callable[[int], float]
"""Plays so many turns, and returns the seconds that one took."""


def alternate(plays: Mapping[str, Play], turns: Mapping[str, int], rounds: int) -> dict[str, list[float]]:
    """The seconds a turn of each program, a number for each round; it plays `turns[name]` in a round."""
    seconds = {name: [] for name in plays}
    for _ in range(rounds):
        for name, play in plays.items():
            seconds[name].append(play(turns[name]))
    return seconds


def steps_in(seconds: float, seconds_per_step: float) -> int:
    """Whole turns that fill about so many seconds, at least one."""
    return max(1, round(seconds / seconds_per_step))


def best_rate(product: Callable[[], Any], operations: float, repeats: int = 5) -> float:
    """Operations a second of the fastest of a few calls, after one that is not timed."""
    product()
    fastest = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter()
        product()
        fastest = min(fastest, time.perf_counter() - begun)
    return operations / fastest


def spread(seconds: Iterable[float]) -> dict[str, float]:
    """Median, minimum and maximum, in milliseconds."""
    milliseconds = [1000 * value for value in seconds]
    return {"median_ms": statistics.median(milliseconds), "min_ms": min(milliseconds), "max_ms": max(milliseconds)}


def table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Rows under their heads: the first column to the left, the others to the right."""
    cells = [list(map(str, heads)), *(list(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: list[str]) -> str:
        first, *others = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        return "  ".join([first, *(cell.strip().rjust(len(cell)) for cell in others)])

    return "\n".join(map(line, cells))


def machine() -> dict[str, Any]:
    """What the times were taken on."""
    return {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(),
            "command": " ".join(sys.orig_argv)}  # fmt: skip


def write(path: Path | None, record: dict) -> None:
    """Writes a record as JSON, where a file is asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
