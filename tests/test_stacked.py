"""StackedMNIST: its images and labels, compared with MNIST, and a reduced run on it."""

import json

import numpy as np
import pytest
import runs

from configs import stacked_mnist
from gan import data
from gan.build import make_game
from gan.errors import UserError

pytestmark = pytest.mark.needs_mnist


@pytest.fixture(scope="module")
def stacks():
    return data.load(name="stacked_mnist", split="test")


def test_each_channel_is_a_digit_of_the_label(stacks):
    digits = data.load(name="mnist", split="test")
    images, labels = digits.arrays()
    by_pixels = {image.tobytes(): int(label) for image, label in zip(np.asarray(images), labels, strict=True)}
    rows = np.arange(0, len(stacks), 500)
    shown, shown_labels = stacks.read(rows)
    assert shown.shape == (52, 28, 28, 3) and shown.dtype == np.uint8
    for image, label in zip(shown, shown_labels, strict=True):
        read = [by_pixels[np.ascontiguousarray(image[..., channel, None]).tobytes()] for channel in range(3)]
        assert label == 100 * read[0] + 10 * read[1] + read[2]


@pytest.mark.slow
def test_all_thousand_modes_occur_and_splits_differ(stacks):
    labels = stacks.arrays()[1]
    assert len(np.unique(labels)) == len(stacks.class_names) == 1000
    assert np.bincount(labels, minlength=1000).max() < 4 * len(labels) / 1000
    again = data.load(name="stacked_mnist", split="test")
    assert again.fingerprint == stacks.fingerprint
    np.testing.assert_array_equal(again.read([7])[0], stacks.read([7])[0])
    assert data.load(name="stacked_mnist", split="train").fingerprint != stacks.fingerprint


def test_invalid_options_are_rejected():
    with pytest.raises(
        UserError, match="config.data.split='train.:5.' is unknown for stacked_mnist; expected: train, t"
    ):
        data.load(name="stacked_mnist", split="train[:5]")
    with pytest.raises(UserError, match="config.data.channels=1: stacked_mnist has one digit per channel"):
        data.load(name="stacked_mnist", channels=1)


def test_the_config_builds_with_both_penalties():
    config = stacked_mnist.get_config()
    built = make_game(config, image_shape=(28, 28, 3), num_classes=1000)
    assert built.discriminator.penalties == ("r1", "r2")


@pytest.mark.slow
def test_a_reduced_run_counts_its_modes(tmp_path):
    fields = {"generator.width": 8, "discriminator.width": 8, "steps": 200, "log_every": 100, "sample_every": 0}
    changes = [f"--config.{name}={value}" for name, value in fields.items()]
    train = ["--config=configs/stacked_mnist.py", *changes, "--config.evaluation.num_samples=2600"]
    for arguments in (train, ["--mode=evaluate"]):
        process = runs.command(*arguments, f"--workdir={tmp_path}", XLA_FLAGS="")  # optimized: it computes for long
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["protocol"]["classifier_test_accuracy"] > 0.985
    real, drawn = record["real_training_images"], record["checkpoints"]["last"]["metrics"]
    # 2,600 samples of 1,000 equal modes miss 1000 (1 - 1/1000)^2600 = 74 of them, and KL is near 999 / 5200 = 0.19.
    assert 900 < real["modes"] < 950 and real["reverse_kl"] < 0.3
    assert drawn["modes"] < real["modes"] and drawn["reverse_kl"] > real["reverse_kl"]
