"""One trial: an ordinary run, `python -m gan.main` in a process of its own, watched through the files that it writes.

A process, though a launch costs some seconds of imports: what a run leaves behind, memory or a crash, ends with it, and
programs have to be compiled anew either way, for a run's rates and seed are constants in them.
"""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.study.space import Experiment
from gan import workdir
from gan.errors import UserError, nearest

POLL_SECONDS = 0.5

DIVERGED = 3
"""The exit status of a run that diverged, see gan.main."""

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Those of a run that was stopped and has saved everything."""


class Interruption:
    """Notes SIGINT and SIGTERM, to be acted on between two looks at the run."""

    def __init__(self):
        self.signal, self.count = 0, 0

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.signal, self.count = number, self.count + 1


class Report(NamedTuple):
    """The objective at one time of a run."""

    step: int
    value: float


class End(NamedTuple):
    """How a run ended: its exit status, whether it was stopped by the watcher, and its last words."""

    status: int
    stopped: bool
    last_words: str


def command(base: str, folder: Path, flags: Sequence[str]) -> list[str]:
    """What is typed to launch the run, or to go on with it."""
    return ["python", "-m", "gan.main", f"--config={base}", f"--workdir={folder}", *flags]


def play(typed: Sequence[str], folder: Path, enough: Callable[[], bool], interruption: Interruption) -> End:
    """Launches the run in `folder` and waits for its end; `enough` is asked every now and then whether to stop it.

    A run is stopped as by Ctrl-C: with everything saved. Its output is added to output.txt in its folder.
    """
    _wait_until_free(folder, interruption)
    if interruption.signal:
        return End(128 + interruption.signal, True, "")
    with open(folder / "output.txt", "a") as output:
        print(f"$ {shlex.join(typed)}", file=output, flush=True)
        process = subprocess.Popen(
            [sys.executable, *typed[1:]],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,  # Ctrl-C reaches us, and through us the run: once
        )  # fmt: skip
    stopped = False
    try:
        while process.poll() is None:
            if not stopped and (interruption.signal or enough()):
                # Not SIGTERM, which a batch system may have sent to it already: a second one would end it unsaved.
                process.send_signal(signal.SIGINT)
                stopped = True
            if interruption.count > 1:
                process.kill()
            _wait(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()
    enough()  # what it reported at the end
    return End(process.returncode, stopped, _last_words(folder / "output.txt"))


def reports(folder: Path, experiment: Experiment) -> list[Report]:
    """The objective through a run, so far. Raises `UserError` where the run reports other figures, but not this one."""
    wanted = experiment.objective.removeprefix("training.")
    found = []
    for line in _lines(folder / ("metrics.jsonl" if experiment.is_of_training else "evaluations.jsonl")):
        figures = {name: value for name, value in line.items() if name != "step"}
        like = [name for name in figures if name.startswith(f"{wanted}_") and not name.endswith("_sd")]
        if wanted in figures:
            found.append(Report(line["step"], figures[wanted]))
        elif len(like) == 1:
            found.append(Report(line["step"], figures[like[0]]))
        else:
            legal = [*figures, *(name.rpartition("_")[0] for name in figures)]
            where = "metrics.jsonl" if experiment.is_of_training else "evaluations"
            raise UserError(
                f"no trial reports the objective {experiment.objective!r}{nearest(wanted, legal)}; {where} of "
                f"{folder} has: {', '.join(sorted(figures))}"
            )
    return found


def value_of(found: Sequence[Report], experiment: Experiment) -> float:
    """The trial's value: its last report, or its best one."""
    if not experiment.best:
        return found[-1].value
    return (min if experiment.minimise else max)(report.value for report in found)


def trained(folder: Path) -> tuple[int, float]:
    """The images that a run has seen, and its seconds of training: neither starts nor evaluations."""
    seconds, step, images = 0.0, 0, 0
    for line in _lines(folder / "metrics.jsonl"):
        seconds += line["seconds_per_step"] * (line["step"] - step)
        step, images = line["step"], line["images"]
    return images, seconds


def _wait_until_free(folder: Path, interruption: Interruption) -> None:
    """A killed worker's run may still go on by itself: then it has done that much more when we go on with it."""
    while not interruption.signal:
        try:
            with workdir.lock(folder):
                return
        except workdir.InUse:
            time.sleep(POLL_SECONDS)


def _wait(process: subprocess.Popen) -> None:
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return


def _lines(path: Path) -> Iterator[dict[str, float]]:
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # it is being written
            return


def _last_words(path: Path) -> str:
    told = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(told) if not line.startswith("$ ")), "")
