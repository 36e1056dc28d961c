"""The five tutorial systems: published parameter counts, sizes that fit, and a first step of every config."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from players import first_step, largest_move
from twins import jit

from gan.build import make_game, make_schedules
from gan.errors import UserError
from gan.game import initial_variables, parameter_count
from gan.networks import NETWORKS, flag, mlp

LABEL = jnp.zeros(2, jnp.int32)
SHAPES = {
    "conv_gan": (28, 28, 1),
    "mlp_gan": (28, 28, 1),
    "vanilla_gan": (28, 28, 1),
    "smooth_gan": (28, 28, 1),
    "flag_gan": (64, 64, 1),
}


def config_of(name):
    return importlib.import_module(f"configs.{name}").get_config()


def variables_of(name):
    """The shapes of both players' variables, as the config and its image size make them."""
    game = make_game(config_of(name), image_shape=SHAPES[name])
    return jax.eval_shape(functools.partial(initial_variables, game), *jax.random.split(jax.random.key(0)))


@pytest.mark.parametrize(
    "name, generator, discriminator",
    [
        # G: 25 (25*256 + 256*128 + 128*64 + 64*1) weights, 256 + 128 + 64 + 1 biases, 2 (256 + 128 + 64) of the
        # normalizations. D: 25*8 + 8 + 25*8*16 + 16 + 7*7*16*32 + 32 + 32 + 1.
        ("conv_gan", 1_186_945, 28_577),
        # G: 101*512 + 513*784. D: 785*256 + 257.
        ("mlp_gan", 453_904, 201_217),
        # G: 101*256 + 257*512 + 513*1024 + 1025*784. D: 785*1024 + 1025*512 + 513*256 + 257.
        ("vanilla_gan", 1_486_352, 1_460_225),
        # G: 101*25600 + 2*25600 + 9*100*64 + 3*64 + 9*64*32 + 3*32 + 32 + 1, a bias and two of the normalization to
        # every map. D: 25*128 + 128 + 25*128*64 + 64 + 64*64*64*32 + 32 + 2*33.
        ("flag_gan", 2_713_153, 8_596_898),
        # G: 101*128 + 129*784. D: 785*128 + 129.
        ("smooth_gan", 114_064, 100_609),
    ],
)
def test_the_published_counts(name, generator, discriminator):
    made = variables_of(name)
    assert [parameter_count(variables["params"]) for variables in made] == [generator, discriminator]


def test_the_flag_generator_s_count_with_statistics():
    # A mean and a variance for each of 25,600 + 64 + 32 normalized channels: 2,713,153 + 51,392.
    assert parameter_count(variables_of("flag_gan")[0]) == 2_764_545


@pytest.mark.parametrize(
    "network, shape",
    [("conv_gan", (28, 28, 3)), ("mlp", (5, 7, 3)), ("mlp", (64, 64, 1)), ("flag", (8, 12, 3)), ("flag", (4, 4, 1))],
)
def test_images_and_logits_of_every_size_that_fits(network, shape):
    generator, discriminator = (player(shape) for player in NETWORKS[network])

    def train(key):
        image, _ = generator.init_with_output(key, jnp.zeros((2, 100)), LABEL, False)
        return image, discriminator.init_with_output(key, image, LABEL, False)[0]

    image, logits = jax.eval_shape(train, jax.random.key(0))
    assert image.shape == (2, *shape)
    assert logits.shape == (2,)


@pytest.mark.parametrize(
    "name, shape, latent_size, line",
    [
        ("conv_gan", (32, 32, 1), 100, r"image_size=\(32, 32\) does not fit conv_gan; nearest valid: \(28, 28\)"),
        ("conv_gan", (28, 28, 1), 99, r"config\.latent\.size=99 must be a multiple of 4.*nearest valid: 100"),
        ("conv_gan", (28, 28, 1), 1, r"config\.latent\.size=1 .*nearest valid: 4"),
        ("flag_gan", (63, 90, 1), 100, r"image_size=\(63, 90\) does not fit flag.*nearest valid: \(64, 88\)"),
        ("flag_gan", (1, 64, 1), 100, r"nearest valid: \(4, 64\)"),
    ],
)
def test_a_size_that_does_not_fit_is_one_line(name, shape, latent_size, line):
    config = config_of(name)
    config.latent.size = latent_size
    with pytest.raises(UserError, match=line) as caught:
        make_game(config, image_shape=shape)
    assert "\n" not in str(caught.value)


LARGE = ("conv_gan", "flag_gan", "vanilla_gan")
"""Their first steps take long; tests/test_combinations.py trains others of their networks."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in SHAPES])
def test_the_first_turn_is_finite_and_moves_both_players(name):
    shape = (16, 16, 1) if name == "flag_gan" else SHAPES[name]
    config = config_of(name)
    game = make_game(config, image_shape=shape)
    hyperparams = make_schedules(config)(0)

    before, after, metrics = first_step(game, hyperparams)
    assert all(np.isfinite(value) for value in metrics.values())
    # Adam's first update moves a weight by the learning rate, wherever there is a gradient.
    for player in ("generator", "discriminator"):
        moved = largest_move(before, after, player)
        updates = config[f"{player}_steps"]
        assert 0.9 < moved / (updates * config[player].learning_rate) < 1.1
    # No averaged generator: samples come from the last one.
    for a, b in zip(jax.tree.leaves(after.ema.params), jax.tree.leaves(after.generator.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_flag_discriminator_s_logit_is_its_two_class_cross_entropy():
    discriminator = flag.Discriminator((4, 4, 1), channels=(3, 2), hidden=5)

    @jit
    def train(key):
        image = jax.random.normal(key, (6, 4, 4, 1))
        variables = discriminator.init(key, image, LABEL, False)
        return discriminator.apply(variables, image, LABEL, False, capture_intermediates=True)

    logit, made = train(jax.random.key(0))
    classes = made["intermediates"]["Dense_1"]["__call__"][0]
    assert classes.shape == (6, 2)
    for label in (0, 1):
        two_class = optax.softmax_cross_entropy_with_integer_labels(classes, jnp.full(6, label))
        sigmoid = optax.sigmoid_binary_cross_entropy(logit, jnp.full(6, label))
        np.testing.assert_allclose(sigmoid, two_class, rtol=1e-5)


def test_dropout_is_drawn_anew_for_every_layer_and_only_in_training():
    discriminator = mlp.Discriminator((8, 8, 1), width=64, layers=(1, 1), slope=1.0, dropout=0.5)
    image = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    variables = discriminator.init(jax.random.key(1), image, LABEL, False)
    _, made = discriminator.apply(
        variables, image, LABEL, True, rngs={"dropout": jax.random.key(2)}, capture_intermediates=True
    )
    first, second = (made["intermediates"][f"Dropout_{layer}"]["__call__"][0] == 0 for layer in (0, 1))
    # 128 fair coins each: the share of zeros is within 5 sd = 0.22 of one half, as is that of the layers' agreement.
    np.testing.assert_allclose([first.mean(), second.mean(), (first == second).mean()], 0.5, atol=0.22)
    still = [discriminator.apply(variables, image, LABEL, False) for _ in range(2)]
    np.testing.assert_array_equal(*still)


@pytest.mark.parametrize("slope, expected", [(0.0, 0.0), (0.01, -0.01), (0.2, -0.2)])
def test_the_slope_of_a_perceptron(slope, expected):
    # One hidden unit of weight 1 sees -1; the logit is the unit's output.
    discriminator = mlp.Discriminator((1, 1, 1), width=1, layers=(1,), slope=slope)
    params = {f"Dense_{layer}": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)} for layer in (0, 1)}
    logit = discriminator.apply({"params": params}, -jnp.ones((1, 1, 1, 1)), LABEL[:1], False)
    np.testing.assert_allclose(logit, [expected], rtol=1e-6)


def test_the_initial_values_of_conv_gan():
    config = config_of("conv_gan")
    game = make_game(config, image_shape=SHAPES["conv_gan"])
    keys = jax.random.split(jax.random.key(0))
    generator, discriminator = jit(functools.partial(initial_variables, game))(*keys)
    largest = generator["params"]["ConvTranspose_1"]["kernel"]
    # N(0, sd) cut at 2 sd has standard deviation 0.8796 sd; 819,200 draws.
    np.testing.assert_allclose([largest.std(), jnp.abs(largest).max()], [0.08796, 0.2], rtol=0.01)
    np.testing.assert_allclose(discriminator["params"]["Dense_0"]["kernel"].std(), 0.02 * 0.8796, rtol=0.02)
    biases = [layer["bias"] for name, layer in generator["params"].items() if name.startswith("ConvTranspose")]
    np.testing.assert_array_equal(np.concatenate(biases), np.full(256 + 128 + 64 + 1, np.float32(0.1)))
