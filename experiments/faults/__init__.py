"""Fault injection: does a run survive what can go wrong, and does it report it? See `__main__` and docs."""

from collections.abc import Iterator

from experiments.faults import clocks, datasets, disks, files, launches, memory, signals, streams
from experiments.faults.bench import Bench, Case, Lost, Skipped

__all__ = ["FAULTS", "Bench", "Case", "Lost", "Skipped", "cases"]

FAULTS = {
    fault.__name__: fault
    for fault in (
        signals.sigkill, signals.sigkill_in_a_save, signals.sigterm, signals.early_signals, files.damaged_checkpoint,
        files.damaged_folder, disks.disk_full, disks.limits, disks.read_only, datasets.data_under_a_run,
        datasets.data_between_launches, datasets.nan_in_the_data, clocks.clock, launches.two_launches, memory.memory,
        streams.pipes, streams.no_terminal,
    )
}  # fmt: skip
"""Functions of a `Bench` that yield cases, or pairs of a case's name and a function that tries it (`Attempts`).

The first line of a function's docstring is its row in the table of docs/fault_tolerance.md.
"""


def cases(bench: Bench, name: str, only: str = "", every: int = 1) -> Iterator[Case]:
    """Tries the fault `name` in all its cases, in the `only` one, or in one of `every` so many.

    Raises `Skipped` where it cannot be produced.
    """
    for index, case in enumerate(FAULTS[name](bench)):
        if isinstance(case, Case):
            yield case
            continue
        case_name, attempt = case
        if only in ("", case_name) and index % every == 0:
            try:
                yield Case(case_name, message=attempt() or "")
            except Lost as error:
                yield Case(case_name, lost=str(error))
