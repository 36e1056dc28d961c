"""The two ways a run ends badly on purpose: the user's mistake (exit 2) and divergence (exit 3).

Everything else that is raised is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake in a flag, a field or a file. The message is one line: what is wrong, what is legal."""


class Told(UserError):
    """A mistake that another process of the run tells."""


class Diverged(Exception):
    """A figure of the training step is not finite. The message names the step and the term."""


def nearest(name: str, legal: Iterable[str]) -> str:
    """`"; nearest: 'x'"` for the legal name most like `name`, or `""` where none is alike."""
    match = difflib.get_close_matches(str(name), [str(entry) for entry in legal], n=1, cutoff=0.5)
    return f"; nearest: {match[0]!r}" if match else ""


def lookup(table: Mapping[str, T], name: str, field: str) -> T:
    """`table[name]`, or a `UserError` that names the config field, the nearest and all legal names."""
    if name in table:
        return table[name]
    raise UserError(f"{field}={name!r} is unknown{nearest(name, table)}; legal: {', '.join(sorted(table))}")
