"""Loading a config: `FILE` or `FILE:ARG`, where the text after the colon is the argument of `get_config`.

A shipped config is also known by its name: `dcgan:mnist` and `configs/dcgan.py:mnist` are the same, from any folder.
"""

import importlib.machinery
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ml_collections import ConfigDict

from gan.config.flattening import flatten
from gan.config.overrides import override
from gan.errors import UserError, last_line, nearest

FOLDER = Path(__file__).parents[2] / "configs"
"""The shipped configs: beside the package, in a checkout as in an installation."""


def shipped() -> list[str]:
    """The names of the shipped configs."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "default")


def resolved(name: str) -> str:
    """FILE or FILE:ARG for a config that is given so, or a shipped one by its name or as configs/NAME.py."""
    path, colon, argument = name.partition(":")
    known = path.removeprefix("configs/").removesuffix(".py") if path.startswith("configs/") else path
    if os.path.isfile(path) or known not in shipped():
        return name
    return f"{FOLDER / known}.py{colon}{argument}"


def load(name: str, overrides: Sequence[str] = (), *, flag: str = "--config") -> ConfigDict:
    """The config of FILE or FILE:ARG, with overrides FIELD=VALUE. The file is a program and is executed.

    Raises `UserError`, with `flag` in its message, where the file cannot be loaded or gives no `ConfigDict`.
    """
    path, colon, argument = resolved(name).partition(":")
    if not os.path.isfile(path):
        found, meant = shipped(), Path(path).name.removesuffix(".py")
        raise UserError(f"{flag}={path} is not a file{nearest(meant, found)}; expected: FILE.py, {', '.join(found)}")
    try:
        config = _read(path, [argument] if colon else [])
        fields = flatten(config) if isinstance(config, ConfigDict) else {}
    except UserError as error:
        raise UserError(f"{flag}={name}: {error}") from error
    except (Exception, SystemExit) as error:  # a config is code: it may raise anything
        raise UserError(f"{flag}={name}: {type(error).__name__}: {last_line(error)}") from error
    if not fields:
        raise UserError(f"{flag}={path}: get_config returns no ConfigDict with fields")
    override(config, overrides)
    return config


def _read(path: str, arguments: Sequence[str]) -> object:
    """What `get_config(*arguments)` of the file returns. Each call executes the file in a new module."""
    loader = importlib.machinery.SourceFileLoader("config", path)
    spec = cast(importlib.machinery.ModuleSpec, importlib.util.spec_from_loader(loader.name, loader))  # None: no loader
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module.get_config(*arguments)
