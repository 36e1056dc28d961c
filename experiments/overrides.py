"""FIELD=VALUE on the command line of an experiment, as `--config.FIELD=VALUE` is on a run's."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from gan.errors import UserError, nearest


def override(config: ConfigDict, changes: Sequence[str]) -> None:
    """Sets fields of a config: strings as they stand, all else as Python literals. Raises `UserError` for others."""
    for change in changes:
        field, equals, text = change.partition("=")
        known = leaves(config)
        if field not in known:
            raise UserError(f"--override {change}: the config has no field {field}{nearest(field, known)}")
        if not equals:
            raise UserError(f"--override {change} is not FIELD=VALUE")
        try:
            value = text if isinstance(known[field], str) else ast.literal_eval(text)
            config.update_from_flattened_dict({field: value})
        except (SyntaxError, TypeError, ValueError, KeyError, RecursionError, MemoryError) as error:
            kind = type(known[field]).__name__
            raise UserError(f"--override {change}: no {kind}, as {known[field]!r} is") from error


def leaves(config: ConfigDict | Mapping, prefix: str = "") -> dict[str, Any]:
    """{leaf: value} of a config, leaves as `generator.learning_rate`."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat |= leaves(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
