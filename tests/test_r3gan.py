"""gan.networks.r3gan: the paper's parameter counts, equality with PyTorch, the initial identity, recipes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from players import first_step, largest_move
from twins import check_same, drawn

from configs import r3gan as configs
from gan.build import make_game, make_schedules
from gan.errors import UserError
from gan.game import initial_variables, parameter_count
from gan.networks.layers.resample import downsample, upsample
from gan.networks.r3gan import Discriminator, Generator, ResidualBlock

CLASSES = {"small": 10, "stacked_mnist": 1000, "cifar10": 10, "ffhq64": 0, "imagenet32": 1000}
SHAPE = (16, 8, 3)
FIELDS = {"widths": (8, 8, 4), "blocks": 1, "group_width": 4}


# With C channels a block has B(C) = 4 C^2 + 2 C * 9 * group_width + 4 C: two 1x1, one grouped 3x3, two biases of 2 C.
# At C = 768 that is 2,583,552, at 384 in groups of 16 width 701,952, at 1536 in groups of 32 width 10,328,064.
@pytest.mark.parametrize(
    "preset, generator, discriminator",
    [
        # G: 8 B(768) + 16*768 basis + 64*768 dense + 3*768. D: 8 B(768) + 3*768 + 16*768 + 768.
        ("stacked_mnist", 20_732_160, 20_683_776),
        # G: 64*768 more of the dense layer + 10*64 embedding. D: 768*768 for 768, and 10*768.
        ("cifar10", 20_781_952, 21_280_512),
        # 2 B(384) more, 768*384 between the widths, and an image of 3*384.
        ("ffhq64", 22_429_824, 22_381_440),
        # G: 8 B(1536) + 16*1536 + 128*1536 + 1000*64 + 3*1536. D: 8 B(1536) + 3*1536 + 16*1536 + 1536^2 + 1000*1536.
        pytest.param("imagenet32", 82_914_304, 86_548_992, marks=pytest.mark.slow),
        # Ours: 2 (B(96) + B(64) + B(16) + B(8)) = 216,512, and 96*64 + 64*16 + 16*8 between the widths; 16*96 + 64*96
        # and an image of 8 for G, 8 + 16*96 + 96 for D.
        ("small", 231_496, 225_448),
    ],
)
def test_the_parameter_counts_of_table_9(preset, generator, discriminator):
    config = configs.get_config(preset)
    shape = (*config.data.image_size, 1 if preset == "small" else 3)
    game = make_game(config, image_shape=shape, num_classes=CLASSES[preset])
    made = jax.eval_shape(functools.partial(initial_variables, game), *jax.random.split(jax.random.key(0)))
    assert [parameter_count(variables["params"]) for variables in made] == [generator, discriminator]


@pytest.fixture(scope="module")
def torch_networks():
    """The two networks as functions of PyTorch tensors, in NCHW; parameters with our names and layouts."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional

    def convolved(x, params, **geometry):
        return F.conv2d(x, params["kernel"].permute(3, 2, 0, 1), params.get("bias"), **geometry)

    def block(x, params):
        y = F.leaky_relu(convolved(x, params["Conv_0"]), 0.2)
        y = F.leaky_relu(convolved(y, params["Conv_1"], padding=1, groups=y.shape[1] // FIELDS["group_width"]), 0.2)
        return x + convolved(y, params["Conv_2"])

    def low_pass(maps):
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        return (taps[:, None] * taps).expand(maps, 1, 4, 4)

    def up(x):
        return F.conv_transpose2d(x, 4 * low_pass(x.shape[1]), stride=2, padding=1, groups=x.shape[1])

    def down(x):
        return F.conv2d(x, low_pass(x.shape[1]), stride=2, padding=1, groups=x.shape[1])

    def generate(params, latent, label):
        if label is not None:
            latent = torch.cat([latent, params["LabelledLatent_0"]["Embed_0"]["embedding"][label]], dim=1)
        x = (latent @ params["Dense_0"]["kernel"])[:, :, None, None] * params["basis"].permute(2, 0, 1)
        x = up(block(x, params["ResidualBlock_0"]))
        x = block(x, params["ResidualBlock_1"])
        x = block(up(convolved(x, params["Conv_0"])), params["ResidualBlock_2"])
        return convolved(x, params["Conv_1"]).permute(0, 2, 3, 1)

    def discriminate(params, image, label):
        x = convolved(image.permute(0, 3, 1, 2), params["Conv_0"])
        x = convolved(down(block(x, params["ResidualBlock_0"])), params["Conv_1"])
        x = down(block(x, params["ResidualBlock_1"]))
        x = block(x, params["ResidualBlock_2"])
        x = F.conv2d(x, params["basis"].permute(2, 0, 1)[:, None], groups=x.shape[1])
        x = x.flatten(1) @ params["Dense_0"]["kernel"]
        return x[:, 0] if label is None else (x * params["LabelledLogit_0"]["Embed_0"]["embedding"][label]).sum(1)

    return {"generator": generate, "discriminator": discriminate}


@pytest.mark.parametrize(
    "player, is_conditional", [("generator", True), ("discriminator", False), ("discriminator", True)]
)
def test_pytorch_computes_the_same(torch_networks, player, is_conditional):
    module, size, conditioning = {
        "generator": (Generator, (5,), "concat_embedding"),
        "discriminator": (Discriminator, SHAPE, "projection"),
    }[player]
    module = module(SHAPE, 3, **FIELDS, conditioning=conditioning if is_conditional else "none")
    inputs = np.random.default_rng(1).normal(size=(3, *size)).astype("float32")
    label = [2, 0, 1] if is_conditional else None
    check_same(
        lambda params, inputs: module.apply({"params": params}, inputs, label and jnp.array(label), False),
        lambda params, inputs: torch_networks[player](params, inputs, label),
        drawn(module, inputs),
        inputs,
    )


def test_every_block_is_initially_the_identity_and_the_generator_a_linear_map():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 64))
    made, variables = jax.jit(ResidualBlock(2, 16, 8).init_with_output)(jax.random.key(1), x)
    np.testing.assert_array_equal(made, x)
    # sqrt(2 / 1.04) * 8^(-1/4) / sqrt(fan-in), fan-ins 64 and 9 * 16, over 8,192 and 18,432 draws.
    for layer, fan_in in (("Conv_0", 64), ("Conv_1", 144)):
        sd = float(variables["params"][layer]["kernel"].std())
        np.testing.assert_allclose(sd, np.sqrt(2 / 1.04 / fan_in) * 8**-0.25, rtol=0.03)

    @jax.jit
    def play(key):
        latent = jax.random.normal(key, (3, 5))
        generator = Generator(SHAPE, widths=(16, 16, 16), blocks=1)
        image, variables = generator.init_with_output(key, latent, None, False)
        params = variables["params"]
        stem = params["basis"][None] * (latent @ params["Dense_0"]["kernel"])[:, None, None, :]
        return image, upsample(upsample(stem)) @ params["Conv_0"]["kernel"][0, 0]

    np.testing.assert_allclose(*play(jax.random.key(2)), atol=1e-4)


def test_the_filters():
    # One pixel is upsampled to [1, 3, 3, 1] / 4 along each axis; downsampling has half of these weights.
    pixel = jnp.zeros((1, 3, 1, 1)).at[0, 1].set(1.0)
    np.testing.assert_array_equal(upsample(pixel)[0, :, 0, 0], np.array([0, 1, 3, 3, 1, 0]) / 4 * 3 / 4)
    x, y = (jax.random.normal(jax.random.key(seed), shape) for seed, shape in ((0, (2, 6, 4, 3)), (1, (2, 3, 2, 3))))
    np.testing.assert_allclose(4 * jnp.vdot(downsample(x), y), jnp.vdot(x, upsample(y)), rtol=1e-5)
    np.testing.assert_array_equal(downsample(jnp.ones((1, 8, 8, 1)))[0, 1:-1, 1:-1], np.ones((2, 2, 1)))


def test_stages_in_bfloat16_are_near_those_in_float32():
    image = jax.random.normal(jax.random.key(0), (3, *SHAPE))

    @functools.partial(jax.jit, static_argnums=0)
    def discriminate(stages):
        discriminator = Discriminator(SHAPE, **FIELDS, bfloat16_stages=stages)
        return discriminator.apply({"params": drawn(discriminator, image)}, image, None, False)

    exact, rounded = discriminate(0), discriminate(2)
    assert exact.dtype == rounded.dtype == jnp.float32
    assert 1e-4 < float(jnp.abs(exact - rounded).max() / jnp.abs(exact).max()) < 0.05


@pytest.mark.parametrize(
    "fields, shape, line",
    [
        (
            {},
            (28, 28, 1),
            r"image_size=\(28, 28\) does not fit r3gan.*multiples of 8; nearest valid: \(32, 32\)",
        ),
        ({}, (3, 64, 1), r"nearest valid: \(8, 64\)"),
        ({"widths": ()}, (32, 32, 1), r"config\.generator\.widths=\(\) leaves r3gan without a stage"),
        (
            {"group_width": 48},
            (32, 32, 1),
            r"config\.generator\.group_width=48 does not divide 128 channels.*: 1, 2, 4,",
        ),
        ({"group_width": 0}, (32, 32, 1), r"config\.generator\.group_width=0 does not divide"),
    ],
)
def test_what_does_not_fit_is_reported_in_one_line(fields, shape, line):
    config = configs.get_config()
    config.generator.update(fields)
    with pytest.raises(UserError, match=line) as caught:
        make_game(config, image_shape=shape)
    assert "\n" not in str(caught.value)


def test_the_hyperparameters_of_the_cifar_recipe():
    hyperparams = make_schedules(configs.get_config("cifar10"))
    for images, expected in ((0, (2e-4, 0.9, 0.025, 0.0, 0.0)), (20e6, (5e-5, 0.99, 0.0025, 5e6, 0.55))):
        now = hyperparams(images)
        player = now.generator
        numbers = player.learning_rate, player.beta2, now.penalties["r2"], now.ema_halflife, now.augment.p
        np.testing.assert_allclose(numbers, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow  # tests/test_combinations.py trains this network too
def test_the_first_step_is_finite_and_changes_both_players():
    config = configs.get_config("cifar10")
    config.augment.policy, config.schedules.augment.p = "none", ""  # tested elsewhere, and slow to compile
    for player in (config.generator, config.discriminator):
        player.update({"widths": (4, 4), "blocks": 1, "group_width": 8, "bfloat16_stages": 1})
    game = make_game(config, image_shape=(8, 8, 3), num_classes=10)
    hyperparams = make_schedules(config)(20e6)

    before, after, metrics = first_step(game, hyperparams)
    assert all(np.isfinite(value) for value in metrics.values())
    for player in ("generator", "discriminator"):
        # Adam's first update changes a weight by the learning rate, wherever its gradient is not zero.
        np.testing.assert_allclose(
            largest_move(before, after, player), getattr(hyperparams, player).learning_rate, rtol=0.1
        )
