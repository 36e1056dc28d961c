"""Overrides FIELD=VALUE of a config: `--override` of an experiment, and the values that a sweep tries."""

import ast
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from gan.config.field_names import nearest_field
from gan.config.flattening import flatten
from gan.config.schema import COUNT_OR_AUTO, FIELDS, check_kind, kind_name, whole_number
from gan.errors import UserError


def override(config: ConfigDict, changes: Sequence[str]) -> None:
    """Sets fields of a config from strings FIELD=VALUE.

    The value of a string field is taken as it is; any other value is a Python literal of the field's type, or "auto"
    where the field takes it. Raises `UserError` for an unknown field or a value of another type.
    """
    for change in changes:
        field, equals, text = change.partition("=")
        known = flatten(config)
        if field not in known:
            raise UserError(
                f"--override {change}: the config has no field {field}; nearest: {nearest_field(field, known)!r}"
            )
        if not equals:
            raise UserError(f"--override {change} is not FIELD=VALUE")
        try:
            assign(config, field, _value(field, text, known[field]))
        except (SyntaxError, TypeError, ValueError, KeyError, RecursionError, MemoryError) as error:
            kind = "a whole number or 'auto'" if _takes_auto(field) else kind_name(type(known[field]))
            raise UserError(f"--override {change} is invalid; expected: {kind}, such as {known[field]!r}") from error


def assign(config: ConfigDict, field: str, value: Any) -> None:
    """Sets a field to a value of its type. Raises `TypeError` or `UserError` for a value of another type."""
    if not _takes_auto(field):
        config.update_from_flattened_dict({field: value})
        return
    check_kind(field, value, COUNT_OR_AUTO)
    with config.ignore_type():  # a copy of a config has the type of the value that it held
        config.update_from_flattened_dict({field: value})


def _value(field: str, text: str, present: Any) -> Any:
    """The value that a text means for a field that holds `present`."""
    if text == "auto" if _takes_auto(field) else isinstance(present, str):
        return text
    return whole_number(text) if type(present) is int else ast.literal_eval(text)


def _takes_auto(field: str) -> bool:
    return FIELDS.get(field) == COUNT_OR_AUTO
