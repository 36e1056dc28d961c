"""Every shipped config builds without compilation, and every field of it can be overridden."""

import functools
import importlib
import re
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from gan import state
from gan.build import make_game, make_schedules
from gan.cli.flags import config_and_workdir
from gan.config import loading
from gan.config.flattening import flatten
from gan.errors import UserError
from gan.game import parameter_count

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
    game = make_game(config, image_shape=shape, num_classes=10)
    hyperparams = make_schedules(config)
    made = jax.eval_shape(functools.partial(state.create, game, hyperparams(0), config.seed))
    assert parameter_count(made.generator.params) > 0


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


def test_a_config_is_flat_by_dotted_names():
    config = ConfigDict({"seed": 1, "data": {"image_size": (8, 8), "crop": {}}, "loss": "hinge"})
    assert flatten(config) == flatten(config.to_dict())
    assert flatten(config) == {"seed": 1, "data.image_size": (8, 8), "loss": "hinge"}
    config.data.itself = config
    for wrong, line in ((config, "record.data.itself.* contains itself"), ({"data": {3: 4}}, "record.data.3 is not a")):
        with pytest.raises(UserError, match=line):
            flatten(wrong, "record")


def test_a_config_file_is_loaded_with_its_argument_and_overrides(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from configs import dcgan\ndef get_config(name='none'):\n    return dcgan.get_config(name)\n")
    assert loading.load(str(path)).data.name == "none"
    config = loading.load(f"{path}:mnist", ["loss=hinge", "data.image_size=(8, 8)", "microbatches=auto"])
    assert (config.data.name, config.loss, config.data.image_size) == ("mnist", "hinge", (8, 8))
    path.write_text("x = 1")  # nothing is left of the file that was loaded before
    for name, line in (
        (path, "base=.*mine.py: AttributeError.*get_config"),
        ("configs/dcgam.py", "nearest: .*dcgan.py"),
    ):
        with pytest.raises(UserError, match=line):
            loading.load(str(name), flag="base")
    with pytest.raises(UserError, match="--override seed=x is invalid; expected: int, such as 0"):
        loading.load("configs/dcgan.py", ["seed=x"])


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
