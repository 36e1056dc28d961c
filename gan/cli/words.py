"""The words of a command line, before absl parses them: mistakes in fields, and values as absl parses them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from gan.cli import recorded
from gan.config import loading
from gan.config.field_names import meant_field, nearest_field
from gan.config.flattening import flatten
from gan.config.schema import COUNT_OR_AUTO, FIELDS, kind_name, whole_number
from gan.errors import UserError


def values(argv: Sequence[str]) -> dict[str, str]:
    """{name of a flag: its text} of a command line, before it is parsed."""
    found = {}
    for argument, following in itertools.pairwise([*argv[1:], ""]):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-"):
            found[name] = value if equals else following
    return found


def checked(argv: Sequence[str]) -> list[str]:
    """The words of a command line, with values as absl parses them.

    The config file is loaded once before absl does, so that a mistake in it or in an override is one line.
    """
    given = values(argv)
    if "config" in given:
        given["config"] = loading.resolved(given["config"])
    config = flatten(loading.load(given["config"])) if "config" in given else dict.fromkeys(FIELDS)
    for name, text in given.items():
        field = name.removeprefix("config.")
        if not name.startswith("config."):
            if name not in flags.FLAGS and (field := meant_field(name, config)):
                raise UserError(f"--{name} is no flag; nearest: --config.{field}")
        elif "config" in given and field not in config:
            path, _, folder = given["config"].partition(":")
            path = f"{folder}/config.json" if path == str(recorded.FILE) else path
            raise UserError(f"--{name} is no field of {path}; nearest: --config.{nearest_field(field, config)}")
        elif isinstance(config.get(field), tuple) and _times_given(name, argv) > 1:
            raise UserError(f"--{name} is given more than once; expected: once, with all its values: --{name}=A,B")
        else:
            given[name] = _as_parsed(name, text, config[field]) if field in config else text
    return [*argv[:1], *_rewritten(argv[1:], given)]


def _times_given(name: str, argv: Sequence[str]) -> int:
    words = [word for word in argv[1:] if word.startswith("-")]
    return sum(word.lstrip("-").partition("=")[0] == name for word in words)


def _as_parsed(flag: str, text: str, present: Any) -> str:
    """The text of an override as absl parses it, for a field that holds `present`. Raises `UserError` for no number."""
    kind, own_kind = type(present), FIELDS.get(flag.removeprefix("config."))
    # absl takes words without quotes for one string.
    if own_kind == tuple[str, ...] and (not text or text[0].isalpha()):
        return repr(tuple(word.strip() for word in text.split(",") if word.strip()))
    if kind not in (int, float) or (text == "auto" and own_kind == COUNT_OR_AUTO):
        return text
    try:
        if kind is int:
            return str(whole_number(text))
        float(text)
    except ValueError:
        raise UserError(f"--{flag}={text}; expected: {kind_name(kind)}") from None
    return text


def _rewritten(words: Sequence[str], given: Mapping[str, str]) -> Iterator[str]:
    """The words with the values of --config=NAME, --config.FIELD=VALUE and --config.FIELD VALUE replaced."""
    name = ""
    for word in words:
        if name and not word.startswith("--"):
            word = given[name]
        name, equals, _ = (
            word.lstrip("-").partition("=")
            if word.startswith(("--config=", "--config.")) or word == "--config"
            else ("", "", "")
        )
        yield f"--{name}={given[name]}" if equals else word
        name = "" if equals else name
