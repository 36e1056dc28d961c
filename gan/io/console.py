"""The stream on which a run speaks to people. A full, slow or closed one costs lines and nothing else. Below all."""

import contextlib
import io
import os
import select
import time

PATIENCE_SECONDS = 1.0
"""How long a line waits for a reader that does not read; the next ones do not wait, until it reads again."""

ATOMIC_BYTES = 512
"""A pipe that can be written to at all has room for so many (POSIX's PIPE_BUF at least): such a write never waits."""


def fill_descriptors() -> None:
    """Opens what is closed of descriptors 0, 1 and 2, lest a file of the run gets one and is written into as stderr."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


class Stderr(io.TextIOBase):
    """Text to a descriptor. A write neither fails nor waits for long: what cannot be told is left out.

    That is: the reader of a pipe has gone away, the terminal has hung up, the disk of a log is full; or a reader stands
    still, and then the lines that it missed are counted. All that is told of a run stands in its folder too, but for
    the reason why it ended, which the exit status gives.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int = 2):
        self._descriptor = descriptor
        self._missed = 0

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Writes what can be written."""
        given = text.encode(errors="backslashreplace")
        if self._missed and self._is_ready(0.0):
            missed, self._missed = self._missed, 0
            self._put(f"({missed} writes left out here: nobody was reading)\n".encode())
        deadline = time.monotonic() + (0.0 if self._missed else PATIENCE_SECONDS)
        for start in range(0, len(given), ATOMIC_BYTES):
            if not self._is_ready(deadline - time.monotonic()):
                self._missed += 1
                break
            self._put(given[start : start + ATOMIC_BYTES])
        return len(text)

    def _is_ready(self, seconds: float) -> bool:
        poll = select.poll()  # not `select`, which knows no descriptor beyond 1023
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(1000 * max(0.0, seconds)))  # also when the other end is gone: the write then says so

    def _put(self, given: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._descriptor, given)
