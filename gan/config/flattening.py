"""A config as one flat mapping from dotted names, such as `generator.learning_rate`, to values."""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from gan.errors import UserError

MAX_DEPTH = 8
"""Levels of a config. A config that contains itself has more."""


def flatten(config: Mapping[str, Any] | ConfigDict, where: str = "config") -> dict[str, Any]:
    """{dotted name: value} of every field, in the config's order. `where` names the config in an error message.

    Raises `UserError` where the config contains itself, or a name is not a string.
    """
    return dict(_fields(config, where, "", 1))


def _fields(config: Mapping[str, Any] | ConfigDict, where: str, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > MAX_DEPTH:
        raise UserError(f"{where}.{prefix[:40]}... contains itself")
    for name, value in config.items():
        if not isinstance(name, str):
            raise UserError(f"{where}.{prefix}{str(name)[:40]} is not a field's name; expected: a string")
        if isinstance(value, Mapping | ConfigDict):
            yield from _fields(value, where, f"{prefix}{name}.", depth + 1)
        else:
            yield f"{prefix}{name}", value
