"""Standard streams that are full, closed or without a reader, and terminals that go away."""

import contextlib
import functools
import os
import signal
import subprocess

from experiments.faults.bench import TIMEOUT_SECONDS, Attempts, Bench, Lost, expect_exit, wait_for_exit
from experiments.faults.compare import check_same_result, logged_metrics, resume_and_compare, wait_for_metrics

TAKE_TERMINAL = (
    "import fcntl, signal, termios; signal.signal(signal.SIGHUP, signal.SIG_DFL); fcntl.ioctl(2, termios.TIOCSCTTY, 0)"
)
"""Makes stderr the controlling terminal, as it is in a session of a shell, also where `nohup` started this script."""


def pipes(bench: Bench) -> Attempts:
    """stdout or stderr full, closed, or without a reader"""
    assert bench.reference
    yield "stderr is a full pipe", functools.partial(_onto_full_pipe, bench, "stderr")
    yield "stderr is a full pipe, and SIGTERM", functools.partial(_onto_full_pipe, bench, "stderr", signal.SIGTERM)
    yield "stdout is a full pipe", functools.partial(_onto_full_pipe, bench, "stdout")
    yield "the reader of stderr goes away", functools.partial(_reader_goes_away, bench, "stderr")
    yield "the reader of stdout goes away", functools.partial(_reader_goes_away, bench, "stdout")
    yield "stdout and stderr onto a full disk", functools.partial(_onto_full_disk, bench)
    yield "stdin, stdout and stderr closed", functools.partial(_closed, bench)


def _onto_full_pipe(bench: Bench, stream: str, number: int = 0) -> str:
    workdir, (reading, writing) = bench.new_folder("pipe"), full_pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb") as end:
        process = bench.launch(workdir, **{stream: end})
        if number:
            wait_for_metrics(process, workdir)
            process.send_signal(number)
        status = wait_for_exit(process).status
    if status != (128 + number if number else 0):
        raise Lost(f"status {status}")
    if number:
        resume_and_compare(bench, workdir, metrics=False)
    else:
        check_same_result(workdir, bench.reference)
    return ""


def _reader_goes_away(bench: Bench, stream: str) -> None:
    workdir = bench.new_folder("pipe")
    process = bench.launch(workdir, **{stream: subprocess.PIPE})
    if stream == "stderr":
        process.stderr.readline()
    getattr(process, stream).close()
    if process.wait(TIMEOUT_SECONDS) != 0:
        raise Lost(f"status {process.returncode}")
    check_same_result(workdir, bench.reference)


def _onto_full_disk(bench: Bench) -> None:
    workdir = bench.new_folder("pipe")
    with open("/dev/full", "w") as full_disk:
        expect_exit(wait_for_exit(bench.launch(workdir, stdout=full_disk, stderr=full_disk)), 0)
    check_same_result(workdir, bench.reference)


def _closed(bench: Bench) -> None:
    workdir = bench.new_folder("closed")
    process = bench.launch(workdir, stderr=subprocess.DEVNULL, prefix="exec 0<&- 1>&- 2>&-")
    expect_exit(wait_for_exit(process), 0)
    check_same_result(workdir, bench.reference)


def full_pipe() -> tuple[int, int]:
    """The file descriptors (reading, writing) of a pipe whose buffer is full."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, bytes(4096)):
            pass
    os.set_blocking(writing, True)
    return reading, writing


def no_terminal(bench: Bench) -> Attempts:
    """No terminal, or one that is closed in the middle of a run"""
    yield "none", functools.partial(_without_terminal, bench)
    yield "closed", functools.partial(_terminal_closed, bench)


def _without_terminal(bench: Bench) -> None:
    workdir = bench.new_folder("none")
    environment = {name: value for name, value in bench.environment.items() if name not in ("TERM", "COLUMNS")}
    expect_exit(wait_for_exit(bench.launch(workdir, environment=environment, new_session=True)), 0)
    check_same_result(workdir, bench.reference)


def _terminal_closed(bench: Bench) -> None:
    workdir, (ours, theirs) = bench.new_folder("terminal"), os.openpty()
    process = bench.launch(workdir, stderr=theirs, new_session=True, fault=TAKE_TERMINAL)
    os.close(theirs)
    wait_for_metrics(process, workdir)
    process.send_signal(signal.SIGSTOP)  # it could end before the terminal is closed
    is_complete = logged_metrics(workdir)[-1]["step"] == bench.num_steps
    os.close(ours)
    process.send_signal(signal.SIGCONT)
    status = process.wait(TIMEOUT_SECONDS)
    if status != 128 + signal.SIGHUP and not (is_complete and status == 0):
        raise Lost(f"status {status}")
    resume_and_compare(bench, workdir, metrics=False)
