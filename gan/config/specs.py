"""Strings in a config that name a function: `name` or `name(1.0, key=2)`, with literals only.

Losses, priors, initializers and schedules are chosen with such strings.
"""

import ast
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gan.config.schema import check_kind
from gan.errors import UserError, lookup

MAX_CHARACTERS = 1000
"""The longest name with its arguments."""


def parse(text: str, field: str) -> tuple[str, list, dict]:
    """Splits `name(1, key=2)` into `("name", [1], {"key": 2})`; a bare `name` has no arguments.

    Only Python literals are accepted as arguments: nothing in the string is executed.
    """
    try:
        if len(text) > MAX_CHARACTERS:
            raise ValueError
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise ValueError
        arguments = [ast.literal_eval(argument) for argument in node.args]
        keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
        if None in keywords:  # **mapping
            raise ValueError
        return node.func.id, arguments, keywords
    except (
        SyntaxError,
        ValueError,
        TypeError,
        RecursionError,
        MemoryError,
    ) as error:  # the last two: too deep
        raise UserError(
            f"{field}={text!r} is not a name or a call with literals, such as 'name(1.0, key=2)'"
        ) from error


def call(table: Mapping[str, Callable], text: str, field: str) -> Any:
    """Looks up the name of `text` in `table` and calls the entry with the arguments of `text`.

    Raises `UserError` for an unknown name, for arguments that the entry does not take, and for arguments whose type is
    not the annotated one: int, float, bool or str.
    """
    return bound(table, text, field)()


def bound(table: Mapping[str, Callable], text: str, field: str) -> Callable[[], Any]:
    """The call of `call`, checked as there and not made."""
    name, arguments, keywords = parse(text, field)
    entry = lookup(table, name, field)
    signature = inspect.signature(entry)
    try:
        given = signature.bind(*arguments, **keywords).arguments
    except TypeError as error:
        raise UserError(f"{field}={text!r}: {error}; expected: {name}({_shown(signature)})") from error
    for argument, value in given.items():
        if signature.parameters[argument].annotation in (int, float, bool, str):
            check_kind(f"{field}={text!r}: {argument}", value, signature.parameters[argument].annotation)
    return functools.partial(entry, *arguments, **keywords)


def _shown(signature: inspect.Signature) -> str:
    """The arguments as a config writes them: names, with defaults where there are any; "..." after a repeated one."""
    shown = []
    for entry in signature.parameters.values():
        default = "" if entry.default is entry.empty else f"={entry.default!r}"
        shown.append(f"{entry.name}, ..." if entry.kind is entry.VAR_POSITIONAL else f"{entry.name}{default}")
    return ", ".join(shown)
