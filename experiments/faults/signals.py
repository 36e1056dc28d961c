"""Signals that stop a run: SIGKILL at any moment, SIGKILL while a checkpoint is written, SIGTERM, any at start-up."""

import contextlib
import functools
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.faults.bench import Attempts, Bench, Case, Lost, expect_exit, wait_for_exit
from experiments.faults.compare import check_same_result, checkpoint_steps, complete_lines, unfinished_checkpoints

GRACE_SECONDS = 10
"""Seconds between SIGTERM and SIGKILL that a container is given."""

LOGGED = "images/s"
"""What a run logs with the metrics of a step."""

DONE = "step {steps} of {steps} done."
"""What a run logs after its last step."""

MIN_EARLY_SIGNALS = 20
"""Moments between the start and the tenth step at which a signal is tried, at least."""


def sigkill(bench: Bench) -> Iterator[Case]:
    """SIGKILL at random moments of a launch, start-up included"""
    yield from _interrupted_runs(bench, bench.kills, _random_moment(bench), _kill)


def sigkill_in_a_save(bench: Bench) -> Iterator[Case]:
    """SIGKILL while a checkpoint is written"""

    def wait(process: subprocess.Popen, workdir: Path) -> None:
        known, saves = unfinished_checkpoints(workdir), bench.rng.randint(1, min(8, bench.num_saves // 2))
        while process.poll() is None and saves:
            new = unfinished_checkpoints(workdir) - known
            known |= new
            saves = max(0, saves - len(new))
        time.sleep(0.03 * bench.rng.random())

    yield from _interrupted_runs(bench, max(2, bench.kills // 5), wait, _kill)


def sigterm(bench: Bench) -> Iterator[Case]:
    """SIGTERM at random moments, with 10 s of grace"""

    def terminate(process: subprocess.Popen) -> str:
        process.terminate()
        end = wait_for_exit(process, GRACE_SECONDS)
        is_complete = DONE.format(steps=bench.num_steps) in end.stderr
        if end.status == 0 and is_complete:
            return ""  # the signal came after the last step
        if "SIGTERM: ended at once" in end.stderr and (LOGGED not in end.stderr or is_complete):
            # Before the first step there is nothing to save, after the last one all is saved.
            return expect_exit(end, 128 + signal.SIGTERM)
        if end.status == -signal.SIGTERM and (not end.stderr or is_complete):
            return ""  # Python itself was still starting, or was ending
        return expect_exit(end, 128 + signal.SIGTERM, "SIGTERM: saved at step")

    yield from _interrupted_runs(bench, max(2, bench.kills // 5), _random_moment(bench), terminate, metrics=False)


def early_signals(bench: Bench) -> Attempts:
    """Ctrl-C or SIGTERM at moments from the start of gan.main to the tenth step"""
    count, end = max(MIN_EARLY_SIGNALS, 2 * bench.kills), seconds_to_step_ten(bench)
    for index in range(count):
        number, seconds = (signal.SIGINT, signal.SIGTERM)[index % 2], end * index / count
        yield f"{number.name} after {seconds:.2f} s", functools.partial(signal_after, bench, number, seconds)


def seconds_to_step_ten(bench: Bench) -> float:
    """Seconds from the start of gan.main to the line of the tenth step, where everything is compiled."""
    workdir = bench.new_folder("timed")
    process = _launch_of_400_steps(bench, workdir)
    wait_until_handled(process)
    start = time.monotonic()
    while process.poll() is None and not complete_lines(workdir):
        time.sleep(0.02)
    seconds = time.monotonic() - start
    process.kill()
    process.communicate()
    return seconds


def signal_after(bench: Bench, number: signal.Signals, seconds: float) -> str:
    """Sends a signal `seconds` after gan.main has started: the run ends with 128 + n, and one line that says how."""
    process = _launch_of_400_steps(bench, bench.new_folder("early"))
    wait_until_handled(process)
    time.sleep(seconds)
    process.send_signal(number)
    line = expect_exit(wait_for_exit(process), 128 + number, f"{number.name}: ")
    if "ended at once" not in line and "saved at step" not in line:
        raise Lost(f"the last line does not say how the run ended: {line}")
    return line


def wait_until_handled(process: subprocess.Popen) -> None:
    """Waits until a process handles SIGTERM: Python itself does not, and takes some 50 ms to reach gan.main."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            if int(fields["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1:
                return
        time.sleep(0.002)


def _launch_of_400_steps(bench: Bench, workdir: Path) -> subprocess.Popen:
    """Starts a run that compiles all that it needs."""
    environment = bench.environment | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    return bench.launch(
        workdir, environment=environment, steps=400, log_every=10, generator__width=8, discriminator__width=8
    )


def _random_moment(bench: Bench) -> Callable[[subprocess.Popen, Path], None]:
    def wait(process: subprocess.Popen, workdir: Path) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(bench.launch_seconds * bench.rng.random())

    return wait


def _kill(process: subprocess.Popen) -> str:
    process.kill()
    process.communicate()
    return ""


def _interrupted_runs(
    bench: Bench,
    count: int,
    wait: Callable[[subprocess.Popen, Path], None],
    interrupt: Callable[[subprocess.Popen], str],
    *,
    metrics: bool = True,
) -> Iterator[Case]:
    """Interrupts launches `count` times in all, each when `wait` returns; a run is launched again until it is complete.

    Yields a case for each interruption, and one for a run that failed before it was interrupted.
    """
    assert bench.reference
    while count:
        workdir, interruptions, complaint = bench.new_folder("interrupted"), [], ""
        try:
            while True:
                before, start = unfinished_checkpoints(workdir), time.monotonic()
                is_last = not count or bench.num_steps in checkpoint_steps(workdir)  # a complete run loses nothing
                process = bench.launch(workdir)
                if not is_last:
                    wait(process, workdir)
                if is_last or process.poll() is not None:
                    expect_exit(wait_for_exit(process), 0)
                    if not interruptions and "launch_seconds" in vars(bench):  # other load makes a launch longer
                        bench.launch_seconds = min(bench.launch_seconds, time.monotonic() - start)
                    check_same_result(workdir, bench.reference, metrics=metrics)
                    break
                count -= 1
                interruptions.append(["at once", ""])
                interruptions[-1][1] = interrupt(process)
                step = max((line["step"] for line in complete_lines(workdir)), default=0)
                is_in_save = bool(unfinished_checkpoints(workdir) - before)
                interruptions[-1][0] = f"in a save, step {step}" if is_in_save else f"step {step}"
        except Lost as error:
            complaint = str(error)
        yield from (Case(name, message, complaint) for name, message in interruptions)
        if complaint and not interruptions:
            yield Case("undisturbed", lost=complaint)
