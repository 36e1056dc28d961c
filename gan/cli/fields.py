"""`--help-config`: the fields of a config with their meanings and defaults, from the source of configs/default.py."""

import ast
import io
import textwrap
import tokenize
from pathlib import Path
from typing import Any

from gan.config import loading
from gan.config.flattening import flatten

DEFAULT = loading.FOLDER / "default.py"
COLUMNS = 120
WIDTH = 48
"""Columns of a field with its default, before its meaning."""


def describe(path: Path = DEFAULT) -> str:
    """One line per field, `name=default  meaning`; above a group of fields, the comment on the group."""
    meanings, fields = _meanings(path.read_text()), rows(path)
    lines = [f"Every field of a config with its default, from {path}.", "Override one with --config.FIELD=VALUE.", ""]
    group = ""
    for name, value, meaning in fields:
        for parent in _new_groups(name, group):
            lines += ["", *textwrap.wrap(f"{parent}: {meanings[parent]}", COLUMNS)] if meanings.get(parent) else []
        group = name.rpartition(".")[0]
        lines.append(_line(f"{name}={value!r}", meaning))
    return "\n".join(lines)


def rows(path: Path = DEFAULT) -> list[tuple[str, Any, str]]:
    """The name, default and meaning of every field, in the order of the source."""
    meanings = _meanings(path.read_text())
    order = list(meanings)
    defaults = sorted(flatten(loading.load(str(path))).items(), key=lambda field: _place(field[0], order))
    return [(name, value, meanings.get(name, "")) for name, value in defaults]


def _place(name: str, order: list[str]) -> int:
    """The place in the source of a field, or of the group that it is in."""
    while name not in order:
        name = name.rpartition(".")[0]
    return order.index(name)


def _line(field: str, meaning: str) -> str:
    text = textwrap.wrap(meaning, COLUMNS - WIDTH)
    head = f"{field:<{WIDTH}}" if len(field) < WIDTH or not text else f"{field}\n{'':{WIDTH}}"
    return f"\n{'':{WIDTH}}".join([head + "".join(text[:1]), *text[1:]]).rstrip()


def _new_groups(name: str, group: str) -> list[str]:
    """The groups that `name` is in and the field before it, in `group`, is not."""
    parts = name.split(".")[:-1]
    parents = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    return [parent for parent in parents if not f"{group}.".startswith(f"{parent}.")]


def _meanings(source: str) -> dict[str, str]:
    """{field or group: its comment}: at the end of its line, and in the lines above it."""
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = (token.line.strip() == token.string, token.string.lstrip("# "))
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    found: dict[str, str] = {}

    def comment(first: int, last: int | None) -> str:
        above: list[str] = []
        line = first - 1
        while comments.get(line, (False, ""))[0]:
            above.insert(0, comments[line][1])
            line -= 1
        ends = [comments[line][1] for line in dict.fromkeys((first, last)) if line in comments]
        return " ".join(above + ends)

    def visit(node: ast.expr, prefix: str) -> None:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
            visit(_returned(functions[node.func.id]), prefix)
            for word in node.keywords:
                found[f"{prefix}{word.arg}"] = comment(word.value.lineno, word.value.end_lineno)
        if not isinstance(node, ast.Dict):
            return
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                last = key.lineno if isinstance(value, ast.Dict) else value.end_lineno
                found[f"{prefix}{key.value}"] = comment(key.lineno, last)
                visit(value, f"{prefix}{key.value}.")

    config = _returned(functions["get_config"])
    visit(config.args[0] if isinstance(config, ast.Call) else config, "")
    return found


def _returned(function: ast.FunctionDef) -> ast.expr:
    return next(node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None)
