"""Loading a config file: `FILE`, or `FILE:ARG`, where the text after the colon is the argument of `get_config`."""

import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

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
    path = name.partition(":")[0]
    if not os.path.isfile(path):
        found = shipped()
        raise UserError(f"{flag}={path} is not a file{nearest(path, found)}; expected: {', '.join(found)}")
    try:
        config = _read(name)
        fields = flatten(config) if isinstance(config, ConfigDict) else {}
    except UserError as error:
        raise UserError(f"{flag}={name}: {error}") from error
    except (Exception, SystemExit) as error:  # a config is code: it may raise anything
        raise UserError(f"{flag}={name}: {type(error).__name__}: {last_line(error)}") from error
    if not fields:
        raise UserError(f"{flag}={path}: get_config returns no ConfigDict with fields")
    override(config, overrides)
    return config


def _read(name: str) -> object:
    """What `get_config` returns, loaded as the flag --config loads it."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=False)
    return values["config"].parser.parse(name)
