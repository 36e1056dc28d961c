"""Launches the runs of trials, as `python -m gan.main` or as a population, and reads the files that they write.

Each run has a process of its own, although a launch costs some seconds of imports: its memory is freed with the
process, and a crash ends only one trial. Compatible trials can share a process, see experiments.sweep.population.
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

from experiments.sweep.experiment import Experiment
from gan.errors import UserError, nearest
from gan.io import workdir

POLL_SECONDS = 0.5

DIVERGED = 3
"""The exit status of a run that diverged; see gan.main."""

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGHUP)
"""The exit statuses of a run that was stopped and has saved everything."""

FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that end a process without a mistake of its own. A lack of memory sends SIGKILL."""

POPULATION = "experiments.sweep.population"
"""The module that trains several runs as a population."""

POPULATION_SIZE = "experiments.sweep.population_size"
"""The module that prints how many runs are trained fastest together."""


class StopSignal:
    """Records SIGINT and SIGTERM while the context is open. Whoever waits for a run checks it regularly."""

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
    """The objective at one step of a run."""

    step: int
    value: float


class End(NamedTuple):
    """How a run ended: its exit status, whether this worker stopped it, and its last message."""

    status: int
    stopped: bool
    message: str

    @property
    def is_crash(self) -> bool:
        """Whether the run failed."""
        return self.status not in (0, DIVERGED, *STOPPED)

    @property
    def killed_by(self) -> str:
        """The name of the signal that killed the run from outside, or an empty string."""
        return signal.Signals(-self.status).name if -self.status in FROM_OUTSIDE else ""


class Run(NamedTuple):
    """A run to launch or to resume."""

    command: list[str]
    folder: Path
    should_stop: Callable[[], bool]
    """Called regularly: whether to stop the run early."""


def command(base: str, folder: Path, flags: Sequence[str]) -> list[str]:
    """The command that launches the run, or resumes it."""
    return ["python", "-m", "gan.main", f"--config={base}", f"--workdir={folder}", *flags]


def train(runs: Sequence[Run], stop_signal: StopSignal) -> list[End]:
    """Launches a run, or several as a population, and waits for the end.

    A run is stopped with SIGINT, so that it saves everything. Its output is appended to output.txt in its folder. If a
    population crashes, each member is returned as crashed.
    """
    for run in runs:
        _wait_until_free(run.folder, stop_signal)
    if stop_signal.signal:
        return [End(128 + stop_signal.signal, True, "")] * len(runs)
    for run in runs:
        run.folder.mkdir(parents=True, exist_ok=True)
        with open(run.folder / "output.txt", "a") as output:
            print(f"$ {shlex.join(run.command)}", file=output)
            if run is not runs[0]:
                print(f"$ # in one population with others: see output.txt of {runs[0].folder}", file=output)
    ends = _alone(runs[0], stop_signal) if len(runs) == 1 else _as_population(runs, stop_signal)
    for run in runs:
        run.should_stop()  # reads the last reports
    return ends


def best_population(run_command: Sequence[str]) -> int:
    """How many runs like the one of `run_command` are trained fastest together on this machine."""
    command = [sys.executable, "-m", POPULATION_SIZE, *run_command[3:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return 1 if done.returncode else int(done.stdout.split()[-1])  # the trial itself will report what is wrong


def _alone(run: Run, stop_signal: StopSignal) -> list[End]:
    with open(run.folder / "output.txt", "a") as output:
        process = _launch(run.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    stopped = _watch(process, run.should_stop, stop_signal)
    return [End(process.returncode, stopped, _last_message(run.folder))]


def _as_population(runs: Sequence[Run], stop_signal: StopSignal) -> list[End]:
    stopped = [False] * len(runs)
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(open(runs[0].folder / "output.txt", "a"))
        ends = stack.enter_context(tempfile.TemporaryFile())
        process = _launch(["python", "-m", POPULATION], stdin=subprocess.PIPE, stdout=ends, stderr=output)

        def send(message: object) -> None:
            with contextlib.suppress(BrokenPipeError):  # the process has ended, which `_watch` notices
                process.stdin.write(json.dumps(message).encode() + b"\n")
                process.stdin.flush()

        def stop_members() -> bool:
            for number, run in enumerate(runs):
                if not stopped[number] and run.should_stop():
                    stopped[number] = True
                    send(number)
            return False

        send([run.command[3:] for run in runs])
        interrupted = _watch(process, stop_members, stop_signal)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        if process.returncode:
            return [End(process.returncode, interrupted, _last_message(runs[0].folder))] * len(runs)
        ends.seek(0)
        results = json.loads(ends.read())
    return [End(status, stopped[number] or interrupted, why) for number, (status, why) in enumerate(results)]


def _launch(command: Sequence[str], **streams: Any) -> subprocess.Popen:
    # In a session of its own, so that Ctrl-C reaches the run once: through this worker.
    return subprocess.Popen([sys.executable, *command[1:]], start_new_session=True, **streams)


def _watch(process: subprocess.Popen, should_stop: Callable[[], bool], stop_signal: StopSignal) -> bool:
    """Waits for the end of a process. Returns whether it was stopped, by `should_stop` or by a signal to the worker."""
    stopped = False
    try:
        while process.poll() is None:
            if not stopped and (stop_signal.signal or should_stop()):
                # Not SIGTERM: a batch system may have sent one to the run already, and a second one ends it unsaved.
                process.send_signal(signal.SIGINT)
                stopped = True
            if stop_signal.count > 1:
                process.kill()
            _wait(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()
    return stopped


def reports(folder: Path, experiment: Experiment) -> list[Report]:
    """The objective of a run so far. Raises `UserError` if the run reports metrics, but not this one."""
    objective = experiment.objective.removeprefix("training.")
    found = []
    for line in _lines(folder / ("metrics.jsonl" if experiment.is_training_metric else "evaluations.jsonl")):
        metrics = {name: value for name, value in line.items() if name != "step"}
        matching = [name for name in metrics if name.startswith(f"{objective}_") and not name.endswith("_std")]
        if objective in metrics:
            found.append(Report(line["step"], metrics[objective]))
        elif len(matching) == 1:
            found.append(Report(line["step"], metrics[matching[0]]))
        else:
            valid = [*metrics, *(name.rpartition("_")[0] for name in metrics)]
            where = "metrics.jsonl" if experiment.is_training_metric else "evaluations"
            raise UserError(
                f"no trial reports the objective {experiment.objective!r}{nearest(objective, valid)}; {where} of "
                f"{folder} has: {', '.join(sorted(metrics))}"
            )
    return found


def value_of(found: Sequence[Report], experiment: Experiment) -> float:
    """The trial's value: its last report, or its best one."""
    if not experiment.best:
        return found[-1].value
    return (min if experiment.minimize else max)(report.value for report in found)


def progress(folder: Path) -> tuple[int, float]:
    """The images that a run has seen, and its seconds of training, without start-up and evaluations."""
    seconds, step, images = 0.0, 0, 0
    for line in _lines(folder / "metrics.jsonl", "images", "seconds_per_step"):
        seconds += line["seconds_per_step"] * (line["step"] - step)
        step, images = line["step"], line["images"]
    return images, seconds


def _wait_until_free(folder: Path, stop_signal: StopSignal) -> None:
    """Waits while the run of a killed worker is still training by itself; it is resumed from where that ends."""
    while not stop_signal.signal:
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
    """The lines of a file of a run. The last one may be unfinished. Raises `UserError` for any other damage."""
    if not path.exists():
        return
    lines = path.read_text(errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            metrics = json.loads(line)
        except (ValueError, RecursionError):
            metrics = {}
        is_valid = isinstance(metrics, dict) and all(type(value) in (int, float) for value in metrics.values())
        if is_valid and metrics.keys() >= {"step", *needed}:
            yield metrics
        elif number < len(lines):
            raise UserError(f"{path}: line {number} is damaged; delete the run's folder to train the trial again")


def _last_message(folder: Path) -> str:
    text = (folder / "output.txt").read_text(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith("$ ")), "")
