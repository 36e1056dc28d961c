"""gan.train.setup and gan.checks: what the start of a run says of its data and its networks."""

import logging

import pytest
import runs
from players import noisy_game

from gan import checks, data
from gan.build import make_game
from gan.train import setup


@pytest.mark.parametrize(
    "names, counts, expected",
    [
        ((), None, "without classes"),
        (("a",), (7,), "1 class"),
        (("a", "b"), None, "2 classes"),
        (("a", "b", "c"), (5, 2, 9), "3 classes of 2 (b) to 9 (c) images"),
    ],
)
def test_classes_are_described_with_the_smallest_and_the_largest(names, counts, expected):
    assert setup.describe_classes(names, counts) == expected


def test_the_classes_of_digits_are_counted():
    """The digits of scikit-learn: 178, 182, 177, 183, 181, 182, 181, 179, 174 and 180 of each."""
    dataset = data.open_dataset(runs.config().data)
    assert setup.count_classes(dataset) == (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)


@pytest.mark.parametrize(
    "generator, discriminator, names, counts, line",
    [
        ("concat", "none", "ab", (3, 3), "the generator is conditional and the discriminator is not"),
        ("none", "projection", "ab", (3, 3), "the discriminator is conditional and the generator is not"),
        ("concat", "projection", "ab", (3, 3), ""),
        ("none", "none", "ab", (3, 0), ""),
        ("concat", "projection", "a", (6,), "a single class"),
        ("concat", "projection", "ab", (3, 0), "1 of 2 classes have no image, such as 'b'"),
        ("concat", "projection", "ab", None, ""),
    ],
)
def test_labels_that_are_not_learned_are_warned_of(generator, discriminator, names, counts, line):
    changes = {"generator.conditioning": generator, "discriminator.conditioning": discriminator}
    game = make_game(runs.config(**changes), image_shape=(8, 8, 1), num_classes=len(names))
    lines = checks.warnings_on_labels(game, names, counts)
    assert len(lines) == bool(line)
    assert line in "".join(lines)


def test_a_network_without_the_field_is_unconditional():
    assert checks.warnings_on_labels(noisy_game(), ("a", "b"), (1, 1)) == []


def test_the_start_of_a_run_states_images_classes_and_conditioning(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="gan"):
        runs.train(tmp_path, steps=4, generator__conditioning="concat")
    text = caplog.text
    assert "digits: 1797 images of 8x8x1, 10 classes of 174 (8) to 183 (3) images" in text
    assert "parameters and is conditional; D has " in text and "and is unconditional" in text
    assert "the generator is conditional and the discriminator is not" in text
