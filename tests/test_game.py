"""gan.game: names become functions, or one line; priors, ranges and counts are what they say."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import players
import pytest
import runs
from flax import linen as nn
from twins import jit

from configs import default
from gan import build as build_module
from gan.build import make_game
from gan.errors import UserError
from gan.game import initial_variables
from gan.networks.layers.dropout import Dropout
from gan.networks.layers.initializers import INITIALIZERS, initializer

SHAPE = (32, 32, 1)
ESTIMATED = {"penalties__r1": 1.0, "discriminator__batch_norm": False}


def build(image_shape=SHAPE, **overrides):
    return make_game(runs.config(**overrides), image_shape=image_shape, num_classes=10)


def test_a_game_is_frozen_and_hashable():
    assert hash(build()) == hash(build())
    assert build() == build()
    assert build() != build(discriminator_steps=2)


@pytest.mark.parametrize(
    "overrides, line",
    [
        ({"loss": "hinje"}, "config.loss='hinje' is unknown"),
        ({"loss": "minimax(3)"}, r"config.loss='minimax\(3\)'.*expected: minimax\(\)"),
        ({"generator__network": "dcgn"}, "config.generator.network='dcgn' is unknown; nearest: 'dcgan'"),
        ({"latent__prior": "gaussian"}, "config.latent.prior='gaussian' is unknown"),
        ({"latent__prior": "uniform(0, 1, 2)"}, "config.latent.prior"),
        ({"latent__size": -1}, "config.latent.size=-1"),
        ({"output_activation": "relu"}, "config.output_activation='relu' is unknown; expected: linear, sigmoid, tanh"),
        ({"generator__optimizer": "adma"}, "config.generator.optimizer='adma'.*nearest: 'adam'"),
        ({"discriminator_steps": 0}, "config.discriminator_steps=0"),
        ({"generator__width": 0}, "config.generator.width=0; expected: 1 to"),
        ({"generator__depth": -1}, "config.generator.depth=-1; expected: 0 to"),
        ({"generator__kernel_init": "normal('x', 2, 3, 4)"}, "kernel_init=.*expected: normal"),
        ({"penalties__r1": 1.0}, "config.penalties.r1 needs .* without batch normalization"),
        ({"penalties__path_length": 1.0}, "config.penalties.path_length needs .* a generator without batch norm"),
        ({"penalties__transport": 0.2}, "config.penalties.transport needs latents .*latent.size=100; expected: 0, for"),
        ({"penalties__ac_real": 1.0}, "ac_real needs config.discriminator.conditioning='classifier'"),
        ({"discriminator__penalty_interval": 0}, "config.discriminator.penalty_interval=0 must be at least 1"),
        ({"discriminator__conditioning": "concat"}, "conditioning='concat' is unknown; expected: none, projection"),
        ({"generator__weight_decay": 0.1}, "config.generator.weight_decay=0.1 has no meaning for 'adam'.*adamw, lion"),
        ({"compute_dtype": "float16"}, "config.compute_dtype='float16' is unknown; nearest: 'bfloat16'"),
        ({"microbatches": 3}, "config.microbatches=3 does not divide config.batch_size=8; expected: 1, 2, 4, 8"),
        ({"augment__policy": "adda", "augment__p": 1.0}, "config.augment.policy='adda' is unknown; nearest: 'ada'"),
        ({"augment__policy": "ada"}, "config.augment.p=0 leaves config.augment.policy='ada' idle"),
        ({"gradient_estimator": "exakt"}, "config.gradient_estimator='exakt' is unknown; nearest: 'exact'"),
        (
            {"gradient_estimator": "finite_difference(2, 3, 4)"},
            "config.gradient_estimator=.*expected: finite_difference",
        ),
        ({"gradient_estimator": "finite_difference('x')"}, "config.gradient_estimator=.*sigma='x'; expected: a number"),
        ({"gradient_estimator": "finite_difference(0)"}, "finite_difference's sigma=0 must be above 0"),
        ({"gradient_estimator": "finite_difference(-0.1)"}, "finite_difference's sigma=-0.1 must be above 0"),
        ({"gradient_estimator": "finite_difference(every=0)"}, "finite_difference's every=0 must be at least 1"),
        ({"gradient_estimator": "finite_difference(every=0.5)"}, "every=0.5; expected: a whole number"),
        ({"gradient_estimator": "finite_difference"}, "has no effect without R1 or R2; set config.penalties.r1 or r2"),
        (
            {"gradient_estimator": "finite_difference", "penalties__wgan_gp": 1.0, "discriminator__batch_norm": False},
            "has no effect without R1 or R2; set config.penalties.r1 or r2",
        ),
        (
            {"gradient_estimator": "finite_difference", "penalties__r1": 1.0},
            "config.penalties.r1 needs .* without batch normalization",
        ),
        (
            ESTIMATED | {"gradient_estimator": "finite_difference(every=3)"},
            "every=3 does not divide the 8 examples of a microbatch; expected one of 1, 2, 4, 8$",
        ),
        (
            ESTIMATED | {"gradient_estimator": "finite_difference(every=8)", "microbatches": 2},
            "every=8 does not divide the 4 examples of a microbatch; expected one of 1, 2, 4$",
        ),
        ({"augment__p": 0.5}, "config.augment.policy='none'; expected: .*ada"),
    ],
)
def test_an_impossible_game_is_one_line(overrides, line):
    with pytest.raises(UserError, match=line) as caught:
        build(**overrides)
    assert "\n" not in str(caught.value)


def test_labels_are_learned_of_only_where_there_are_any():
    config = runs.config(discriminator__conditioning="projection")
    make_game(config, image_shape=SHAPE, num_classes=10)
    with pytest.raises(UserError, match="conditioning='projection' needs labels, and the dataset has none"):
        make_game(config, image_shape=SHAPE, num_classes=0)


@pytest.mark.parametrize(
    "conditioning",
    ["embedding", *(pytest.param(name, marks=pytest.mark.slow) for name in ("concat", "concat_embedding"))],
)
def test_a_conditioned_generator_paints_by_its_label_and_a_projection_judges_by_it(conditioning):
    game = build(generator__conditioning=conditioning, discriminator__conditioning="projection")
    label = jnp.array([0, 0, 7])

    @jit
    def painted_and_judged():
        generator, discriminator = initial_variables(game, jax.random.key(0), jax.random.key(1))
        latent = jnp.broadcast_to(jax.random.normal(jax.random.key(2), (1, 100)), (3, 100))
        image, _ = game.generate(generator, latent, label, train=False)
        return image, game.discriminate(discriminator, image[:1].repeat(3, axis=0), label, train=False).logits

    image, logits = painted_and_judged()
    np.testing.assert_allclose(image[0], image[1], atol=1e-6)
    assert np.abs(image[0] - image[2]).max() > 1e-5
    assert logits[0] == logits[1] != logits[2]


def test_a_field_that_the_network_does_not_take_is_named():
    config = runs.config()
    config.unlock()
    config.generator.witdh = 3
    with pytest.raises(
        UserError, match=r"config\.generator\.witdh is not a field of network 'dcgan'; nearest: 'width'"
    ):
        make_game(config, image_shape=SHAPE)


def test_an_image_too_small_shows_the_nearest_size():
    with pytest.raises(UserError, match=r"image_size=\(1, 20\) is too small .* nearest valid: \(2, 20\)"):
        build(image_shape=(1, 20, 1))


def test_priors_have_their_moments():
    keys = jax.random.split(jax.random.key(0), 4000)

    def drawn(prior):
        return np.asarray(build(latent__prior=prior).latents(keys))

    # The mean of 400,000 draws is within 5 sd / 632 of the prior's.
    np.testing.assert_allclose([drawn("normal").mean(), drawn("normal").std()], [0, 1], atol=0.008)
    np.testing.assert_allclose(drawn("normal(-1)").mean(), -1, atol=0.008)
    np.testing.assert_allclose(drawn("normal(-1, 3)").std(), 3, atol=0.024)
    uniform = drawn("uniform(0, 1)")
    assert uniform.min() >= 0 and uniform.max() < 1
    np.testing.assert_allclose([uniform.mean(), uniform.var()], [1 / 2, 1 / 12], atol=0.003)


@pytest.mark.parametrize("output, low, high", [("tanh", -1.0, 1.0), ("sigmoid", 0.0, 1.0)])
def test_images_are_in_the_range_of_the_game(output, low, high):
    game = build(output_activation=output)
    variables, _ = initial_variables(game, jax.random.key(0), jax.random.key(1))
    image, _ = game.generate(variables, 1e4 * jnp.ones((2, 100)), jnp.zeros(2, jnp.int32), train=False)
    assert game.output.image_range == (low, high)
    assert image.shape == (2, *SHAPE)
    assert low <= image.min() < image.max() <= high


def test_truncation_draws_again_what_lies_beyond_it_or_is_the_generators_own():
    keys = jax.random.split(jax.random.key(0), 200)
    game = build(latent__prior="normal(1, 2)", latent__size=100)
    drawn = np.asarray(game.truncated(0.5).latents(keys))
    # Within half a standard deviation of 2 around 1; N(0, 1) cut at b = 0.5 has the variance 1 - 2 b phi(b) / P(b)
    # = 1 - 2 * 0.5 * 0.35207 / 0.38292 = 0.08057.
    assert 0.0 <= drawn.min() < 0.01 and 1.99 < drawn.max() <= 2.0
    np.testing.assert_allclose(drawn.var(), 4 * 0.08057, rtol=0.03)
    assert game.truncated(0.5).generator == game.generator
    with pytest.raises(UserError, match="^truncation=0.5 needs latents from a normal distribution"):
        build(latent__prior="uniform").truncated(0.5)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="expected: a number above 0"):
            game.truncated(wrong)

    class Styled(nn.Module):
        styles: ClassVar[bool] = True
        truncation: float = 1.0

    styled = dataclasses.replace(game, generator=dataclasses.replace(game.generator, module=Styled())).truncated(0.7)
    for psi in (0.0, -0.7):  # the mean style, and styles on its other side
        assert styled.truncated(psi).generator.module.truncation == psi
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="expected: a finite number, psi"):
            styled.truncated(wrong)
    assert styled.generator.module.truncation == 0.7 and styled.prior == game.prior


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initializers_by_name(name):
    weights = initializer(f"{name}(0.02)" if name[-6:] == "normal" and name in ("normal", "truncated_normal") else name)
    drawn = np.asarray(weights(jax.random.key(0), (400, 100), jnp.float32))
    expected = {
        "normal": 0.02,
        "truncated_normal": 0.02 * 0.8796,  # N(0, 1) cut at 2 has standard deviation 0.8796
        "xavier_uniform": np.sqrt(2 / 500),
        "xavier_normal": np.sqrt(2 / 500),
        "fan_in_uniform": np.sqrt(1 / (3 * 400)),  # U(-a, a) has the variance a^2 / 3, and a = 1 / sqrt(n)
        "he_normal": np.sqrt(2 / 400),
        "orthogonal": np.sqrt(1 / 400),  # 100 orthonormal columns of 400 entries
    }[name]
    np.testing.assert_allclose(drawn.std(), expected, rtol=0.02)


def test_dropout_keeps_the_mean_and_loses_its_share():
    x = jnp.ones((64, 1000))
    dropped = Dropout(0.3).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.7)}
    np.testing.assert_allclose(np.mean(dropped == 0), 0.3, atol=0.01)
    np.testing.assert_array_equal(Dropout(0.3).apply({}, x, False), x)


def test_draws_by_other_names_leave_dropout_alone():
    game = players.noisy_game()
    variables, _ = initial_variables(game, jax.random.key(0), jax.random.key(1))
    inputs, label, key = jax.random.normal(jax.random.key(2), (4, 8)), jnp.zeros(4, jnp.int32), jax.random.key(3)
    alone, _ = game.generator.module.apply(
        variables, inputs, label, True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    np.testing.assert_array_equal(game.generate(variables, inputs, label, train=True, key=key)[0], alone)


def test_dropout_draws_are_independent_between_examples_places_and_keys():
    x = jnp.ones((400, 300))
    kept = np.asarray(Dropout(0.5).apply({}, x, True, rngs={"dropout": jax.random.key(0)}) > 0, np.float64)
    other = np.asarray(Dropout(0.5).apply({}, x, True, rngs={"dropout": jax.random.key(1)}) > 0, np.float64)
    # The correlation of independent rows of 300 draws has standard deviation 1 / sqrt(300) = 0.058; six of them bound
    # all 80,000 pairs. Columns of 400: 0.05.
    rows, columns = (np.corrcoef(matrix) - np.eye(len(matrix)) for matrix in (kept, kept.T))
    assert np.abs(rows).max() < 6 * 0.058
    assert np.abs(columns).max() < 6 * 0.05
    np.testing.assert_allclose([rows.std(), columns.std()], [0.058, 0.05], rtol=0.1)
    assert abs(np.corrcoef(kept.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(kept.size)
    np.testing.assert_allclose(kept.mean(), 0.5, atol=5 * 0.5 / np.sqrt(kept.size))


def test_a_network_without_conditioning_takes_no_labels(monkeypatch):
    class Plain(nn.Module):
        image_shape: tuple[int, int, int]
        num_classes: int = 0
        width: int = 4

        @nn.compact
        def __call__(self, image, label, train):
            return nn.Dense(1)(nn.relu(nn.Dense(self.width)(image.reshape(len(image), -1))))[:, 0]

    plain = build_module.NETWORKS["mlp"]._replace(discriminator=Plain)
    monkeypatch.setattr(build_module, "NETWORKS", dict(build_module.NETWORKS) | {"plain": plain})
    config = runs.config()
    with config.unlocked():
        config.discriminator = default.player(network="plain", width=8)
    assert make_game(config, image_shape=SHAPE, num_classes=10).discriminator.module.width == 8
    config.discriminator.conditioning = "concat"
    with pytest.raises(UserError, match="config.discriminator.conditioning is not a field of network 'plain'"):
        make_game(config, image_shape=SHAPE, num_classes=10)
