"""Every shipped config builds without compilation, and every field of it can be overridden."""

import functools
import importlib
import re
from pathlib import Path

import jax
import pytest
import runs
from ml_collections import ConfigDict

from gan import checks, state
from gan.build import make_game, make_schedules
from gan.cli import numbers
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
    others = {
        field: {str: "x", bool: not value, int: 7, float: 0.5, tuple: (5, 6)}[type(value)]
        for field, value in flatten(parsed(path)).items()
    }
    assert flatten(parsed(path, *(f"--config.{field}={other}" for field, other in others.items()))) == others


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
        ("configs/dcgam.py", "nearest: 'dcgan'"),
    ):
        with pytest.raises(UserError, match=line):
            loading.load(str(name), flag="base")
    with pytest.raises(UserError, match="--override seed=x is invalid; expected: a whole number, such as 0"):
        loading.load("configs/dcgan.py", ["seed=x"])


@pytest.mark.parametrize(
    "flag, line",
    [
        ("--config.steps=1.5", "--config.steps=1.5; expected: a whole number"),
        ("--config.steps=None", "--config.steps=None; expected: a whole number"),
        ("--config.seed=inf", "--config.seed=inf; expected: a whole number"),
        ("--config.microbatches=many", "--config.microbatches=many; expected: a whole number"),
        ("--config.generator.learning_rate=None", "learning_rate=None; expected: a number"),
        ("--config.lr=1", "nearest: --config.generator.learning_rate"),
        ("--config.discriminator.lr=1", "nearest: --config.discriminator.learning_rate"),
        ("--config.epochs=3", "nearest: --config.steps"),
        ("--config.z_dim=3", "nearest: --config.latent.size"),
        ("--config.image_size=3", "nearest: --config.data.image_size"),
        ("--steps=3", "--steps is no flag; nearest: --config.steps"),
        ("--batch_size=3", "--batch_size is no flag; nearest: --config.batch_size"),
        ("--lr=3", "--lr is no flag; nearest: --config.generator.learning_rate"),
    ],
)
def test_a_value_that_is_no_number_or_a_name_of_another_library_is_explained(flag, line):
    with pytest.raises(UserError, match=line):
        parsed("configs/dcgan.py", flag)


def test_whole_numbers_may_have_an_exponent():
    given = ["--config.steps=1e3", "--config.seed", "2e2", "--config.microbatches=4e0"]
    config = parsed("configs/dcgan.py", *given)
    assert (config.steps, config.seed, config.microbatches) == (1000, 200, 4)
    assert type(config.steps) is int
    assert parsed("configs/dcgan.py", "--config.microbatches=auto").microbatches == "auto"
    metrics = parsed("configs/dcgan.py", "--config.evaluation.metrics=frechet, kernel").evaluation.metrics
    assert metrics == ("frechet", "kernel")
    config = loading.load("configs/dcgan.py", ["steps=1e3"])
    assert config.steps == 1000 and type(config.steps) is int
    assert numbers.WholeNumberParser(1).parse("5e4") == 50_000
    with pytest.raises(ValueError, match="expected: a whole number"):
        numbers.WholeNumberParser(1).parse("2.5")


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
        config = words[0].removeprefix("--config=")  # a file, or the name of a shipped config
        parsed(ROOT / config if ".py" in config else config, *(word.replace('"', "") for word in words[1:]))
        checked += 1
    assert checked >= 5


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"dir": "PICTURES"}, "has no prepared 'digits'; expected: config.data.name=folder for the images in it"),
        ({"dir": "PICTURES", "name": "mnist"}, "has no prepared 'mnist'; expected: config.data.name=folder"),
        ({"dir": "PICTURES", "name": "stacked_mnist"}, "has no prepared 'mnist'"),
        ({"dir": "PICTURES", "name": "cifar10:3.0.2"}, "has no prepared 'cifar10'"),
        ({"dir": "PICTURES", "name": "ring8"}, "has no meaning for 'ring8', which is computed"),
        ({"dir": "nowhere"}, "config.data.dir='nowhere' has no prepared 'digits'"),
        ({"dir": "x" * 5000}, "has no prepared 'digits'"),
        ({"dir": "~nobody_of_this_name"}, "has no prepared 'digits'"),
        ({"dir": "a\0b"}, "has no prepared 'digits'"),
        ({"dir": "None"}, "config.data.dir='None'; expected: a folder, or nothing"),
        ({"skip_broken": True}, "config.data.skip_broken=True has no meaning for 'digits'"),
        ({"white": 4095.0}, "config.data.white=4095 has no meaning for 'digits'"),
        (
            {"name": "folder", "dir": "PICTURES", "white": -1.0},
            "config.data.white=-1; expected: the value that is white",
        ),
        ({"name": "ring8", "mirror": True}, "config.data.mirror=True has no meaning for the points of 'ring8'"),
        ({"name": "ring8", "crop": "none"}, "config.data.crop='none' has no meaning for 'ring8'"),
    ],
)
def test_a_field_of_the_data_without_a_use_is_an_error_and_writes_nothing(tmp_path, changes, line):
    pictures = tmp_path / "pictures"
    (pictures / "mnist").mkdir(parents=True)  # a class, not a dataset
    (pictures / "mnist" / "3.png").write_bytes(b"")
    there = sorted(tmp_path.rglob("*"))
    given = {name: str(pictures) if value == "PICTURES" else value for name, value in changes.items()}
    with pytest.raises(UserError, match=line):
        runs.train(tmp_path / "run", **{f"data.{name}": value for name, value in given.items()})
    assert sorted(tmp_path.rglob("*")) == there


def test_a_folder_of_prepared_data_is_used(tmp_path):
    (tmp_path / "digits" / "1.0.0").mkdir(parents=True)
    settings = {"name": "digits", "skip_broken": False, "crop": "center", "mirror": False, "white": 0.0}
    checks.check_data(settings | {"dir": str(tmp_path)})
    checks.check_data(settings | {"name": "folder", "dir": "anywhere", "skip_broken": True})


def test_recipes_mirror_images_where_their_sources_do():
    command = re.compile(r"^python -m gan\.main --config=\S+?\.py:(\w+)", re.MULTILINE)
    variants = [
        f"{config}:{name}"
        for config in loading.shipped()
        for name in command.findall((loading.FOLDER / f"{config}.py").read_text())
    ]
    mirrored = {name for name in variants + loading.shipped() if loading.load(name).data.mirror}
    assert mirrored == {
        *(f"r3gan:{name}" for name in ("cifar10", "ffhq64", "imagenet32")),
        "sagan:cifar10", "stylegan2:ffhq256",
    }  # fmt: skip
