"""The two ways a run ends badly on purpose: the user's mistake (exit 2) and divergence (exit 3).

What the machine refuses, a full disk or too little memory, is told like a mistake: in one line that says what to do.
Everything else that is raised is a bug and keeps its traceback.
"""

import contextlib
import difflib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

REFUSALS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or raise the quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it accessible",
    errno.EPERM: "make it accessible",
    errno.EIO: "look after the disk",
    errno.ESTALE: "mount it again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
}
"""What a disk or the system may refuse at any time, and what helps."""


LONGEST = 2000
"""Characters of a line that is told; of a longer one, its beginning and its end."""


class UserError(Exception):
    """A mistake in a flag, a field or a file. The message is one line: what is wrong, what is valid."""

    def __str__(self) -> str:
        """The message as a terminal may show it: a file's name may hold anything, a line's end too."""
        line = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode()
            for character in super().__str__()
        )
        return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


class Reported(UserError):
    """A mistake that another process of the run tells."""


class Diverged(Exception):
    """A figure of the training step is not finite. The message names the step and the term."""


@contextlib.contextmanager
def machine_failures(where: str) -> Iterator[None]:
    """Inside, what the machine refuses is raised as a `UserError` of one line, `where` in place of an unknown file."""
    try:
        yield
    except (UserError, Diverged):
        raise
    except Exception as error:
        if line := machine_failure(error, where):
            raise UserError(line) from error
        raise


def machine_failure(error: BaseException, where: str = "a file") -> str:
    """One line for an error, or one that it came from, which the machine is to blame for: disk or memory; else ""."""
    link: BaseException | None = error
    while link is not None:
        line = _of_the_disk(link, where) or _of_the_memory(link)
        if line:
            return line
        link = link.__cause__ or link.__context__
    return ""


def _of_the_disk(error: BaseException, where: str) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number is None:  # Orbax and TensorStore hand on no number, but its text
        number = next((code for code in REFUSALS if os.strerror(code) in str(error)), None)
    if number not in REFUSALS:
        return ""
    return (
        f"{getattr(error, 'filename', None) or where}: {os.strerror(number)}: {REFUSALS[number]}; the last checkpoint "
        f"stands, and the same command goes on from it"
    )


def _of_the_memory(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in text:
        return ""
    return (
        f"out of memory ({text[:160] or type(error).__name__}): reduce config.batch_size, or raise "
        f"config.microbatches ('auto': as far as the device needs); or reduce a player's width, or the images' size; "
        f"data.on_device='never' keeps the examples off the device"
    )


def nearest(name: str, valid: Iterable[str]) -> str:
    """`"; nearest: 'x'"` for the valid name most like `name`, or `""` where none is alike."""
    match = difflib.get_close_matches(str(name), [str(entry) for entry in valid], n=1, cutoff=0.5)
    return f"; nearest: {match[0]!r}" if match else ""


def lookup(table: Mapping[str, T], name: str, field: str) -> T:
    """`table[name]`, or a `UserError` that names the config field, the nearest and all valid names."""
    if name in table:
        return table[name]
    raise UserError(f"{field}={name!r} is unknown{nearest(name, table)}; expected: {', '.join(sorted(table))}")
