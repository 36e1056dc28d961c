"""Every shipped config builds without compiling anything, and every leaf of it can be overridden."""

import functools
import importlib
import re
from pathlib import Path

import jax
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from gan import state
from gan.build import make_game, make_schedules
from gan.game import parameter_count

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "default"))
CONTRACT = ("seed", "steps", "batch_size", "data.name", "data.dir", "log_every", "sample_every", "checkpoint_every",
            "evaluate_every")  # fmt: skip


def leaves(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def parsed(path, *overrides):
    """The config that these flags give, parsed by absl as on the command line."""
    values = flags.FlagValues()
    words = ["program", f"--config={path}", *overrides]
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    values(words)
    return holder.value


@pytest.mark.parametrize("name", NAMES)
def test_a_config_builds_and_keeps_the_contract(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert set(CONTRACT) <= dict(leaves(config)).keys()
    shape = (*(config.data.image_size or (28, 28)), config.data.channels or 1)
    game = make_game(config, image_shape=shape, num_classes=10)
    hyperparams = make_schedules(config)
    made = jax.eval_shape(functools.partial(state.create, game, hyperparams(0), config.seed))
    assert parameter_count(made.generator.params) > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_leaf_can_be_overridden(name):
    path = ROOT / "configs" / f"{name}.py"
    for field, value in leaves(parsed(path)):
        other = {str: "x", bool: not value, int: 7, float: 0.5, tuple: (5, 6)}[type(value)]
        assert dict(leaves(parsed(path, f"--config.{field}={other}")))[field] == other, field


@pytest.mark.parametrize("name", NAMES)
def test_a_config_shows_a_command_that_can_be_pasted(name):
    text = importlib.import_module(f"configs.{name}").__doc__
    assert f"python -m gan.main --config=configs/{name}.py" in text


def test_every_command_in_the_documents_parses():
    commands = []
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").glob("*.py")]:
        text = path.read_text().replace("\\\n", " ")
        commands += re.findall(r"^\s*(?:\w+=\S+ )*python -m gan\.main (.*)$", text, re.MULTILINE)
    checked = 0
    for command in commands:
        words = [word for word in command.split("#")[0].split() if word.startswith("--config")]
        if not words or "NAME" in words[0]:
            continue
        parsed(ROOT / words[0].removeprefix("--config="), *(word.replace('"', "") for word in words[1:]))
        checked += 1
    assert checked >= 5
