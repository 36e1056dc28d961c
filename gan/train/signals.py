"""Signals that stop a command: before the first step they end it at once, later they are noted and acted on.

Importing this module loads nothing slow: `gan.main` calls `end_at_once` before its other imports.
"""

import os
import signal
import threading
import time
from typing import Any

from gan.io import atomic, console

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that stop a run. SIGHUP comes when the terminal is closed."""

RELAY_SECONDS = 1.0
"""A different signal within this time of the first is the same request: a batch system signals every process, and a
sweep's worker, which is one of them, passes its own on to its run."""

_ended = threading.Lock()


def end_at_once() -> None:
    """From now on, a signal in STOPPING ends the process at once with status 128 + n and one line.

    It neither raises an exception nor runs destructors: an exception in the middle of XLA's compilation ends in a
    segmentation fault, and one in a callback of a library is lost. A launch after it finds what one after a SIGKILL
    finds, which is tested. Python runs a handler between two bytecodes of the main thread, which a compilation can
    delay for minutes, so a thread of its own ends the process.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in _handled():
        signal.signal(number, _end)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_restore_defaults)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()


class StopSignal:
    """Notes the first of the signals in STOPPING, to be acted on between two steps; a second one ends the process.

    The second may be another one of them: a different one counts after RELAY_SECONDS, and the same one at once.
    Signals are noted from `begin` to the end of the context. SIGHUP is not, where the run was launched to ignore it
    (`nohup`).
    """

    def __init__(self):
        self.signal = 0
        self._noted = 0.0
        self._steps = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        return self

    def begin(self) -> None:
        """Notes signals from now on. A run calls it once there is a step to save; a second call does nothing."""
        if not self._before:
            self._before = {number: signal.signal(number, self._note) for number in _handled()}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, count: int, every: int, metrics: Any) -> int:
        """The signal that is to end the run now, or 0: the same on all processes.

        To be asked after every dispatch, of `count` steps that compute `metrics`. Several processes ask each other
        after `every` steps, and wait for them: see `gan.parallel.processes`.
        """
        import jax  # late, as `end_at_once` needs it

        from gan.parallel import processes

        if processes.process_count() == 1:
            return self.signal
        self._steps += count
        if self._steps < every:
            return 0
        self._steps = 0
        jax.block_until_ready(metrics)
        return processes.process_max(self.signal)

    def _note(self, number: int, frame: object) -> None:
        if self.signal and time.monotonic() - self._noted > RELAY_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.signal:
            self.signal, self._noted = number, time.monotonic()
        signal.signal(number, signal.SIG_DFL)


def _handled() -> list[int]:
    return [number for number in STOPPING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def _watch(reading: int) -> None:
    while True:
        for number in os.read(reading, 64):
            if number in STOPPING and signal.getsignal(number) is _end:
                _end(number, None)


def _end(number: int, frame: object = None) -> None:
    if _ended.acquire(blocking=False):  # the thread and the handler may both come here: there is one line
        name = signal.Signals(number).name
        atomic.remove_unfinished()
        console.Stderr().write(f"{name}: ended at once; the same command begins again, or resumes\n")
        os._exit(128 + number)


def _restore_defaults() -> None:
    """In a forked process, which has no watching thread, and must not write into the pipe of its parent."""
    signal.set_wakeup_fd(-1)
    for number in STOPPING:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)
