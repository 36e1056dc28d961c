"""gan.steps where both players learn from the same fakes: one forward pass of G, and the numbers of two."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from players import batches, changed, hyperparams, noisy_game, point_game
from twins import jit

from gan import state, steps
from gan.augment import AUGMENTS
from gan.networks.layers.dropout import Dropout
from gan.networks.layers.normalization import BatchNorm
from gan.optimizers import sgd

PLAIN = {"optimizer": sgd}
"""Gradient descent: differences between gradients stay as small as they are."""


class Labelled(nn.Module):
    """A generator with batch statistics and perhaps dropout, that learns of labels."""

    dropout: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latent, label, train):
        x = nn.Dense(16)(latent * nn.Embed(3, latent.shape[-1])(label))
        x = nn.relu(BatchNorm(self.axis_name)(x, train))
        x = Dropout(self.dropout, self.axis_name)(x, train)
        return nn.Dense(12)(x).reshape(-1, 2, 2, 3)


def plain(game, **changes):
    """The game with shared latents, trained by gradient descent."""
    return changed(game, generator=PLAIN, discriminator=PLAIN, share_latents=True, **changes)


SILENT = plain(noisy_game(generator={"module": Labelled()}))
NOISY = plain(noisy_game(generator={"module": Labelled(0.3), "steps": 2}, discriminator={"steps": 2}))
PENALTIES = ("r1", "zcr_d", "path_length", "zcr_g", "ortho")
CASES = {
    "noise": (NOISY, {}),
    "lazy penalties": (
        plain(
            point_game(
                discriminator={"penalties": PENALTIES[:2], "penalty_interval": 2},
                generator={"penalties": PENALTIES[2:], "penalty_interval": 3},
            )
        ),
        dict.fromkeys(PENALTIES, 0.01),
    ),
    "half precision": (
        plain(
            point_game(generator={"spectral_norm": True}, discriminator={"spectral_norm": True}),
            selects_top=True, compute_dtype="bfloat16", augment=AUGMENTS["apa"](),
        ),
        {"top_k": 0.5, "p": 0.5},
    ),
}  # fmt: skip


def labeled(game):
    """A step's batches with three kinds of labels."""
    data = batches(game)
    return data | {"label": jnp.broadcast_to(jnp.arange(16) % 3, data["label"].shape)}


def drawn_again(generator, batch, key, *, game, axis_name=None):
    """In place of `generate_batch`: fakes whose `vjp_fn` is G's forward pass itself."""

    def draw(params):
        variables = {"params": params, "batch_stats": generator.batch_stats}
        return game.on_axis(axis_name).generate(variables, batch["latent"], batch["label"], train=True, key=key)

    return steps.GeneratedBatch(*draw(generator.params), draw, key)


def train(game, settings, *, devices=1, count=4):
    """Takes steps, compiled afresh, from the first on; the state and metrics after each."""
    start, data = jit(functools.partial(state.create, game, settings, 0))(), labeled(game)

    def step(current, data):
        axis_name = None if devices == 1 else "data"
        return steps.train_step(current, data, settings, game=game, axis_name=axis_name)

    if devices == 1:
        trained = jit(step)
    else:
        data = jax.tree.map(lambda leaf: leaf.reshape(len(leaf), devices, -1, *leaf.shape[2:]).swapaxes(0, 1), data)
        trained = jax.pmap(step, axis_name="data", in_axes=(None, 0), out_axes=None, devices=jax.devices()[:devices])
    current, history = start, []
    for _ in range(count):
        current, metrics = trained(current, data)
        history.append(jax.device_get((current.replace(key=jax.random.key_data(current.key)), metrics)))
    return history


def largest_difference(a, b):
    """Of any number in two trees."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.float64(x) - np.float64(y)), initial=0.0)) for x, y in pairs)


@functools.cache
def shared(case):
    """The steps of a case as they are."""
    game, numbers = CASES[case]
    return train(game, hyperparams(0.05, **numbers))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_shared_fakes_change_nothing_but_the_work(case, monkeypatch):
    # Against a G that is differentiated through a forward pass of its own, on the same latents with the same draws.
    game, numbers = CASES[case]
    once = shared(case)
    monkeypatch.setattr(steps, "generate_batch", drawn_again)
    monkeypatch.setattr(steps, "_reuse_generated", lambda params, fakes: fakes.vjp_fn(params)[0])
    twice = train(game, hyperparams(0.05, **numbers))
    assert largest_difference(once, twice) < 2e-5
    # The check can fail: four steps move the players much further than that.
    for player in ("generator", "discriminator"):
        first, last = (getattr(current, player).params for current, _ in (once[0], once[-1]))
        assert largest_difference(first, last) > 1e-3


@pytest.mark.slow
def test_without_noise_shared_fakes_are_those_that_each_would_draw(monkeypatch):
    once, noisy = train(SILENT, hyperparams(0.05)), shared("noise")
    monkeypatch.setattr(steps, "generate_batch", lambda *given, **named: None)
    assert largest_difference(once, train(SILENT, hyperparams(0.05))) < 2e-5
    # The check can fail: where G draws noise, each player would see an image with noise of its own.
    assert largest_difference(noisy[0][1], train(NOISY, hyperparams(0.05), count=1)[0][1]) > 1e-3


@pytest.mark.slow
def test_shared_fakes_on_four_devices_are_those_on_one():
    split = train(NOISY, hyperparams(0.05), count=2, devices=4)
    assert largest_difference(shared("noise")[:2], split) < 2e-5


@pytest.mark.slow
def test_the_generator_learns_of_shared_fakes_by_their_pull_back_alone():
    game, settings = SILENT, hyperparams(1.0, beta1=0.0)
    batch = jax.tree.map(lambda leaf: leaf[0], labeled(game))
    start = state.create(game, settings, seed=0)
    batch["latent"] = game.latents(state.example_keys(jax.random.key(1), batch["row"]))

    @jit
    def moves():
        fakes = steps.generate_batch(start.generator, batch, jax.random.key(2), game=game)
        doubled = fakes._replace(vjp_fn=jax.tree_util.Partial(twice, fakes.vjp_fn))
        updated = [
            steps.generator_step(start, batch, settings, game=game, generated=f)[0] for f in (None, fakes, doubled)
        ]
        return [optax.tree.sub(after.generator.params, start.generator.params) for after in updated]

    alone, once, doubled = moves()
    assert largest_difference(alone, once) < 1e-6
    assert largest_difference(doubled, optax.tree.scale(2.0, once)) < 1e-6
    assert optax.tree.norm(once) > 0.1


def twice(vjp_fn, slope):
    return vjp_fn(2.0 * slope)


def test_a_step_with_shared_latents_has_one_forward_pass_fewer():
    def operations(game):
        settings = hyperparams()
        start = jax.eval_shape(functools.partial(state.create, game, settings, 0))
        step = jit(functools.partial(steps.train_step, game=game))
        return step.lower(start, batches(game), settings).compile().cost_analysis()["flops"]

    # G on 16 examples: 8 to 16, and 16 to 12 numbers, two operations a product.
    forward = 2 * 16 * (8 * 16 + 16 * 12)
    assert operations(changed(SILENT, share_latents=False)) - operations(SILENT) > 0.95 * forward


def test_where_memory_is_short_each_update_draws_its_fakes(monkeypatch):
    drawn = []
    monkeypatch.setattr(steps, "generate_batch", lambda *given, **named: drawn.append(given))
    for microbatches in (2, 1):
        game = changed(SILENT, microbatches=microbatches)
        start = jax.eval_shape(functools.partial(state.create, game, hyperparams(), 0))
        jax.eval_shape(functools.partial(steps.train_step, game=game), start, batches(game), hyperparams())
        assert len(drawn) == (microbatches == 1)
