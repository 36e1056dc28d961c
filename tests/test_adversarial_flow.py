"""Adversarial flow models (arXiv:2511.22475): the normalized gradient of G's images, and its parts together."""

import functools
import math

import jax
import jax.numpy as jnp
import meshes
import numpy as np
import optax
import pytest
from flax import linen as nn
from players import batches, changed, hyperparams, noisy_game, point_game
from test_steps import assert_close, train_on
from twins import jit

from configs import toy
from experiments.studies import transport_plans
from gan import losses, state, steps, updates
from gan.build import make_game
from gan.io import checkpoint
from gan.optimizers import sgd
from gan.parallel import sharding
from gan.state import IMAGE_GRADIENT

WEIGHTS = {"transport": 0.2, "centering": 0.01}
NEW = {IMAGE_GRADIENT: {"square": jnp.float32(0.0), "weight": jnp.float32(0.0)}}
W = jnp.float32([3.0, 4.0])


class Linear(nn.Module):
    """A critic w . x, of which the gradient is w everywhere."""

    scale: float = 1.0

    @nn.compact
    def __call__(self, image, label, train):
        return self.scale * nn.Dense(1)(image.reshape(len(image), -1))[:, 0]


def flow_game(game=point_game):
    """The parts of the paper on small networks, with latents of the image's size."""
    return game(
        generator={"penalties": ("transport",)}, discriminator={"penalties": ("centering",)},
        latent_size=math.prod(game().image_shape), loss=losses.relativistic(), normalizes_gradient=True,
    )  # fmt: skip


def normalized(scale, running_stats, images):
    """The value and the gradient of the mean of w . x over examples, `scale` times, and the running means after it."""

    def loss(images):
        value, other, observed = updates.with_normalized_gradient(
            lambda x: (scale * jnp.mean(x.reshape(len(x), -1) @ W), x.sum()), images, running_stats, None
        )
        return value, (other, updates.update_running_stats(running_stats, observed))

    (value, (other, after)), gradient = jax.value_and_grad(loss, has_aux=True)(images)
    return value, other, gradient.reshape(len(images), -1), after


def test_the_gradient_is_divided_by_the_running_mean_of_its_square():
    images = jax.random.normal(jax.random.key(0), (4, 1, 1, 2))
    value, other, gradient, after = normalized(1.0, NEW, images)
    np.testing.assert_allclose([value, other], [jnp.mean(images.reshape(4, 2) @ W), images.sum()], rtol=1e-6)
    # e = (3, 4), |e|^2 = 25 and n = 2: e / sqrt(50) for each of four examples of a mean.
    np.testing.assert_allclose(gradient, np.broadcast_to(W / 50**0.5 / 4, (4, 2)), rtol=1e-5)
    # Twice as steep, |e|^2 is 100, and v is (0.9 * 0.1 * 25 + 0.1 * 100) / (0.9 * 0.1 + 0.1) = 12.25 / 0.19.
    _, _, gradient, after = normalized(2.0, after, images)
    np.testing.assert_allclose(gradient, np.broadcast_to(2 * W / (2 * 12.25 / 0.19) ** 0.5 / 4, (4, 2)), rtol=1e-5)
    np.testing.assert_allclose([*after[IMAGE_GRADIENT].values()], [12.25, 0.19], rtol=1e-5)
    # A flat critic has no direction to normalize.
    np.testing.assert_array_equal(normalized(0.0, NEW, images)[2], 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_an_update_of_the_generator_does_not_depend_on_the_scale_of_the_critic(shared):
    def moved(scale, normalizes):
        game = point_game(
            generator={"optimizer": sgd}, discriminator={"module": Linear(scale)}, loss=losses.wasserstein(),
            share_latents=shared, normalizes_gradient=normalizes,
        )  # fmt: skip
        start = state.create(game, hyperparams(0.1), seed=0)
        frozen = hyperparams(0.1).replace(discriminator=hyperparams(0.0).discriminator)
        after, metrics = jit(functools.partial(steps.train_step, game=game))(start, batches(game), frozen)
        return optax.tree.sub(after.generator.params, start.generator.params), metrics

    (small, metrics), (large, large_metrics) = moved(1.0, True), moved(1000.0, True)
    assert_close(small, large, atol=1e-6)
    assert optax.tree.norm(small) > 1e-3
    # The loss that is logged is not normalized, and without the option neither is the update.
    np.testing.assert_allclose(1000 * metrics["generator_loss"], large_metrics["generator_loss"], rtol=1e-4)
    ratio = optax.tree.norm(moved(1000.0, False)[0]) / optax.tree.norm(moved(1.0, False)[0])
    np.testing.assert_allclose(ratio, 1000.0, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["jit", "pmap"])
def test_more_devices_change_nothing_but_the_order_of_a_sum(wrapper):
    game = flow_game(noisy_game)
    (trained, metrics), (alone, metrics_alone) = (
        jax.device_get(train_on(count, way, game, count=2, **WEIGHTS)) for count, way in ((4, wrapper), (1, "jit"))
    )
    assert_close(trained, alone, atol=2e-4)
    for name in ("transport", "centering"):
        np.testing.assert_allclose(metrics[name], metrics_alone[name], rtol=1e-4)
    found = (current.running_stats[IMAGE_GRADIENT] for current in (trained, alone))
    np.testing.assert_allclose(*([*sums.values()] for sums in found), rtol=1e-4)
    assert alone.running_stats[IMAGE_GRADIENT]["square"] > 0


def test_parts_of_a_batch_observe_what_the_whole_observes():
    # Each part is divided by a norm that it has a share in (tests/test_memory_parts.py); their mean square is the same.
    game = flow_game()
    settings = hyperparams(**WEIGHTS)
    start = state.create(game, settings, seed=0)
    batch = jax.tree.map(lambda leaf: leaf[0], batches(game))
    update = jit(steps.generator_step, static_argnames="game")
    whole, parts = (update(start, batch, settings, game=changed(game, microbatches=n))[0] for n in (1, 4))
    assert_close(parts.running_stats, whole.running_stats, atol=1e-6)


def test_a_restored_state_goes_on_in_the_same_bits(tmp_path):
    game, settings = flow_game(), hyperparams(**WEIGHTS)
    step = jit(functools.partial(steps.train_step, hyperparams=settings, game=game))
    data = [batches(game, seed=seed) for seed in range(4)]
    halfway, _ = step(step(state.create(game, settings, seed=0), data[0])[0], data[1])
    with checkpoint.open_manager(tmp_path / "checkpoints") as manager:
        checkpoint.save(manager, 2, halfway)
        manager.wait_until_finished()
        layout = sharding.state_sharding(halfway, meshes.first(1), sharded=False)
        restored = checkpoint.restore(manager, sharding.abstract(jax.eval_shape(lambda: halfway), layout))
    ends = [step(step(current, data[2])[0], data[3])[0] for current in (halfway, restored)]
    assert checkpoint.digests(ends[0]) == checkpoint.digests(ends[1])
    np.testing.assert_allclose(ends[0].running_stats[IMAGE_GRADIENT]["weight"], 1 - 0.9**4, rtol=1e-5)


def test_weights_of_zero_are_the_recipe_without_the_parts():
    config = toy.get_config()
    plain = make_game(config, image_shape=(1, 1, 2))
    assert "transport" not in plain.generator.penalties and not plain.normalizes_gradient
    config.latent.size = 0  # as many numbers as a point has, which is the 2 of configs/toy.py
    assert make_game(config, image_shape=(1, 1, 2)) == plain
    # A weight that a schedule has brought to zero is another program, and the same up to rounding.
    with_parts = changed(flow_game(), normalizes_gradient=False)
    without = changed(with_parts, generator={"penalties": ()}, discriminator={"penalties": ()})
    ends = []
    for game, settings in ((with_parts, hyperparams(transport=0.0, centering=0.0)), (without, hyperparams())):
        step = jit(functools.partial(steps.train_step, game=game, hyperparams=settings))
        ends.append(step(step(state.create(game, settings, seed=0), batches(game))[0], batches(game, seed=1))[0])
    assert_close(ends[0].generator.params, ends[1].generator.params, atol=1e-5)
    assert_close(ends[0].discriminator.params, ends[1].discriminator.params, atol=1e-5)


def test_the_study_compares_with_the_exact_optimal_transport():
    # In one dimension sorted values are matched, here 0 to 5 and 1 to 7: (25 + 36) / 2 instead of (49 + 16) / 2.
    line = np.array([[0.0], [1.0]])
    ends = np.array([[7.0], [5.0]])
    np.testing.assert_array_equal(transport_plans.optimal_plan(line, ends), [[5.0], [7.0]])
    assert transport_plans.cost(line, ends) == 32.5 and transport_plans.cost(line, ends[::-1]) == 30.5
    # In the plane, a shift is the optimal transport of points to their shifted copies.
    points = np.random.default_rng(0).standard_normal((50, 2))
    shifted = points + np.array([3.0, 4.0])
    np.testing.assert_array_equal(transport_plans.optimal_plan(points, shifted[::-1]), shifted)
    np.testing.assert_allclose(transport_plans.cost(points, shifted), 25.0)


@pytest.mark.parametrize("row", transport_plans.ROWS)
def test_the_study_s_rows_have_the_parts_that_they_say(row):
    config = transport_plans.configured("line4", row, 100, [])
    game, weight = make_game(config, image_shape=(1, 1, 1)), config.penalties.transport
    assert ("transport" in game.generator.penalties) == (row not in ("none", "centering, normalized"))
    assert ("centering" in game.discriminator.penalties) == (row != "none")
    assert game.normalizes_gradient == (row not in ("none", "0.05 without normalization"))
    assert game.latent_size == 1 and (weight == float(row.split()[0]) if row[0] == "0" else weight in (0.0, 0.2))
