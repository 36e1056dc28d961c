"""gan.networks.sagan and attention: published parameter counts, equality with PyTorch, normalization, recipes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from players import first_step, largest_move
from twins import attended, check_same, drawn

from configs import sagan
from gan.build import make_game, make_schedules
from gan.errors import UserError
from gan.game import SPECTRAL_NORM, initial_variables, parameter_count
from gan.networks.layers.attention import SelfAttention
from gan.networks.sagan import Discriminator, Generator

SHAPE = (8, 8, 3)


# Attention over C channels has 2 C C/8 + 2 C C/2 + 1: A(64) = 5,121, A(128) = 20,481, A(256) = 81,921. The generator's
# blocks are those of tests/test_resnet.py, whose two normalizations have 2 I + 2 O numbers for each class; a wide
# discriminator's of I to O channels have 9 I O + O, 9 O O + O, and where they halve the image or add channels I O + O.
@pytest.mark.parametrize(
    "preset, side, classes, attention, generator, discriminator",
    [
        # Ours, with 32 channels: 129*16*32 + 3*(2*9,248 + 1,056 + 2*640) + A(32) + 64 + 867. D: as BigGAN's small one.
        ("small", 32, 10, 16, 130_756, 68_450),
        # SNGAN's 4,304,387 and 1,055,105 with A(256) and A(128). StudioGAN's log of CIFAR-10 says the same.
        ("cifar10", 32, 10, 16, 4_386_308, 1_075_586),
        # StudioGAN's log of Tiny ImageNet.
        pytest.param("cifar10", 64, 200, 32, 13_387_396, 19_752_642, marks=pytest.mark.slow),
        # StudioGAN's log of ImageNet, whose attention is over 64x64: A(128) and A(64).
        ("imagenet128", 128, 1000, 64, 42_017_412, 39_448_258),
        # The authors' is over 32x32: A(256) - A(128) = 61,440 and A(128) - A(64) = 15,360 more.
        pytest.param("imagenet128", 128, 1000, 32, 42_078_852, 39_463_618, marks=pytest.mark.slow),
    ],
)
def test_the_parameter_counts(preset, side, classes, attention, generator, discriminator):
    config = sagan.get_config(preset)
    config.generator.attention = config.discriminator.attention = (attention,)
    config.generator.kernel_init = config.discriminator.kernel_init = (
        "normal(0.02)"  # other initializers take seconds to trace
    )
    game = make_game(config, image_shape=(side, side, 3), num_classes=classes)
    made = jax.eval_shape(functools.partial(initial_variables, game), *jax.random.split(jax.random.key(0)))
    assert [parameter_count(variables["params"]) for variables in made] == [generator, discriminator]
    kernels, vectors = zip(*map(kernels_and_vectors, made), strict=True)
    # Every kernel and D's embedding, but none of G's embeddings, which are the scales and offsets of the classes.
    assert not any("embedding" in path for path in vectors[0]) and any("embedding" in path for path in vectors[1])
    assert vectors[0] == {path for path in kernels[0] if path.endswith("kernel")} and vectors[1] == kernels[1]
    assert set(made[1]["batch_stats"]) == {SPECTRAL_NORM}  # D has no batch statistics


def kernels_and_vectors(variables):
    paths = ["/".join(entry.key for entry in path) for path, _ in jax.tree_util.tree_leaves_with_path(
        variables["params"])]  # fmt: skip
    matrices = {path for path in paths if path.endswith(("kernel", "embedding"))}
    return matrices, set(variables["batch_stats"][SPECTRAL_NORM])


def test_256_pixels_are_built():
    config = sagan.get_config("imagenet128")
    game = make_game(config, image_shape=(256, 256, 3), num_classes=10)
    made = jax.eval_shape(functools.partial(initial_variables, game), *jax.random.split(jax.random.key(0)))
    assert made[0]["params"]["GeneratorBlock_5"]["Conv_0"]["kernel"].shape == (3, 3, 64, 64)
    assert made[1]["params"]["DiscriminatorBlock_6"]["Conv_1"]["kernel"].shape == (3, 3, 1024, 1024)


@pytest.fixture(scope="module")
def torch_networks():
    """The two networks as functions of PyTorch tensors, in NCHW; parameters with our names and layouts."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional

    def convolved(x, params):
        kernel = params["kernel"]
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), params["bias"], padding=kernel.shape[0] // 2)

    def dense(x, params):
        return x @ params["kernel"] + params["bias"]

    def normalized(x, params, label):
        scale, offset = (params[name]["embedding"][label][:, :, None, None] for name in ("scale", "offset"))
        return F.batch_norm(x, None, None, training=True) * scale + offset

    def up(x):
        return F.interpolate(x, scale_factor=2, mode="nearest")

    def generate(params, latent, label):
        x = dense(latent, params["Dense_0"]).reshape(len(latent), 2, 2, 4).permute(0, 3, 1, 2)
        for name in ("GeneratorBlock_0", "GeneratorBlock_1"):
            block = params[name]
            y = convolved(up(F.relu(normalized(x, block["ConditionalBatchNorm_0"], label))), block["ResampledConv_0"])
            y = convolved(F.relu(normalized(y, block["ConditionalBatchNorm_1"], label)), block["Conv_0"])
            x = y + convolved(up(x), block["Conv_1"])
            x = attended(x, params["SelfAttention_0"]) if name == "GeneratorBlock_0" else x
        last = params["BatchNorm_0"]["BatchNorm_0"]
        x = F.relu(F.batch_norm(x, None, None, last["scale"], last["bias"], training=True))
        return convolved(x, params["Conv_0"]).permute(0, 2, 3, 1)

    def discriminate(params, image, label):
        x, block = image.permute(0, 3, 1, 2), params["DiscriminatorBlock_0"]
        y = convolved(F.relu(convolved(x, block["Conv_0"])), block["ResampledConv_0"])
        x = F.avg_pool2d(y, 2) + convolved(F.avg_pool2d(x, 2), block["Conv_1"])
        x, block = attended(x, params["SelfAttention_0"]), params["DiscriminatorBlock_1"]
        y = convolved(F.relu(convolved(F.relu(x), block["Conv_0"])), block["ResampledConv_0"])
        x, block = F.avg_pool2d(y + convolved(x, block["Conv_1"]), 2), params["DiscriminatorBlock_2"]
        x = x + convolved(F.relu(convolved(F.relu(x), block["Conv_0"])), block["Conv_1"])
        x = F.relu(x).sum((2, 3))
        embedded = params["LabelledLogit_0"]["Embed_0"]["embedding"][label]
        return dense(x, params["Dense_0"])[:, 0] + (x * embedded).sum(1)

    return {"generator": generate, "discriminator": discriminate}


@pytest.mark.slow  # other tests compare its blocks and its attention
def test_pytorch_generates_the_same(torch_networks):
    module = Generator(SHAPE, 3, widths=(4, 8, 5), attention=(4,), conditioning="batch_norm")
    latent = np.random.default_rng(1).normal(size=(4, 6)).astype("float32")
    label = [2, 0, 1, 2]

    def ours(params, latent):
        return module.apply({"params": params}, latent, jnp.array(label), True, mutable=["batch_stats"])[0]

    theirs = functools.partial(torch_networks["generator"], label=label)
    check_same(ours, theirs, drawn(module, latent), latent, tolerance=3e-4)


def test_pytorch_discriminates_the_same(torch_networks):
    module = Discriminator(SHAPE, 3, widths=(8, 5, 5), halvings=2, attention=(4,), conditioning="projection")
    image = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype("float32")
    label = [2, 0, 1]

    def ours(params, image):
        return module.apply({"params": params}, image, jnp.array(label), False)

    theirs = functools.partial(torch_networks["discriminator"], label=label)
    check_same(ours, theirs, drawn(module, image), image, tolerance=3e-4)


def test_attention_is_initially_the_identity_and_then_mixes_similar_pixels():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 16))
    params = SelfAttention().init(jax.random.key(1), x)["params"]
    np.testing.assert_array_equal(SelfAttention().apply({"params": params}, x), x)
    # With queries of zero all pixels attend to the mean of the values, which are maxima over 2x2 pixels.
    params = params | {"gamma": jnp.float32(2.0), "query": {"kernel": jnp.zeros((1, 1, 16, 2))}}
    params["value"] = {"kernel": jnp.eye(16, 8)[None, None]}
    params["output"] = {"kernel": jnp.eye(8, 16)[None, None]}
    made = SelfAttention().apply({"params": params}, x)
    means = x[..., :8].reshape(2, 2, 2, 3, 2, 8).max((2, 4)).mean((1, 2))[:, None, None]
    np.testing.assert_allclose(made[..., :8] - x[..., :8], jnp.broadcast_to(2 * means, (2, 4, 6, 8)), atol=1e-5)
    np.testing.assert_array_equal(made[..., 8:], x[..., 8:])


@pytest.mark.parametrize(
    "overrides, shape, line",
    [
        ({}, (28, 28, 3), r"\(28, 28\) has no published sagan.*32x32, 64x64, 128x128, 256x256; nearest: \(32, 32\)"),
        ({"generator.attention": (64,)}, (32, 32, 3), r"generator\.attention=\(64,\): no block ends.*any of 8, 16, 32"),
        (
            {"discriminator.attention": (4,)},
            (32, 32, 3),
            r"discriminator\.attention=\(4,\).*expected: any of 8, 16, or",
        ),
        ({"discriminator.halvings": 6}, (64, 64, 3), r"config\.discriminator\.halvings=6.*5 blocks"),
    ],
)
def test_what_does_not_fit_is_reported_in_one_line(overrides, shape, line):
    config = sagan.get_config()
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=line) as caught:
        make_game(config, image_shape=shape, num_classes=10)
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # tests/test_combinations.py trains this network too
def test_the_first_step_is_finite_and_changes_both_players():
    config = sagan.get_config()
    config.generator.widths, config.discriminator.widths, config.discriminator.halvings = (8, 8), (8, 8), 1
    config.generator.attention = config.discriminator.attention = (4,)
    config.generator.widths = (8, 8, 8)
    game = make_game(config, image_shape=(8, 8, 3), num_classes=10)
    before, after, metrics = first_step(game, make_schedules(config)(0))
    assert all(np.isfinite(value) for value in metrics.values())
    for player, rate in (("generator", 2e-4), ("discriminator", 4e-4)):
        # Adam's first update changes a weight by the learning rate, wherever its gradient is not zero.
        np.testing.assert_allclose(largest_move(before, after, player), rate, rtol=0.1)
    # gamma is initially 0 and has a gradient.
    assert after.generator.params["SelfAttention_0"]["gamma"] != 0.0
