"""The stderr of a run: where it is full, slow or closed, lines are lost and the run continues."""

import contextlib
import io
import os
import select
import time

PATIENCE_SECONDS = 1.0
"""How long a line waits for a reader that does not read. Later lines do not wait until the reader reads again."""

ATOMIC_BYTES = 512
"""A pipe that is ready for writing takes at least this many bytes (POSIX: PIPE_BUF), so such a write never blocks."""


def fill_descriptors() -> None:
    """Opens those of the descriptors 0, 1 and 2 that are closed; a file of the run could get the number of stderr."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def show(text: str) -> None:
    """Prints a text on stdout. What its reader does not want, as `head` after its lines, is dropped."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes stdout once more at its end


class Stderr(io.TextIOBase):
    """A text stream to a descriptor. A write neither fails nor blocks for long; text that cannot be written is dropped.

    Text is dropped where the reader of a pipe is gone, the terminal has hung up, or the disk of a log is full. Where a
    reader does not read, the dropped writes are counted. The folder of the run has all metrics, and the exit status
    says how the run ended.
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
        """Writes as much of the text as possible."""
        content = text.encode(errors="backslashreplace")
        if self._missed and self._is_ready(0.0):
            missed, self._missed = self._missed, 0
            self._put(f"({missed} writes dropped here: no reader)\n".encode())
        deadline = time.monotonic() + (0.0 if self._missed else PATIENCE_SECONDS)
        for start in range(0, len(content), ATOMIC_BYTES):
            if not self._is_ready(deadline - time.monotonic()):
                self._missed += 1
                break
            self._put(content[start : start + ATOMIC_BYTES])
        return len(text)

    def _is_ready(self, seconds: float) -> bool:
        poll = select.poll()  # `select` does not support descriptors above 1023
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(1000 * max(0.0, seconds)))  # also true where the reader is gone: the write then fails

    def _put(self, content: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._descriptor, content)
