"""gan.data.toys and runs on it: the distributions, exact resuming, and plots of points."""

import json
import time

import jax.numpy as jnp
import numpy as np
import pytest
import runs
from PIL import Image

from configs import toy
from experiments.studies import toy_losses
from gan import data, losses, state
from gan.data import toys
from gan.errors import UserError
from gan.game import DiscriminatorOutput
from gan.inference import command, sampling
from gan.io import plots
from gan.metrics.modes import mode_coverage
from gan.train import loop

SMALL = {
    "generator.width": 4,
    "discriminator.width": 4,
    "generator.layers": (1, 1),
    "discriminator.layers": (1, 1),
    "penalties.r1": 0.0,
    "penalties.r2": 0.0,
    "batch_size": 8,
    "steps": 4,
    "log_every": 1,
    "sample_every": 0,
    "checkpoint_every": 2,
}


def train(folder, **overrides):
    """A tiny run on unbalanced points; `data__name` stands for data.name."""
    config = toy.get_config("unbalanced")
    config.update_from_flattened_dict(SMALL | {name.replace("__", "."): value for name, value in overrides.items()})
    return loop.train(config, folder, time.monotonic())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of four steps, with three plots."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(folder, sample_every=2) == 0
    return folder


@pytest.mark.parametrize("name", toys.MIXTURES)
@pytest.mark.parametrize("split", toys.SPLITS)
def test_modes_have_their_centers_spreads_and_exact_shares(name, split):
    mixture = toys.MIXTURES[name]
    dataset = data.load(name=name, split=split)
    images, labels = dataset.arrays()
    assert (images.shape, images.dtype, labels.dtype) == ((100_800, 1, 1, 2), np.float32, np.int32)
    assert len(dataset.class_names) == len(mixture.centers)
    np.testing.assert_array_equal(np.bincount(labels), np.rint(mixture.shares * 100_800))
    for mode, center in enumerate(mixture.centers):
        offsets = images.reshape(-1, 2)[labels == mode] - center
        count = len(offsets)  # at least 2,800
        # The standard error of the mean is std / sqrt(count), that of the std is std / sqrt(2 count).
        assert np.all(np.abs(offsets.mean(axis=0)) < 5 * mixture.std / count**0.5)
        assert np.all(np.abs(offsets.std(axis=0) / mixture.std - 1) < 5 / (2 * count) ** 0.5)


def test_the_published_constants():
    ring, grid, unbalanced = (toys.MIXTURES[name] for name in ("ring8", "grid25", "unbalanced"))
    np.testing.assert_allclose(np.linalg.norm(ring.centers, axis=1), 2.0)
    gaps = np.linalg.norm(ring.centers - np.roll(ring.centers, 1, axis=0), axis=1)
    np.testing.assert_allclose(gaps, 4 * np.sin(np.pi / 8))  # eight distinct positions, evenly spaced
    assert sorted(map(tuple, grid.centers)) == [(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)]
    assert (ring.std, grid.std) == (0.02, 0.05)
    np.testing.assert_allclose(unbalanced.shares * 36, np.arange(1, 9))


def test_the_swiss_roll_lies_on_its_spiral():
    images, labels = data.load(name="swissroll").arrays()
    points = images.reshape(-1, 2) * 7.5
    # Without noise |x| = t in [1.5 pi, 4.5 pi] and the angle is t; the std of the radial noise is 0.25.
    radius, angle = np.linalg.norm(points, axis=1), np.arctan2(points[:, 1], points[:, 0])
    off = (radius - angle + np.pi) % (2 * np.pi) - np.pi
    inner = (radius > 8) & (radius < 13)
    assert abs(off[inner].std() - 0.25) < 0.01
    assert abs(np.mean(radius) - 3 * np.pi) < 0.05
    assert not labels.any()


def test_toys_are_fixed_and_splits_and_names_differ():
    again = toys.load("ring8")
    assert again.fingerprint == data.load(name="ring8").fingerprint
    np.testing.assert_array_equal(again.arrays()[0], data.load(name="ring8").arrays()[0])
    loaded = [toys.load(name, split) for name in toys.NAMES for split in toys.SPLITS]
    assert len({dataset.fingerprint for dataset in loaded}) == len(loaded)
    assert not np.isin(toys.load("ring8", "test").arrays()[0][:, 0, 0, 0], again.arrays()[0][:, 0, 0, 0]).all()


def test_examples_are_read_at_random_access():
    dataset = data.load(name="grid25")
    images, labels = dataset.arrays()
    read = dataset.read(np.uint32([5, 100_799, 0]))
    np.testing.assert_array_equal(read[0], images[[5, 100_799, 0]])
    np.testing.assert_array_equal(read[1], labels[[5, 100_799, 0]])
    assert dataset[5]["label"] == labels[5]


def test_points_are_never_quantized():
    points = np.float32([[0.123456, -7.5], [1e-6, 300.0]]).reshape(-1, 1, 1, 2)
    np.testing.assert_array_equal(data.to_range(points, (-1.0, 1.0)), points)
    np.testing.assert_array_equal(data.to_range(jnp.asarray(points), (0.0, 1.0)), points)
    assert data.is_point((1, 1, 2)) and not data.is_point((1, 1, 1)) and not data.is_point((2, 1, 2))


def test_options_that_points_do_not_have_are_rejected():
    for options, message in (
        ({"name": "ring9"}, "nearest: 'ring8'"),
        ({"name": "ring8", "split": "train[:10%]"}, "config.data.split"),
        ({"name": "ring8", "image_size": (32, 32)}, r"config.data.image_size=\(32, 32\).*expected: \(\)"),
        ({"name": "ring8", "channels": 3}, "config.data.channels=3.*expected: 0"),
    ):
        with pytest.raises(UserError, match=message):
            data.load(**options)


@pytest.mark.slow
def test_two_and_two_steps_equal_four(whole, tmp_path):
    train(tmp_path, steps=2)
    train(tmp_path)
    assert runs.final_digests(tmp_path) == runs.final_digests(whole)
    assert [line["step"] for line in runs.logged(tmp_path)] == [1, 2, 3, 4]


def test_streamed_points_equal_gathered_points():
    dataset = data.load(name="unbalanced")
    shape = {"seed": 5, "batches": 2, "batch_size": 16}
    gathered = data.gather(*map(jnp.asarray, dataset.arrays()), step=7, **shape)
    streamed = next(data.stream(dataset, first_step=7, last_step=8, **shape))
    for name in ("image", "label"):
        np.testing.assert_array_equal(streamed[name], gathered[name])


def test_a_run_plots_points_and_writes_an_animation_of_all_its_plots(whole):
    plots = sorted((whole / "samples").glob("*.png"))
    assert [path.stem for path in plots] == ["00000000", "00000002", "00000004"]
    with Image.open(whole / "training.gif") as animation:
        assert animation.n_frames == 3
        assert animation.size == Image.open(plots[0]).size == (560, 560)
    assert json.loads((whole / "config.json").read_text())["dataset"]["image_shape"] == [1, 1, 2]


def test_samples_are_points_in_float32(whole, tmp_path):
    command.sample(whole, count=150, seed=3, out=tmp_path / "points.npz")
    with np.load(tmp_path / "points.npz") as file:
        images = file["images"]
    assert (images.shape, images.dtype) == ((150, 1, 1, 2), np.float32)
    assert len(np.unique(images)) > 256  # more than uint8 can represent
    assert Image.open(tmp_path / "points.png").size == (560, 560)


def test_the_landscape_is_that_of_a_linear_critic():
    # D(x) = w x + c. Non-saturating: loss softplus(-D), so its negative gradient is sigmoid(-D) w.
    class Linear:
        """Replaces a game: a linear critic with known weights."""

        loss = losses.non_saturating()

        @staticmethod
        def discriminate(variables, image, label, *, train):
            return DiscriminatorOutput(image.reshape(-1, 2) @ jnp.array([3.0, -4.0]) + 0.5, None, {})

    points = np.float32([[0.0, 0.0], [1.0, 1.0], [-2.0, 0.25]])
    player = state.Player({}, {}, {})
    logits, negative_gradient = sampling.landscape(
        Linear, player, points.reshape(-1, 1, 1, 2), np.zeros((5, 1, 1, 2), np.float32)
    )
    np.testing.assert_allclose(logits, [0.5, -0.5, -6.5], rtol=1e-6)
    expected = (1 / (1 + np.exp([0.5, -0.5, -6.5])))[:, None] * [3.0, -4.0]
    np.testing.assert_allclose(negative_gradient, expected, rtol=1e-5)


def test_plots_show_samples_at_their_positions():
    real = np.float32([[-1.0, -1.0], [1.0, 1.0]])
    plane = plots.plane(real, side=5)
    np.testing.assert_allclose(plane[0, :, 0], [-1.25, -0.625, 0, 0.625, 1.25])
    np.testing.assert_allclose(plane[:, 0, 1], [-1.25, -0.625, 0, 0.625, 1.25])
    landscape = plots.Landscape(plane, plane[..., 0], np.zeros_like(plane))
    plot = plots.draw_points(np.float32([[0.7, 0.7]]), real, landscape).astype(int)
    orange = np.argwhere((plot[..., 0] - plot[..., 2]) > 120)
    # The axes span 0.07 to 0.98 of the width and 0.05 to 0.95 of the height, and -1.25 to 1.25; 0.7 is at 0.78 of it.
    row, column = orange.mean(axis=0)
    assert abs(column / 560 - (0.07 + 0.91 * 0.78)) < 0.02 and abs(1 - row / 560 - (0.05 + 0.90 * 0.78)) < 0.02
    assert len(orange) < 40


def test_the_experiment_sets_the_options_and_writes_between_its_marks(tmp_path):
    config = toy_losses.configured("grid25", "hinge", "r1+clip", 100)
    weights = {name: weight for name, weight in config.penalties.items() if weight}
    assert (config.loss, weights, config.weight_clip, config.steps) == ("hinge", {"r1": 0.05}, 0.01, 100)
    with pytest.raises(UserError, match="nearest: 'r1'"):
        toy_losses.configured("grid25", "hinge", "r11", 100)
    sample = {"modes": 8, "high_quality": 0.5, "reverse_kl": 0.0, "sliced_wasserstein": 0.1}
    table = toy_losses.table([{"loss": "a", "penalties": "b", "seeds": [sample, None, sample | {"modes": 6}]}])
    # The mean of 8 and 6 is 7, their sample standard deviation sqrt(2).
    assert "| a | b (1 of 3 seeds diverged) | 7.0 ± 1.4 | 0.50 ± 0.00 |" in table
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- ring8 -->\nold\n<!-- /ring8 -->\nafter\n")
    toy_losses.insert(page, "ring8", table)
    assert page.read_text() == f"before\n<!-- ring8 -->\n{table}\n<!-- /ring8 -->\nafter\n"
    with pytest.raises(UserError, match="no markers"):
        toy_losses.insert(page, "grid25", table)


@pytest.mark.slow
def test_a_run_learns_the_ring(tmp_path):
    # In a process of its own, with one device and optimized programs: here its small steps take four times as long.
    arguments = ["--config=configs/toy.py:ring8", f"--workdir={tmp_path}", "--config.sample_every=0"]
    process = runs.command(*arguments, XLA_FLAGS="")
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    command.sample(tmp_path, count=2500, seed=0, out=tmp_path / "points.npz")
    mixture = toys.MIXTURES["ring8"]
    with np.load(tmp_path / "points.npz") as file:
        metrics = mode_coverage(file["images"].reshape(-1, 2), mixture.centers, mixture.std)
    assert metrics["modes"] == 8 and metrics["high_quality"] > 0.7 and metrics["reverse_kl"] < 0.02, metrics
