"""Every shipped config builds without compilation, and every field of it can be overridden."""

import functools
import importlib
import re
from pathlib import Path

import jax
import pytest

from gan import game as rules
from gan import schedules, state
from gan.cli.flags import config_and_workdir
from gan.config.flattening import flatten

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "default"))
CONTRACT = ("seed", "steps", "batch_size", "data.name", "data.dir", "log_every", "sample_every", "checkpoint_every",
            "evaluate_every")  # fmt: skip


def parsed(path, *overrides):
    """The config that these flags give, parsed by absl as on the command line."""
    return config_and_workdir([f"--config={path}", *overrides])[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_builds_and_keeps_the_contract(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert set(CONTRACT) <= flatten(config).keys()
    shape = (*(config.data.image_size or (28, 28)), config.data.channels or 1)
    game = rules.build(config, image_shape=shape, num_classes=10)
    hyperparams = schedules.build(config)
    made = jax.eval_shape(functools.partial(state.create, game, hyperparams(0), config.seed))
    assert rules.parameter_count(made.generator.params) > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_field_can_be_overridden(name):
    path = ROOT / "configs" / f"{name}.py"
    for field, value in flatten(parsed(path)).items():
        other = {str: "x", bool: not value, int: 7, float: 0.5, tuple: (5, 6)}[type(value)]
        assert flatten(parsed(path, f"--config.{field}={other}"))[field] == other, field


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
