"""The errors that a run ends with on purpose: a mistake of the user (exit status 2) and divergence (exit status 3).

A failure of the machine, such as a full disk or too little memory, is reported like a mistake: one line that says what
to do. Every other exception is a bug and keeps its traceback.
"""

import contextlib
import difflib
import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or raise the quota",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it accessible",
    errno.EPERM: "make it accessible",
    errno.EIO: "check the disk",
    errno.ESTALE: "mount it again",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs",
}
"""Failures of a disk or of the operating system that can happen at any time, and what to do about each."""

OUT_OF_MEMORY = ("resource_exhausted", "out of memory", "out_of_memory", "bad_alloc", "alloc_failed",
                 "cannot allocate memory")  # fmt: skip
"""How XLA, CUDA, its libraries and the system say, in upper or lower case, that memory is exhausted.

XLA reports it as RESOURCE_EXHAUSTED on a GPU or TPU, and at run time on a CPU as INTERNAL.
"""

OTHER_NAMES: Mapping[str, str] = {
    "wgan": "wasserstein", "lsgan": "least_squares", "ls": "least_squares", "mse": "least_squares",
    "bce": "non_saturating", "vanilla": "non_saturating", "rpgan": "relativistic", "ragan": "relativistic_average",
    "fid": "frechet", "kid": "kernel", "is": "inception_score", "precision": "prdc", "recall": "prdc",
    "gp": "wgan_gp", "gradient_penalty": "wgan_gp",
}  # fmt: skip
"""The names that papers and other libraries use, and the same thing's name here."""

MAX_CHARACTERS = 2000
"""Characters of a reported line. The middle of a longer one is left out."""

MISTAKE = 2
"""The exit status of a mistake of the user's."""


class UserError(Exception):
    """A mistake in a flag, a field or a file. The message is one line: what is wrong, and what is valid."""

    def __str__(self) -> str:
        """The message with unprintable characters escaped: the name of a file may contain a newline."""
        line = printable(super().__str__())
        half = MAX_CHARACTERS // 2
        return line if len(line) <= MAX_CHARACTERS else f"{line[:half]} ... {line[-half:]}"


class Reported(UserError):
    """A mistake that another process of the run reports."""


class Diverged(Exception):
    """A metric of the training step is not finite. The message names the step, the metric and the last checkpoint."""


def printable(text: str) -> str:
    """The text on one line that any stream can hold: other characters, such as those of a file name, are escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def report(error: object) -> int:
    """Prints `error: ...` on stderr. Returns the exit status of a mistake, 2."""
    print(f"error: {error}", file=sys.stderr)
    return MISTAKE


@contextlib.contextmanager
def machine_failures(where: str) -> Iterator[None]:
    """Within it, a failure of the machine is raised as a one-line `UserError`.

    `where` is named where the error does not name a file.
    """
    try:
        yield
    except (UserError, Diverged):
        raise
    except Exception as error:
        if line := machine_failure(error, where):
            raise UserError(line) from error
        raise


def machine_failure(error: BaseException, where: str = "a file", instead: str = "") -> str:
    """One line for an error that is, or was caused by, a failure of the disk or of memory; else an empty string.

    Args:
      error: which may have been caused by others.
      where: named where the error does not name a file.
      instead: what helps beside the remedy for a disk, such as another folder.
    """
    link: BaseException | None = error
    while link is not None:
        line = _disk_failure(link, where, instead) or _memory_failure(link)
        if line:
            return line
        link = link.__cause__ or link.__context__
    return ""


def _disk_failure(error: BaseException, where: str, instead: str) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number is None:  # Orbax and TensorStore pass on the text of an error without its number
        number = next((code for code in REMEDIES if os.strerror(code) in str(error)), None)
    if number not in REMEDIES:
        return ""
    remedy = f"{REMEDIES[number]}, or {instead}" if instead else REMEDIES[number]
    return (
        f"{getattr(error, 'filename', None) or where}: {os.strerror(number)}: {remedy}; the last checkpoint, if there "
        f"is one, is intact, and the same command resumes from it"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is too little memory, on a device or on the host."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY)


def _memory_failure(error: BaseException) -> str:
    if not is_out_of_memory(error):
        return ""
    text = " ".join(str(error).split())
    return (
        f"out of memory ({text[:160] or type(error).__name__}): raise config.microbatches ('auto' chooses it for the "
        f"device); config.data.on_device='never' keeps the examples off the device; in a new run, reduce "
        f"config.batch_size, the width of a network, or the size of the images"
    )


def last_line(error: BaseException) -> str:
    """The last line of an error's message, of an error of any kind."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # an exception class of the user's own may fail to format itself
        lines = []
    return lines[-1].strip() if lines else "no message"


def nearest(name: str, valid: Iterable[str]) -> str:
    """`"; nearest: 'x'"` for the valid name of the same thing or most similar to `name`; `""` where none is."""
    entries = [str(entry) for entry in valid]
    other = OTHER_NAMES.get(str(name).strip().lower())
    match = [other] if other in entries else difflib.get_close_matches(str(name), entries, n=1, cutoff=0.5)
    return f"; nearest: {match[0]!r}" if match else ""


def lookup(table: Mapping[str, T], name: str, field: str) -> T:
    """`table[name]`. Raises a `UserError` that names the config field, the nearest name and all valid names."""
    if name in table:
        return table[name]
    raise UserError(f"{field}={name!r} is unknown{nearest(name, table)}; expected: {', '.join(sorted(table))}")
