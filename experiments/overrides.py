"""FIELD=VALUE on the command line of an experiment, as `--config.FIELD=VALUE` is on a run's."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from gan.config.schema import COUNT_OR_AUTO, FIELDS, check_kind
from gan.errors import UserError, nearest


def override(config: ConfigDict, changes: Sequence[str]) -> None:
    """Sets fields of a config: strings as they stand, all else as Python literals. Raises `UserError` for others.

    "auto" stands as it is too, for a field that takes it or a whole number.
    """
    for change in changes:
        field, equals, text = change.partition("=")
        known = leaves(config)
        if field not in known:
            raise UserError(f"--override {change}: the config has no field {field}{nearest(field, known)}")
        if not equals:
            raise UserError(f"--override {change} is not FIELD=VALUE")
        try:
            is_text = text == "auto" if _takes_auto(field) else isinstance(known[field], str)
            assign(config, field, text if is_text else ast.literal_eval(text))
        except (SyntaxError, TypeError, ValueError, KeyError, RecursionError, MemoryError) as error:
            kind = "whole number or 'auto'" if _takes_auto(field) else type(known[field]).__name__
            raise UserError(f"--override {change}: no {kind}, as {known[field]!r} is") from error


def assign(config: ConfigDict, field: str, value: Any) -> None:
    """Sets a field to a value of its kind. Raises `TypeError`, or `UserError`, for another."""
    if not _takes_auto(field):
        config.update_from_flattened_dict({field: value})
        return
    check_kind(field, value, COUNT_OR_AUTO)
    with config.ignore_type():  # a copy of a config has the type of the value that it held
        config.update_from_flattened_dict({field: value})


def _takes_auto(field: str) -> bool:
    return FIELDS.get(field) == COUNT_OR_AUTO


def leaves(config: ConfigDict | Mapping, prefix: str = "") -> dict[str, Any]:
    """{leaf: value} of a config, leaves as `generator.learning_rate`."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat |= leaves(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
