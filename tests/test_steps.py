"""gan.steps and gan.state: who is updated, by how much, and what the numbers do not depend on."""

import functools

import jax
import jax.numpy as jnp
import meshes
import numpy as np
import optax
import pytest
from flax import linen as nn
from players import (
    DropoutDiscriminator,
    NoisyDiscriminator,
    PointGenerator,
    batches,
    hyperparams,
    noisy_game,
    point_game,
)

from gan import state, steps
from gan.errors import UserError
from gan.estimators import finite_difference
from gan.parallel import compilation, sharding

discriminator_step = jax.jit(steps.discriminator_step, static_argnames="game")
generator_step = jax.jit(steps.generator_step, static_argnames="game")
train_step = jax.jit(steps.train_step, static_argnames="game")


def first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def differ(a, b):
    return any(bool(jnp.any(x != y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def assert_close(a, b, atol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, atol=atol)


def test_a_discriminator_update_leaves_the_generator_untouched_and_the_reverse():
    game = noisy_game()
    before = state.create(game, hyperparams(), seed=0)
    batch = first(batches(game))
    after_d, _ = discriminator_step(before, batch, hyperparams(), game=game)
    assert differ(after_d.discriminator, before.discriminator)
    assert not differ(after_d.generator, before.generator)
    after_g, _ = generator_step(before, batch, hyperparams(), game=game)
    assert differ(after_g.generator, before.generator)
    assert not differ(after_g.discriminator, before.discriminator)


def test_the_discriminators_batch_statistics_are_of_real_and_then_of_generated_images():
    game = noisy_game()
    start, batch = state.create(game, hyperparams(), seed=0), first(batches(game))
    after, _ = discriminator_step(start, batch, hyperparams(), game=game)
    update_key = jax.random.split(start.key)[1]
    latent = game.latents(state.example_keys(state.named_key(update_key, "latent"), batch["row"]))
    key = state.named_key(update_key, "generator")
    fake, _ = game.generate(start.generator.variables, latent, batch["label"], train=True, key=key)
    kernel = start.discriminator.params["Dense_0"]["kernel"]
    real, fake = (np.asarray(image.reshape(16, -1) @ kernel, np.float64) for image in (batch["image"], fake))
    # Each pass keeps 0.9 of the running value and adds 0.1 of its own: 0.9 (0.9 old + 0.1 real) + 0.1 generated.
    found = after.discriminator.batch_stats["BatchNorm_0"]["BatchNorm_0"]
    np.testing.assert_allclose(found["mean"], 0.09 * real.mean(0) + 0.1 * fake.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["var"], 0.81 + 0.09 * real.var(0) + 0.1 * fake.var(0), atol=1e-5)


def test_a_turn_is_its_updates_in_order():
    game = noisy_game(discriminator={"steps": 3}, generator={"steps": 2})
    step_batches = batches(game)
    start = state.create(game, hyperparams(), seed=0)
    turned, metrics = train_step(start, step_batches, hyperparams(), game=game)
    by_hand = start
    for index in range(3):
        batch = jax.tree.map(lambda leaf, index=index: leaf[index], step_batches)
        by_hand, _ = discriminator_step(by_hand, batch, hyperparams(), game=game)
    for _ in range(2):
        by_hand, _ = generator_step(by_hand, batch, hyperparams(), game=game)
    assert_close(turned.generator, by_hand.generator, atol=1e-6)
    assert_close(turned.discriminator, by_hand.discriminator, atol=1e-6)
    assert int(turned.step) == 1
    assert int(turned.images) == 3 * 16
    assert set(metrics) == {
        "discriminator_loss", "discriminator_real", "discriminator_fake", "discriminator_gradient_norm",
        "discriminator_relative_update", "generator_loss", "generator_gradient_norm", "generator_relative_update",
    }  # fmt: skip


def test_the_first_adam_update_moves_every_parameter_by_the_learning_rate():
    # Adam's first update is lr * g / (|g| + eps'): lr in size wherever the gradient is not tiny.
    game = point_game()
    before = state.create(game, hyperparams(), seed=0)
    after, _ = discriminator_step(before, first(batches(game)), hyperparams(3e-3), game=game)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b), before.discriminator.params, after.discriminator.params)
    moved = np.asarray(moved["Dense_2"]["kernel"])
    live = moved > 0  # a unit of the layer below that is dead on this batch has no gradient
    np.testing.assert_allclose(moved[live], 3e-3, rtol=1e-2)
    assert live.mean() > 0.8


def test_losses_and_gradient_norms_are_those_of_plain_jax():
    game = point_game()
    start = state.create(game, hyperparams(), seed=0)
    batch = first(batches(game))
    _, metrics = discriminator_step(start, batch, hyperparams(), game=game)
    step_key = jax.random.split(start.key)[1]
    latent = game.latents(state.example_keys(state.named_key(step_key, "latent"), batch["row"]))
    fake = game.generator.module.apply(start.generator.variables, latent, None, True)

    def loss(params):
        real_logits = game.discriminator.module.apply({"params": params}, batch["image"], None, True)
        fake_logits = game.discriminator.module.apply({"params": params}, fake, None, True)
        cross_entropy = optax.sigmoid_binary_cross_entropy
        value = jnp.mean(cross_entropy(real_logits, jnp.ones(16)) + cross_entropy(fake_logits, jnp.zeros(16)))
        return value, (real_logits, fake_logits)

    (value, logits), gradient = jax.value_and_grad(loss, has_aux=True)(start.discriminator.params)
    for name, found in zip(("real", "fake"), logits, strict=True):
        np.testing.assert_allclose(metrics[f"discriminator_{name}"], jnp.mean(jax.nn.sigmoid(found)), rtol=1e-6)
    np.testing.assert_allclose(metrics["discriminator_loss"], value, rtol=1e-6)
    np.testing.assert_allclose(metrics["discriminator_gradient_norm"], optax.tree.norm(gradient), rtol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_players_share_their_latents_within_a_turn_if_the_game_says_so(shared):
    seen = []

    class Watched(nn.Module):
        @nn.compact
        def __call__(self, latent, label, train):
            seen.append(np.asarray(latent))
            return PointGenerator(name="inner")(latent, label, train)

    game = point_game(generator={"module": Watched(), "steps": 2}, discriminator={"steps": 2}, share_latents=shared)
    current = state.create(game, hyperparams(), seed=0)
    seen.clear()
    for _ in range(2):  # not compiled: every update shows its latents
        current, _ = steps.train_step(current, batches(game), hyperparams(), game=game)
    # The last update of D and the first of G share their fakes too: three forward passes for four updates.
    assert len(seen) == (6 if shared else 8)
    # Draws are continuous: they are equal only if they are the same.
    alike = np.array([[np.array_equal(a, b) for b in seen] for a in seen])
    np.testing.assert_array_equal(alike, np.kron(np.eye(2), np.ones((3, 3))) if shared else np.eye(8))


@pytest.mark.parametrize("halflife, kept", [(100.0, 2 ** (-16 / 100)), (16.0, 0.5), (0.0, 0.0)])
def test_the_average_keeps_half_after_its_halflife(halflife, kept):
    game = noisy_game()
    before = state.create(game, hyperparams(), seed=0)
    after, _ = train_step(before, batches(game), hyperparams(ema_halflife=halflife), game=game)
    for part in ("params", "batch_stats"):
        expected = jax.tree.map(
            lambda old, new: kept * old + (1 - kept) * new,
            getattr(before.ema, part),
            getattr(after.generator, part),
        )
        assert_close(getattr(after.ema, part), expected, atol=1e-6)
        assert differ(getattr(after.ema, part), getattr(before.ema, part))


def test_same_seed_same_run_and_another_seed_another():
    game = noisy_game()

    def train(seed):
        current = state.create(game, hyperparams(), seed=seed)
        for _ in range(3):
            current, _ = train_step(current, batches(game), hyperparams(), game=game)
        return current.generator

    assert not differ(train(1), train(1))
    assert differ(train(1), train(2))


def test_another_name_for_a_key_leaves_the_other_draws_alone():
    key = jax.random.key(0)
    latent = jax.random.normal(state.named_key(key, "latent"))
    state.named_key(key, "a new augmentation")
    assert latent == jax.random.normal(state.named_key(key, "latent"))
    assert latent != jax.random.normal(state.named_key(key, "a new augmentation"))


def test_an_example_s_draw_depends_on_its_row_alone():
    key, game = jax.random.key(0), point_game()
    whole = game.latents(state.example_keys(key, jnp.arange(8)))
    part = game.latents(state.example_keys(key, jnp.array([6, 2])))
    np.testing.assert_array_equal(part, whole[jnp.array([6, 2])])


def test_in_evaluation_a_sample_does_not_depend_on_its_batch_mates():
    game = noisy_game()
    current, _ = train_step(state.create(game, hyperparams(), seed=0), batches(game), hyperparams(), game=game)
    latent = jax.random.normal(jax.random.key(1), (8, 8))
    together, _ = game.generate(current.ema.variables, latent, None, train=False)
    alone, _ = game.generate(current.ema.variables, latent[3:4], None, train=False)
    np.testing.assert_allclose(alone[0], together[3], atol=1e-6)
    trained, _ = game.generate(current.ema.variables, latent, None, train=True, key=jax.random.key(0))
    assert jnp.abs(trained - together).max() > 1e-3  # the check can fail: training mode does look at the batch


def train_on(devices, wrapper, game, *, sharded=False, count=3, **weights):
    """Takes steps with dropout and batch statistics on the first so many devices: state and metrics, as they lie."""
    mesh, settings = meshes.first(devices), hyperparams(**weights)
    start = state.create(game, settings, seed=0)
    layout = sharding.state_sharding(start, mesh, sharded=sharded)
    if sharded:
        game = game.with_sharded_updates(
            *(functools.partial(f, mesh=mesh) for f in (sharding.shard, sharding.all_gather))
        )

    def step(current, data, rows, numbers, axis_name):
        shape = data["label"].shape
        data = data | {"row": jnp.broadcast_to(rows[None], shape)}
        return steps.train_step(current, data, numbers, game=game, axis_name=axis_name)

    compiled = compilation.compile_steps(
        step, mesh, wrapper=wrapper, batch_size=16, data_axis=1, max_steps=1, hyperparams=settings, layout=layout
    )
    current = jax.device_put(start, layout)
    for number in range(count):
        data = {name: np.asarray(leaf) for name, leaf in batches(game, seed=number).items() if name != "row"}
        current, metrics = compiled(current, data, 1)
    return current.replace(key=jax.random.key_data(current.key)), metrics


@functools.cache
def trained_on_one():
    return jax.device_get(train_on(1, "jit", noisy_game()))


@pytest.mark.parametrize(
    "devices, sharded",
    [
        (8, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((2, False), (4, False), (8, False), (1, True), (2, True), (4, True))
        ),
    ],
)
def test_more_devices_change_nothing_but_the_order_of_a_sum(devices, sharded):
    trained = train_on(devices, "jit", noisy_game(), sharded=sharded)
    # Adam divides by the root of a second moment that starts at zero: 1e-7 in a gradient can be 1e-4 in a parameter.
    assert_close(jax.device_get(trained), trained_on_one(), atol=2e-4)
    # What a device holds, in numbers of 4 bytes. G: kernels 8*16 + 16*12, BN 2*16: 352. D: 12*16 + 16, BN 2*16 and a
    # bias: 241, of which all but the bias divides by 8. The statistics of BN are 2*16 for each player. Adam keeps two
    # numbers for each parameter and a count for each player, the averaged generator is 352 + 32. Step, images and key
    # are 4.
    ways = devices if sharded else 1
    expected = 352 + 241 + 2 * 32 + 2 * (352 // ways + 240 // ways + 1) + 2 + (352 + 32) // ways + 4
    current, _ = trained
    held = dict.fromkeys(jax.devices()[:devices], 0)
    for shard in (shard for leaf in jax.tree.leaves(current) for shard in leaf.addressable_shards):
        held[shard.device] += shard.data.nbytes
    assert set(held.values()) == {4 * expected}
    layout = sharding.state_sharding(current, meshes.first(devices), sharded=sharded)
    assert sharding.bytes_per_device(current, layout) == 4 * expected


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_pmap_changes_nothing_but_the_order_of_a_sum(devices):
    assert_close(jax.device_get(train_on(devices, "pmap", noisy_game())), trained_on_one(), atol=2e-4)


@pytest.mark.parametrize("wrapper", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
def test_a_part_of_the_batch_is_the_same_examples_on_every_number_of_devices(wrapper):
    rules = {"module": DropoutDiscriminator(), "penalties": ("r1", "r2")}
    game = noisy_game(discriminator=rules, gradient_estimator=finite_difference(0.1, every=2))
    trained, alone = (
        jax.device_get(train_on(devices, way, game, count=2, r1=1.0, r2=1.0))
        for devices, way in ((4, wrapper), (1, "jit"))
    )
    assert_close(trained, alone, atol=2e-4)
    np.testing.assert_allclose(*(metrics[name] for _, metrics in (trained, alone) for name in ("r1",)), rtol=1e-4)


def test_a_device_without_an_even_part_is_refused():
    game = point_game(discriminator={"penalties": ("r1",)}, gradient_estimator=finite_difference(0.1, every=8))
    with pytest.raises(UserError, match="every=8 does not divide a device's 4 examples .*use config.parallel='jit'"):
        train_on(4, "pmap", game, r1=1.0)


@pytest.mark.slow
def test_without_the_axis_name_devices_would_disagree():
    # The check above can fail: a discriminator whose statistics stay on its device gives other numbers.
    class Deaf(nn.Module):
        @nn.compact
        def __call__(self, image, label, train):
            return NoisyDiscriminator(name="inner")(image, label, train)

    game = noisy_game(discriminator={"module": Deaf()})
    whole, _ = train_on(1, "jit", game)
    split, _ = train_on(4, "pmap", game)
    weights = [np.asarray(current.discriminator.params["inner"]["Dense_0"]["kernel"]) for current in (whole, split)]
    assert np.abs(weights[0] - weights[1]).max() > 1e-3


@pytest.mark.slow
def test_a_turn_can_be_scanned_and_vmapped():
    game = point_game()
    settings = hyperparams()
    step = functools.partial(steps.train_step, game=game)
    data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(batches(game, seed=seed) for seed in range(3)))
    start = state.create(game, settings, seed=0)
    scanned, metrics = jax.jit(lambda s: jax.lax.scan(lambda s, d: step(s, d, settings), s, data))(start)
    looped = start
    for index in range(3):
        looped, _ = jax.jit(step)(looped, jax.tree.map(lambda leaf, index=index: leaf[index], data), settings)
    assert metrics["generator_loss"].shape == (3,)
    assert_close(scanned.generator, looped.generator, atol=1e-5)

    population = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(state.create(game, settings, seed=s) for s in (0, 1))
    )
    rates = jax.tree.map(lambda *leaves: jnp.stack(leaves), hyperparams(1e-3), hyperparams(1e-2))
    together, _ = jax.jit(jax.vmap(step, in_axes=(0, None, 0)))(population, batches(game), rates)
    alone, _ = jax.jit(step)(state.create(game, settings, seed=1), batches(game), hyperparams(1e-2))
    assert_close(jax.tree.map(lambda leaf: leaf[1], together).generator.params, alone.generator.params, atol=1e-4)
