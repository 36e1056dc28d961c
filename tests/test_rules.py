"""gan.steps beyond the plain game: lazy and accumulated gradients, bounds, selection, memory, augmentation."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from players import PointDiscriminator, batches, changed, hyperparams, noisy_game, point_game

from gan import state, steps, updates
from gan.augment import AUGMENTS, Augment
from gan.estimators import Exact, finite_difference, normal
from gan.game import SPECTRAL_NORM
from gan.optimizers import sgd

discriminator_step = jax.jit(steps.discriminator_step, static_argnames="game")
generator_step = jax.jit(steps.generator_step, static_argnames="game")
PLAIN = {"optimizer": sgd}
"""Gradient descent: an update is the rate times the gradient, and differences stay as small as they are."""


def first_batch(game, **settings):
    return jax.tree.map(lambda leaf: leaf[0], batches(game, **settings))


def moved(before, after):
    return jax.tree.map(lambda a, b: b - a, before.params, after.params)


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize(
    "player, step, estimator",
    [
        pytest.param("discriminator", discriminator_step, Exact(), marks=pytest.mark.slow),
        pytest.param("discriminator", discriminator_step, finite_difference(0.1), marks=pytest.mark.slow),
        pytest.param("discriminator", discriminator_step, finite_difference(0.1, every=2), marks=pytest.mark.slow),
        ("generator", generator_step, Exact()),
    ],
)
def test_an_update_in_parts_is_the_update_of_the_whole_batch(player, step, estimator):
    names = ("r1", "r2") if player == "discriminator" else ("ortho",)
    whole = point_game(**{player: {**PLAIN, "penalties": names}}, gradient_estimator=estimator)
    settings = hyperparams(0.1, **dict.fromkeys(names, 0.1))
    batch = first_batch(whole)
    start = state.create(whole, settings, seed=0)
    once, metrics = step(start, batch, settings, game=whole)
    parts, parts_metrics = step(start, batch, settings, game=changed(whole, microbatches=4))
    assert_close(getattr(parts, player).params, getattr(once, player).params, atol=2e-6)
    assert_close(parts_metrics, metrics, rtol=1e-4, atol=1e-6)
    one_part = jax.tree.map(lambda leaf: leaf[::4], batch)
    alone, _ = step(start, one_part, settings, game=whole)  # the check can fail: a part alone moves elsewhere
    assert optax.tree.norm(optax.tree.sub(getattr(alone, player).params, getattr(once, player).params)) > 1e-3


def test_each_part_of_a_batch_has_a_key_of_its_own_and_the_statistics_of_the_part_before():
    def objective(params, batch_stats, part, penalized):
        drawn = jax.random.uniform(part["key"])
        return params["w"] * drawn, ({"parts": batch_stats["parts"] + 1}, {"rows": part["row"].sum()}, {})

    game, key = point_game(microbatches=4), jax.random.key(3)
    player = state.Player({"w": jnp.float32(1.0)}, {"parts": jnp.float32(0.0)}, None)
    gradient, (batch_stats, metrics, _) = updates.gradient_of(
        objective, player, game.discriminator, first_batch(game), game=game, step=jnp.int32(0), key=key
    )
    drawn = [jax.random.uniform(jax.random.fold_in(key, part)) for part in range(4)]
    np.testing.assert_allclose(gradient["w"], np.mean(drawn), rtol=1e-6)
    assert batch_stats["parts"] == 4
    assert metrics["rows"] == sum(range(16)) / 4  # each row is in one part


def test_a_lazy_penalty_is_scaled_by_its_interval():
    eager = point_game(discriminator={**PLAIN, "penalties": ("r1",)})
    lazy = changed(eager, discriminator={"penalty_interval": 4})
    free = point_game(discriminator=PLAIN)
    batch = first_batch(eager)
    start = state.create(eager, hyperparams(0.1, r1=0.5), seed=0)

    def update(game, weight, step):
        settings = hyperparams(0.1, r1=weight) if weight else hyperparams(0.1)
        after, metrics = discriminator_step(start.replace(step=jnp.int32(step)), batch, settings, game=game)
        return after.discriminator.params, metrics

    due, metrics = update(lazy, 0.5, 8)
    heavy, heavy_metrics = update(eager, 4 * 0.5, 8)
    assert_close(due, heavy, atol=2e-6)
    np.testing.assert_allclose(metrics["r1"], 4 * heavy_metrics["r1"], rtol=1e-5)  # its mean over 4 steps is R1
    skipped, metrics = update(lazy, 0.5, 9)
    assert_close(skipped, update(free, 0.0, 9)[0], atol=2e-6)
    assert metrics["r1"] == 0.0
    assert optax.tree.norm(optax.tree.sub(due, skipped)) > 1e-3


def test_a_long_gradient_is_shortened_and_a_short_one_left():
    game = point_game(discriminator=PLAIN)
    batch = first_batch(game)
    start = state.create(game, hyperparams(), seed=0)

    def length(clip_norm):
        after, metrics = discriminator_step(start, batch, hyperparams(1.0, beta1=0.0, clip_norm=clip_norm), game=game)
        return optax.tree.norm(moved(start.discriminator, after.discriminator)), metrics["discriminator_gradient_norm"]

    free, norm = length(0.0)
    np.testing.assert_allclose(free, norm, rtol=1e-5)  # at a rate of 1 the step is the gradient
    _, metrics = discriminator_step(start, batch, hyperparams(0.5, beta1=0.0), game=game)
    relative = 0.5 * norm / optax.tree.norm(start.discriminator.params)
    np.testing.assert_allclose(metrics["discriminator_relative_update"], relative, rtol=1e-5)
    np.testing.assert_allclose(length(norm / 3), (norm / 3, norm), rtol=1e-5)
    np.testing.assert_allclose(length(norm * 3), (norm, norm), rtol=1e-5)


def test_clipped_weights_stay_within_their_bound():
    game = point_game(clips_weights=True)
    start = state.create(game, hyperparams(), seed=0)
    after, _ = discriminator_step(start, first_batch(game), hyperparams(weight_clip=0.02), game=game)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(after.discriminator.params))
    np.testing.assert_allclose(largest, 0.02, rtol=1e-6)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(start.discriminator.params)) > 0.05


def test_the_generator_learns_from_the_images_that_look_most_real():
    # Logits 3, 1, 2, 0 with losses 10, 20, 30, 40: the upper half are the first and the third.
    logits, losses = jnp.array([3.0, 1.0, 2.0, 0.0]), jnp.array([10.0, 20.0, 30.0, 40.0])
    for share, mean in ((0.5, 20.0), (0.25, 10.0), (1.0, 25.0), (0.01, 10.0)):
        assert updates.mean_of_top(losses, logits, jnp.float32(share)) == mean
    game = point_game(selects_top=True)
    start = state.create(game, hyperparams(), seed=0)
    _, half = generator_step(start, first_batch(game), hyperparams(top_k=0.5), game=game)
    _, all_of_them = generator_step(start, first_batch(game), hyperparams(top_k=1.0), game=game)
    assert half["generator_loss"] < all_of_them["generator_loss"]  # what looks real loses less


def test_lecam_remembers_the_mean_logits():
    game = point_game(discriminator={"penalties": ("lecam",)})
    settings = hyperparams(lecam=0.3)
    start = state.create(game, settings, seed=0)
    assert jax.tree.leaves(start.running_stats) == [0.0, 0.0]
    batch = first_batch(game)
    after, metrics = discriminator_step(start, batch, settings, game=game)
    logits = game.discriminate(start.discriminator.variables, batch["image"], None, train=False).logits
    # A running mean that began at zero has a hundredth of the first one; LeCam then is the mean square of the logits.
    np.testing.assert_allclose(after.running_stats["lecam"]["real"], 0.01 * jnp.mean(logits), rtol=1e-4)
    assert metrics["lecam"] > jnp.mean(jnp.square(logits)) - 1e-6


class StyledGenerator(nn.Module):
    """A point, scale (w_1 + w_2), of the styles w_1 = w_2 = 3 z of two layers."""

    styles: ClassVar[bool] = True

    @nn.compact
    def __call__(self, latent, label, train):
        styles = self.perturb("styles", jnp.stack([3.0 * latent, 3.0 * latent], axis=1))
        return self.param("scale", nn.initializers.constant(2.0), ()) * styles.sum(1)[:, None, None, :]


def test_path_length_is_taken_by_the_styles_of_a_generator_that_has_some():
    game = point_game(
        generator={"module": StyledGenerator(), "penalties": ("path_length",), "penalty_interval": 4}, latent_size=2
    )
    settings = hyperparams(path_length=2.0)
    start = state.create(game, settings, seed=0)
    batch = first_batch(game)
    assert game.zero_style_offsets(jnp.zeros((5, 2)), jnp.zeros(5, jnp.int32)).shape == (5, 2, 2)
    assert point_game().zero_style_offsets(jnp.zeros((5, 8)), jnp.zeros(5, jnp.int32)) is None
    after, metrics = generator_step(start, batch, settings, game=game)
    # J^T y is 2 y by either layer, so 2 |y| is the length: of every second example, with the noise y of its key.
    keys = state.example_keys(state.named_key(jax.random.split(start.key)[1], "penalty"), batch["row"])[::2]
    lengths = 2 * np.linalg.norm(normal(keys, "path_length", (1, 1, 2)), axis=-1)
    np.testing.assert_allclose(after.running_stats["path_length"]["length"], 0.01 * lengths.mean(), rtol=1e-4)
    # The mean is still 0, and what is due counts for four steps.
    np.testing.assert_allclose(metrics["path_length"], 4 * np.square(lengths).mean(), rtol=1e-4)


def test_an_adaptive_probability_follows_the_sign_of_the_real_logits():
    game = point_game(adaptive_augment=True, augment=AUGMENTS["apa"]())
    settings = hyperparams(1e-2, p=0.5, target=0.6)  # 1,000 images to one: 64 images in four updates are 0.064
    current = state.create(game, settings, seed=0)
    seen, signs = [], []
    for _ in range(9):
        current, metrics = discriminator_step(current, first_batch(game), settings, game=game)
        seen.append(float(current.running_stats["augment"]["p"]))
        signs.append(float(metrics["discriminator_sign"]))
    steps_of_p = [0.064 * np.sign(np.mean(signs[k : k + 4]) - 0.6) for k in (0, 4)]
    np.testing.assert_allclose(seen[:3], 0.5)
    np.testing.assert_allclose(seen[3:7], 0.5 + steps_of_p[0], rtol=1e-5)
    np.testing.assert_allclose(seen[7:], 0.5 + sum(steps_of_p), rtol=1e-5)
    assert int(current.running_stats["augment"]["updates"]) == 1


def brighter(images, keys, p):
    return images + 3.0 * p * jax.vmap(jax.random.uniform)(keys)[:, None, None, None]


class LabelGenerator(nn.Module):
    """Points that are moved by their label."""

    @nn.compact
    def __call__(self, latent, label, train):
        return (nn.Dense(2)(latent) + label[:, None]).reshape(-1, 1, 1, 2)


class LabelDiscriminator(nn.Module):
    @nn.compact
    def __call__(self, image, label, train):
        return nn.Dense(1)(image.reshape(len(image), -1))[:, 0] * (1 + label)


def test_both_players_see_labels_and_augmented_images():
    players = {"generator": {"module": LabelGenerator()}, "discriminator": {"module": LabelDiscriminator()}}
    game = point_game(augment=Augment(brighter), **players)
    start, settings = state.create(game, hyperparams(), seed=0), hyperparams(p=0.5)
    batch = first_batch(game) | {"label": jnp.arange(16, dtype=jnp.int32) % 3}
    update_key = jax.random.split(start.key)[1]

    def keys(name):
        return state.example_keys(state.named_key(update_key, name), batch["row"])

    def judged(use, images):
        images = brighter(images, keys(f"augment_{use}"), 0.5)
        return game.discriminate(start.discriminator.variables, images, batch["label"], train=True).logits

    fake, _ = game.generate(start.generator.variables, game.latents(keys("latent")), batch["label"], train=True)
    real, fake = judged("real", batch["image"]), judged("fake", fake)
    _, metrics = discriminator_step(start, batch, settings, game=game)
    expected = jnp.mean(jax.nn.softplus(-real) + jax.nn.softplus(fake))
    np.testing.assert_allclose(metrics["discriminator_loss"], expected, rtol=1e-5)
    _, metrics = generator_step(start, batch, settings, game=game)
    np.testing.assert_allclose(metrics["generator_loss"], jnp.mean(jax.nn.softplus(-fake)), rtol=1e-5)


def test_the_logits_of_all_devices_are_gathered():
    logits = jnp.arange(8.0).reshape(4, 2)  # of two examples on each of four devices
    gathered = jax.vmap(lambda own: updates.gather_logits("devices", own), axis_name="devices")(logits)
    np.testing.assert_array_equal(gathered, np.broadcast_to(np.arange(8), (4, 8)))
    assert updates.gather_logits(None, logits) is logits


def test_each_four_signs_are_a_measurement_of_their_own():
    settings = hyperparams(target=0.6)  # 1,000 images to one: 4 times 16 images are 0.064
    now = {"p": jnp.float32(0.5), "signs": jnp.float32(0.0), "updates": jnp.int32(0)}
    seen = []
    for sign in (1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5):  # means of 1 and of 0.5
        now = updates.adapt_augment(now, jnp.float32(sign), settings, jnp.uint32(16))
        seen.append(float(now["p"]))
    np.testing.assert_allclose(seen, [0.5, 0.5, 0.5, 0.564, 0.564, 0.564, 0.564, 0.5], rtol=1e-5)


def test_pseudo_augmentation_shows_generated_images_as_real():
    game = point_game(discriminator=PLAIN, augment=AUGMENTS["apa"]())
    start = state.create(game, hyperparams(), seed=0)
    batch = first_batch(game, size=256)

    def real_share(p):
        _, metrics = discriminator_step(start, batch | {"image": batch["image"] + 50.0}, hyperparams(p=p), game=game)
        assert metrics["discriminator_real"] != metrics["discriminator_fake"]  # images of other latents
        return metrics["discriminator_real"]

    untouched, all_replaced, half = real_share(0.0), real_share(1.0), real_share(0.5)
    # Far from where the generator paints, D's answers differ; with p = 1 only its own images are left.
    assert abs(untouched - all_replaced) > 0.1
    np.testing.assert_allclose(half, (untouched + all_replaced) / 2, atol=0.1 * abs(untouched - all_replaced) + 0.02)


def test_spectral_normalisation_needs_no_word_from_the_network():
    game = point_game(discriminator={"spectral_norm": True, "penalties": ("r1",)}, generator={"spectral_norm": True})
    settings = hyperparams(r1=0.1)
    current = state.create(game, settings, seed=0)
    before = current
    for _ in range(30):
        current, metrics = discriminator_step(current, first_batch(game), settings, game=game)
    # Three layers of norm one, with ReLU between: the slope of D is at most one, and R1 its mean square.
    assert metrics["r1"] <= 1.0 + 1e-3
    plain = game.discriminator.module.apply({"params": current.discriminator.params}, jnp.eye(2).reshape(2, 1, 1, 2),
                                            None, False)  # fmt: skip
    bounded = game.discriminate(current.discriminator.variables, jnp.eye(2).reshape(2, 1, 1, 2), None, train=False)
    assert np.abs(plain - bounded.logits).max() > 1e-3
    assert set(current.discriminator.batch_stats[SPECTRAL_NORM]) == {f"Dense_{i}/kernel" for i in range(3)}
    assert_close(current.generator, before.generator)  # the discriminator's update leaves G's vectors alone
    after, _ = generator_step(current, first_batch(game), settings, game=game)
    assert_close(after.discriminator, current.discriminator)


def test_the_players_rules_are_told_apart():
    assert point_game() == point_game()
    assert hash(point_game()) == hash(point_game())
    assert point_game() != point_game(discriminator={"spectral_norm": True})
    assert isinstance(point_game().discriminator.module, PointDiscriminator)


@pytest.mark.parametrize("build", [point_game, pytest.param(noisy_game, marks=pytest.mark.slow)])
def test_half_precision_computes_close_by_and_keeps_everything_in_full(build):
    penalties = {"discriminator": {**PLAIN, "penalties": ("r1",)}} if build is point_game else {"discriminator": PLAIN}
    full = build(generator=PLAIN, **penalties)
    settings = hyperparams(0.1, **dict.fromkeys(full.discriminator.penalties, 0.1))
    batch = first_batch(full)
    start = state.create(full, settings, seed=0)

    def step(game):
        after, on_real = discriminator_step(start, batch, settings, game=game)
        after, on_fake = generator_step(after, batch, settings, game=game)
        return after, on_real | on_fake

    expected, expected_metrics = step(full)
    after, metrics = step(changed(full, compute_dtype="bfloat16"))
    kept, expected_kept = (
        jax.tree.map(lambda leaf: leaf.dtype, (end.generator, end.discriminator, found))
        for end, found in ((after, metrics), (expected, expected_metrics))
    )
    assert kept == expected_kept
    for player in ("generator", "discriminator"):
        before = getattr(start, player)
        moves = [jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(moved(before, getattr(end, player)))])
                 for end in (after, expected)]  # fmt: skip
        # Eight bits of mantissa: the two updates point the same way, and are not the same.
        cosine = jnp.vdot(*moves) / (jnp.linalg.norm(moves[0]) * jnp.linalg.norm(moves[1]))
        assert cosine > 0.99
        assert jnp.abs(moves[0] - moves[1]).max() > 1e-6
    assert_close(metrics, expected_metrics, rtol=0.05, atol=0.01)
