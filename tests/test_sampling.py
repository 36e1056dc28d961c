"""gan.inference.sampling: standing statistics, and that all samples of a run are from the same generator."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from flax import linen as nn
from PIL import Image
from players import changed, hyperparams, noisy_game

from gan import state
from gan.errors import UserError
from gan.evaluation import command
from gan.inference import command as samples
from gan.inference import sampling
from gan.networks.layers import spectral
from gan.networks.layers.normalization import BatchNorm
from gan.parallel import sharding
from gan.state import example_keys, named_key


class SlowGenerator(nn.Module):
    """Two batch normalizations, whose running statistics training hardly changes."""

    @nn.compact
    def __call__(self, latent, label, train):
        x = BatchNorm(momentum=0.999)(nn.Dense(16, use_bias=False)(latent), train)
        x = nn.Dense(12, use_bias=False)(nn.relu(x))
        return BatchNorm(momentum=0.999)(x, train).reshape(-1, 2, 2, 3)


def slow_game():
    game = noisy_game(generator={"module": SlowGenerator(), "spectral_norm": True})
    return game, state.create(game, hyperparams(), seed=0).ema


@pytest.mark.parametrize("batch_size", [8, 6])  # 6 rows are not sharded over four devices, but replicated
def test_standing_statistics_are_plain_means_over_batches(batch_size):
    game, ema = slow_game()
    assert sharding.device_mesh().size == 4
    found = sampling.standing(game, ema, seed=7, batches=3, batch_size=batch_size)
    rows = jnp.arange(3 * batch_size)
    latents = np.float64(game.latents(example_keys(named_key(jax.random.key(7), "standing"), rows)))
    kernels, _ = spectral.normalized(ema.params, ema.batch_stats["spectral_norm"])
    first, second = (np.float64(kernels[f"Dense_{i}"]["kernel"]) for i in (0, 1))
    means, variances = ([], []), ([], [])
    for batch in np.split(latents, 3):
        x = batch @ first
        for index in (0, 1):
            means[index].append(x.mean(0))
            variances[index].append(x.var(0))
            x = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), 0.0) @ second if index == 0 else x
    for index in (0, 1):
        layer = found.batch_stats[f"BatchNorm_{index}"]["BatchNorm_0"]
        np.testing.assert_allclose(layer["mean"], np.mean(means[index], 0), atol=1e-5)
        np.testing.assert_allclose(layer["var"], np.mean(variances[index], 0), rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, found.params, ema.params)
    jax.tree.map(np.testing.assert_array_equal, found.batch_stats["spectral_norm"], ema.batch_stats["spectral_norm"])


def test_standing_statistics_of_one_batch_give_its_training_mode_images():
    game, ema = slow_game()
    found = sampling.standing(game, ema, seed=7, batches=1, batch_size=8)
    latent = game.latents(example_keys(named_key(jax.random.key(7), "standing"), jnp.arange(8)))
    trained, _ = game.generate(ema.variables, latent, jnp.zeros(8, jnp.int32), train=True)
    shown, _ = game.generate(found.variables, latent, jnp.zeros(8, jnp.int32), train=False)
    np.testing.assert_allclose(shown, trained, atol=1e-4)
    left, _ = game.generate(ema.variables, latent, jnp.zeros(8, jnp.int32), train=False)
    assert jnp.abs(left - trained).max() > 0.1  # the check can fail


def test_without_batch_statistics_or_batches_the_generator_is_unchanged():
    game, ema = slow_game()
    assert sampling.standing(game, ema, seed=0, batches=0, batch_size=8) is ema
    noisy = changed(noisy_game(), num_classes=3)  # dropout draws with a key, labels are drawn
    noisy_ema = state.create(noisy, hyperparams(), seed=0).ema
    one, same, other = (
        sampling.standing(noisy, noisy_ema, seed=seed, batches=2, batch_size=8).batch_stats for seed in (1, 1, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert any(jnp.abs(a - b).max() > 1e-3 for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_grids_samples_and_metrics_of_a_run_use_the_same_generator(tmp_path):
    settings = {"evaluation.extractor": "pixels", "evaluation.metrics": ("frechet",), "evaluation.num_samples": 50}
    runs.train(tmp_path, steps=4, sample_every=4, evaluate_every=4, **settings, **{"evaluation.standing_batches": 3})
    samples.sample(tmp_path, count=64, seed=0, out=tmp_path / "again.npz")
    shown, again = (np.asarray(Image.open(tmp_path / name), int) for name in ("samples/00000004.png", "again.png"))
    assert shown.shape == again.shape
    # Another batch size compiles another function: equal up to float rounding, at most 1 of 255.
    assert np.abs(shown - again).max() <= 1
    command.evaluate(tmp_path, count=None, seed=0)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    line = json.loads((tmp_path / "evaluations.jsonl").read_text().splitlines()[-1])
    assert record["protocol"]["standing_batches"] == 3
    np.testing.assert_allclose(record["checkpoints"]["last"]["metrics"]["fd_pixels"], line["fd_pixels"], rtol=1e-5)
    # Without standing batches a run is sampled with running statistics. A record without the field is rejected.
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"]["evaluation"]["standing_batches"] = 0
    (tmp_path / "config.json").write_text(json.dumps(config))
    samples.sample(tmp_path, count=64, seed=0, out=tmp_path / "old.npz")
    assert np.abs(np.asarray(Image.open(tmp_path / "old.png"), int) - again).max() > 1
    del config["config"]["evaluation"]["standing_batches"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.evaluation.standing_batches is missing"):
        samples.sample(tmp_path, count=64, seed=0, out=tmp_path / "old.npz")


def drawn(folder, **choice):
    """The labels and images of samples of seed 0."""
    samples.sample(folder, seed=0, out=folder / "drawn" / "samples.npz", **choice)
    arrays = np.load(folder / "drawn" / "samples.npz")
    return arrays["labels"], arrays["images"]


def test_samples_of_other_choices_are_other_files_and_images(tmp_path):
    runs.train(tmp_path, steps=4, generator__conditioning="concat")
    choices = ({}, {"seed": 1}, {"truncation": 0.5}, {"classes": ["3", "8"]}, {"count": 9}, {"same_latents": True})
    for choice in choices:
        samples.sample(tmp_path, **{"count": 8, "seed": 0} | choice)
    samples.sample(tmp_path, count=20, seed=0, out=tmp_path / "all" / "samples.npz")
    every = np.load(tmp_path / "all" / "samples.npz")
    np.testing.assert_array_equal(every["labels"], [*range(10), *range(10)])
    # The classes are cycled through from the first on; sample i has the latent i, with same_latents i // classes.
    labels, images = drawn(tmp_path, count=20, classes=["8", "3"])
    np.testing.assert_array_equal(labels, [8, 3] * 10)
    for row in (3, 13, 8, 18):  # has this class in both
        np.testing.assert_array_equal(images[row], every["images"][row])
    labels, images = drawn(tmp_path, count=18, classes=["3", "8"], same_latents=True)
    np.testing.assert_array_equal(labels, [3, 8] * 9)
    for row, other in ((6, 3), (17, 8)):
        np.testing.assert_array_equal(images[row], every["images"][other])
    assert {path.name for path in tmp_path.glob("*.npz")} == {
        "samples_step4_seed0_n8.npz", "samples_step4_seed1_n8.npz", "samples_step4_seed0_n8_truncation0.5.npz",
        "samples_step4_seed0_n8_classes3-8.npz", "samples_step4_seed0_n9.npz",
        "samples_step4_seed0_n8_same_latents.npz",
    }  # fmt: skip


def test_a_negative_number_of_batches_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"config\.evaluation\.standing_batches=-1 must not be negative"):
        runs.train(tmp_path, **{"evaluation.standing_batches": -1})
