"""Loading a config file: `FILE`, or `FILE:ARG`, where the text after the colon is the argument of `get_config`."""

import importlib.machinery
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from gan.config.flattening import flatten
from gan.config.overrides import override
from gan.errors import UserError, last_line, nearest

FOLDER = Path("configs")
"""The shipped configs, seen from the root of the repository, where commands are run."""


def shipped() -> list[str]:
    """The files of the shipped configs."""
    return sorted(map(str, FOLDER.glob("*.py")))


def load(name: str, overrides: Sequence[str] = (), *, flag: str = "--config") -> ConfigDict:
    """The config of FILE or FILE:ARG, with overrides FIELD=VALUE. The file is a program and is executed.

    Raises `UserError`, with `flag` in its message, where the file cannot be loaded or gives no `ConfigDict`.
    """
    path, colon, argument = name.partition(":")
    if not os.path.isfile(path):
        found = shipped()
        raise UserError(f"{flag}={path} is not a file{nearest(path, found)}; expected: {', '.join(found)}")
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
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module.get_config(*arguments)
