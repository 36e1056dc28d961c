"""Trials as they run, watched through the files that they write: `python -m gan.main`, or several as a population.

A process of its own, though a launch costs some seconds of imports: what a run leaves behind, memory or a crash, ends
with it. Trials of one game can share one, see experiments.study.together.
"""

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.study.space import Experiment
from gan.errors import UserError, nearest
from gan.io import workdir

POLL_SECONDS = 0.5

DIVERGED = 3
"""The exit status of a run that diverged, see gan.main."""

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Those of a run that was stopped and has saved everything."""

TOGETHER = "experiments.study.together"
"""What plays several runs as a population."""

SIZE = "experiments.study.size"
"""What says how many are best played so."""


class StopSignal:
    """Notes SIGINT and SIGTERM, to be acted on between two looks at the run."""

    def __init__(self):
        self.signal, self.count = 0, 0

    def __enter__(self) -> "StopSignal":
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

    @property
    def is_crash(self) -> bool:
        """Whether it ended as no run should."""
        return self.status not in (0, DIVERGED, *STOPPED)


class Run(NamedTuple):
    """A run to be played."""

    typed: list[str]
    """What is typed to launch it, or to go on with it."""
    folder: Path
    enough: Callable[[], bool]
    """Is asked every now and then whether to stop it."""


def command(base: str, folder: Path, flags: Sequence[str]) -> list[str]:
    """What is typed to launch the run, or to go on with it."""
    return ["python", "-m", "gan.main", f"--config={base}", f"--workdir={folder}", *flags]


def play(runs: Sequence[Run], interruption: StopSignal) -> list[End]:
    """Launches a run, or several as a population, and waits for the end.

    A run is stopped as by Ctrl-C: with everything saved. Its output is added to output.txt in its folder. A population
    that crashes says so of every member.
    """
    for run in runs:
        _wait_until_free(run.folder, interruption)
    if interruption.signal:
        return [End(128 + interruption.signal, True, "")] * len(runs)
    for run in runs:
        with open(run.folder / "output.txt", "a") as output:
            print(f"$ {shlex.join(run.typed)}", file=output)
            if run is not runs[0]:
                print(f"$ # together with others: see output.txt of {runs[0].folder}", file=output)
    ends = _alone(runs[0], interruption) if len(runs) == 1 else _together(runs, interruption)
    for run in runs:
        run.enough()  # what it reported at the end
    return ends


def best_together(typed: Sequence[str]) -> int:
    """How many runs like the one that is typed are best played at once on this machine."""
    asked = subprocess.run([sys.executable, "-m", SIZE, *typed[3:]], capture_output=True, text=True, check=False)
    return 1 if asked.returncode else int(asked.stdout.split()[-1])  # what is wrong with it the trial itself will tell


def _alone(run: Run, interruption: StopSignal) -> list[End]:
    with open(run.folder / "output.txt", "a") as output:
        process = _launch(run.typed, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    stopped = _watch(process, run.enough, interruption)
    return [End(process.returncode, stopped, _last_words(run.folder))]


def _together(runs: Sequence[Run], interruption: StopSignal) -> list[End]:
    stopped = [False] * len(runs)
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(open(runs[0].folder / "output.txt", "a"))
        ends = stack.enter_context(tempfile.TemporaryFile())
        process = _launch(["python", "-m", TOGETHER], stdin=subprocess.PIPE, stdout=ends, stderr=output)

        def say(what: object) -> None:
            with contextlib.suppress(BrokenPipeError):  # it has ended: how is seen at once
                process.stdin.write(json.dumps(what).encode() + b"\n")
                process.stdin.flush()

        def give_up() -> bool:
            for number, run in enumerate(runs):
                if not stopped[number] and run.enough():
                    stopped[number] = True
                    say(number)
            return False

        say([run.typed[3:] for run in runs])
        interrupted = _watch(process, give_up, interruption)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        if process.returncode:
            return [End(process.returncode, interrupted, _last_words(runs[0].folder))] * len(runs)
        ends.seek(0)
        told = json.loads(ends.read())
    return [End(status, stopped[number] or interrupted, why) for number, (status, why) in enumerate(told)]


def _launch(typed: Sequence[str], **streams: Any) -> subprocess.Popen:
    # A session of its own: Ctrl-C reaches us, and through us the run: once.
    return subprocess.Popen([sys.executable, *typed[1:]], start_new_session=True, **streams)


def _watch(process: subprocess.Popen, enough: Callable[[], bool], interruption: StopSignal) -> bool:
    """Waits for the end of a process. Stops it if `enough` says so, or if we are interrupted: then it is True."""
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
    return stopped


def reports(folder: Path, experiment: Experiment) -> list[Report]:
    """The objective through a run, so far. Raises `UserError` where the run reports other figures, but not this one."""
    wanted = experiment.objective.removeprefix("training.")
    found = []
    for line in _lines(folder / ("metrics.jsonl" if experiment.is_of_training else "evaluations.jsonl")):
        figures = {name: value for name, value in line.items() if name != "step"}
        like = [name for name in figures if name.startswith(f"{wanted}_") and not name.endswith("_std")]
        if wanted in figures:
            found.append(Report(line["step"], figures[wanted]))
        elif len(like) == 1:
            found.append(Report(line["step"], figures[like[0]]))
        else:
            valid = [*figures, *(name.rpartition("_")[0] for name in figures)]
            where = "metrics.jsonl" if experiment.is_of_training else "evaluations"
            raise UserError(
                f"no trial reports the objective {experiment.objective!r}{nearest(wanted, valid)}; {where} of "
                f"{folder} has: {', '.join(sorted(figures))}"
            )
    return found


def value_of(found: Sequence[Report], experiment: Experiment) -> float:
    """The trial's value: its last report, or its best one."""
    if not experiment.best:
        return found[-1].value
    return (min if experiment.minimize else max)(report.value for report in found)


def trained(folder: Path) -> tuple[int, float]:
    """The images that a run has seen, and its seconds of training: neither starts nor evaluations."""
    seconds, step, images = 0.0, 0, 0
    for line in _lines(folder / "metrics.jsonl", "images", "seconds_per_step"):
        seconds += line["seconds_per_step"] * (line["step"] - step)
        step, images = line["step"], line["images"]
    return images, seconds


def _wait_until_free(folder: Path, interruption: StopSignal) -> None:
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


def _lines(path: Path, *needed: str) -> Iterator[dict[str, float]]:
    """The lines of a file that a run writes. The last may be half written; any other that is damaged is told."""
    if not path.exists():
        return
    lines = path.read_text(errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            figures = json.loads(line)
        except (ValueError, RecursionError):
            figures = {}
        sound = isinstance(figures, dict) and all(type(value) in (int, float) for value in figures.values())
        if sound and figures.keys() >= {"step", *needed}:
            yield figures
        elif number < len(lines):
            raise UserError(f"{path}: line {number} is damaged. Delete the run's folder: the trial is played again")


def _last_words(folder: Path) -> str:
    text = (folder / "output.txt").read_text(errors="replace")
    told = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(told) if not line.startswith("$ ")), "")
