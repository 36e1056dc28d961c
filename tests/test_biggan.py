"""gan.networks.biggan and biggan_deep: published parameter counts, equality with PyTorch, split latents, recipes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from players import first_step, largest_move
from twins import attended, check_same, drawn

from configs import biggan
from gan.build import make_game, make_schedules
from gan.errors import UserError
from gan.game import SPECTRAL_NORM, initial_variables, parameter_count
from gan.networks import biggan_deep
from gan.networks.biggan import Generator
from gan.networks.layers.normalization import ModulatedBatchNorm

SHAPE = (4, 4, 3)


def made(config, side, classes):
    # Tracing an orthogonal initializer takes seconds.
    config.generator.kernel_init = config.discriminator.kernel_init = "normal(0.02)"
    game = make_game(config, image_shape=(side, side, 3), num_classes=classes)
    return jax.eval_shape(functools.partial(initial_variables, game), *jax.random.split(jax.random.key(0)))


# Attention over C channels has A(C) = 2 C C/8 + 2 C C/2 + 1. A generator's block of I to O channels, with a vector of V
# numbers, has 9 I O + O, 9 O O + O, I O + O and two normalizations, 2 V (I + O); a discriminator's 9 I O + O, 9 O O + O
# and, where it halves the image or adds channels, I O + O.
@pytest.mark.parametrize(
    "preset, side, classes, overrides, generator, discriminator",
    [
        # G: 1000*128 shared + 21*16*1536 + blocks with V = 128 + 120/6 = 148, widths 1536 1536 768 384 192 96, + A(192)
        # + 2*96 + 9*96*3 + 3. D: widths 96 192 384 768 1536 1536, + A(96) + 1537 + 1000*1536. The paper's tables say
        # 70.43 and 87.98 million, StudioGAN's log of ImageNet these.
        ("imagenet128", 128, 1000, {}, 70_433_988, 87_982_370),
        # BigGAN-PyTorch's own classes, at a latent of 140.
        pytest.param("imagenet128", 256, 1000, {"latent.size": 140}, 82_235_844, 99_225_890, marks=pytest.mark.slow),
        # The same, with width 64 instead of 96 and attention over 32x32.
        pytest.param("imagenet128", 64, 1000,
                     {"latent.size": 100, "generator.width": 64, "discriminator.width": 64,
                      "generator.attention": (32,), "discriminator.attention": (32,)},
                     31_866_116, 20_571_842, marks=pytest.mark.slow),
        # StudioGAN's log of CIFAR-10: V = 128 + 80/4 = 148, 384 channels; its discriminator has 192.
        ("imagenet128", 32, 10, {"latent.size": 80, "generator.attention": (16,), "discriminator.attention": (16,),
                                 "discriminator.widths": (192,) * 4, "discriminator.halvings": 2},
         9_416_196, 2_415_170),
        # BigGAN-PyTorch's own classes. G is SNGAN's: 4,304,387.
        ("cifar10", 32, 10, {}, 4_304_387, 4_207_361),
        # BigGAN-PyTorch's own classes. The paper says 50.4 and 34.6: a last convolution to 128 channels has
        # 9*128*125 + 125 = 144,125 more.
        pytest.param("deep", 128, 1000, {}, 50_244_484, 34_590_210, marks=pytest.mark.slow),
        pytest.param("deep", 256, 1000, {}, 55_736_708, 38_247_426, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_the_parameter_counts(preset, side, classes, overrides, generator, discriminator):
    config = biggan.get_config(preset)
    config.update_from_flattened_dict(overrides)
    variables = made(config, side, classes)
    assert [parameter_count(player["params"]) for player in variables] == [generator, discriminator]
    vectors = [set(player["batch_stats"][SPECTRAL_NORM]) for player in variables]
    # Every kernel, the normalizations' linear maps among them, and D's embedding; not the shared embedding.
    assert not any("embedding" in path for path in vectors[0]) and any("embedding" in path for path in vectors[1])
    kernels = [path for path, _ in jax.tree_util.tree_leaves_with_path(variables[0]["params"])]
    assert len(vectors[0]) == sum(path[-1].key == "kernel" for path in kernels)
    assert set(variables[1]["batch_stats"]) == {SPECTRAL_NORM}  # D has no batch statistics


def test_the_small_recipes_are_small():
    # 10*32 + 21*16*32 + 3 U(32, 32) + A(32) + 64 + 867, with U = 2*(9*32*32 + 32) + 32*33 + 2*(32 + 20)*64 = 26,208.
    # D: 896 + 9,248 + 128; 19,552; 2*18,496; A(32) = 1,281; 33 + 320.
    small = made(biggan.get_config(), 32, 10)
    assert [parameter_count(player["params"]) for player in small] == [91_908, 68_450]
    # 320 + 113*16*64 + 6 blocks of 64*16 + 16 + 2*(9*16*16 + 16) + 16*64 + 64 + 2*112*(64 + 48) = 31,856, + A(64)
    # + 128 + 1,731. D: 1,792 + 6*6,768 + 5,121 + 65 + 640.
    deep = made(biggan.get_config("small_deep"), 32, 10)
    assert [parameter_count(player["params"]) for player in deep] == [314_148, 48_226]


@pytest.fixture(scope="module")
def torch_networks():
    """The networks as functions of PyTorch tensors, in NCHW; parameters with our names and layouts."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional

    def convolved(x, params):
        kernel = params["kernel"]
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), params["bias"], padding=kernel.shape[0] // 2)

    def dense(x, params):
        return x @ params["kernel"] + params["bias"]

    def activated(x, params, vector):
        scale, offset = ((vector @ params[name]["kernel"])[:, :, None, None] for name in ("scale", "offset"))
        return F.relu(F.batch_norm(x, None, None, training=True) * (1 + scale) + offset)

    def up(x):
        return F.interpolate(x, scale_factor=2, mode="nearest")

    def to_image(x, params):
        last = params["BatchNorm_0"]["BatchNorm_0"]
        x = F.relu(F.batch_norm(x, None, None, last["scale"], last["bias"], training=True))
        return convolved(x, params["Conv_0"]).permute(0, 2, 3, 1)

    def generate(params, latent, label):
        first, *chunks = latent.split(2, dim=1)
        x = dense(first, params["Dense_0"]).reshape(len(latent), 2, -1, 4).permute(0, 3, 1, 2)
        for index, chunk in enumerate(chunks):
            block = params[f"GeneratorBlock_{index}"]
            if label is not None:
                chunk = torch.cat([params["shared"]["embedding"][label], chunk], 1)
            y = convolved(up(activated(x, block["ModulatedBatchNorm_0"], chunk)), block["ResampledConv_0"])
            y = convolved(activated(y, block["ModulatedBatchNorm_1"], chunk), block["Conv_0"])
            x = y + convolved(up(x), block["Conv_1"])
            x = attended(x, params["SelfAttention_0"]) if index == 0 else x
        return to_image(x, params)

    def generate_deep(params, latent, label):
        vector = torch.cat([params["shared"]["embedding"][label], latent], 1)
        x = dense(vector, params["Dense_0"]).reshape(len(latent), 2, 2, 8).permute(0, 3, 1, 2)
        for index, doubles in enumerate((False, True)):
            block = params[f"GeneratorBlock_{index}"]
            y = convolved(activated(x, block["ModulatedBatchNorm_0"], vector), block["Conv_0"])
            y = activated(y, block["ModulatedBatchNorm_1"], vector)
            y = convolved(up(y), block["ResampledConv_0"]) if doubles else convolved(y, block["Conv_1"])
            names = ("Conv_1", "Conv_2") if doubles else ("Conv_2", "Conv_3")
            y = convolved(activated(y, block["ModulatedBatchNorm_2"], vector), block[names[0]])
            y = convolved(activated(y, block["ModulatedBatchNorm_3"], vector), block[names[1]])
            x = y + (up(x) if doubles else x)[:, : y.shape[1]]
            x = attended(x, params["SelfAttention_0"]) if index == 1 else x
        return to_image(x, params)

    def discriminate_deep(params, image, label):
        x = convolved(image.permute(0, 3, 1, 2), params["Conv_0"])
        for index, halves in enumerate((True, False)):
            block = params[f"DiscriminatorBlock_{index}"]
            y = x
            for name in ("Conv_0", "Conv_1", "Conv_2"):
                y = convolved(F.relu(y), block[name])
            y = F.relu(y)
            if halves:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            if "Conv_4" in block:
                x = torch.cat([x, convolved(x, block["Conv_4"])], 1)
            x = x + convolved(y, block["Conv_3"])
        x = F.relu(attended(x, params["SelfAttention_0"])).sum((2, 3))
        embedded = params["LabelledLogit_0"]["Embed_0"]["embedding"][label]
        return dense(x, params["Dense_0"])[:, 0] + (x * embedded).sum(1)

    return {"generator": generate, "deep generator": generate_deep, "deep discriminator": discriminate_deep}


@pytest.mark.parametrize(
    "widths, label",
    [
        ((4, 8), [2, 0, 1, 2]),
        pytest.param((4, 8, 5), [2, 0, 1, 2], marks=pytest.mark.slow),
        pytest.param((4, 8, 5), None, marks=pytest.mark.slow),
    ],
)
def test_pytorch_generates_the_same(torch_networks, widths, label):
    conditioning = "none" if label is None else "shared_embedding"
    shape = (2 ** len(widths), 2 ** len(widths), 3)
    module = Generator(shape, 3, widths=widths, conditioning=conditioning, embedding=3, attention=(4,))
    check_generates(module, torch_networks["generator"], 2 * len(widths), label)


def test_pytorch_generates_the_same_with_bottlenecks(torch_networks):
    module = biggan_deep.Generator(
        SHAPE, 3, widths=(8, 6), conditioning="shared_embedding", embedding=3, attention=(4,)
    )
    check_generates(module, torch_networks["deep generator"], 6, [2, 0, 1, 2])


def check_generates(module, theirs, latent_size, label):
    latent = np.random.default_rng(1).normal(size=(4, latent_size)).astype("float32")

    def ours(params, latent):
        given = None if label is None else jnp.array(label)
        return module.apply({"params": params}, latent, given, True, mutable=["batch_stats"])[0]

    check_same(ours, functools.partial(theirs, label=label), drawn(module, latent), latent, tolerance=3e-4)


def test_pytorch_discriminates_the_same_with_bottlenecks(torch_networks):
    # A stage that halves the image and adds channels, and one that keeps both; attention after the last of its height.
    module = biggan_deep.Discriminator(
        (8, 8, 3), 3, widths=(5, 8, 8), depth=1, halvings=1, attention=(4,), conditioning="projection"
    )
    image = np.random.default_rng(1).normal(size=(3, 8, 8, 3)).astype("float32")
    label = [2, 0, 1]

    def ours(params, image):
        return module.apply({"params": params}, image, jnp.array(label), False)

    theirs = functools.partial(torch_networks["deep discriminator"], label=label)
    check_same(ours, theirs, drawn(module, image), image, tolerance=3e-4)


def test_modulated_batch_norm_has_the_statistics_of_the_whole_batch_on_every_device():
    x, vector = 3.0 + jax.random.normal(jax.random.key(0), (8, 2, 2, 3)), jnp.tile(jnp.eye(2), (4, 1))
    # The first unit vector scales by 1 + 1 and shifts by 5, the second by 1 + 0 and 0.
    params = {
        "scale": {"kernel": jnp.array([[1.0] * 3, [0.0] * 3])},
        "offset": {"kernel": jnp.array([[5.0] * 3, [0.0] * 3])},
    }

    def normalized(x, vector, axis_name):
        module = ModulatedBatchNorm(axis_name=axis_name)
        return module.apply({"params": params}, x, vector, True, mutable=["batch_stats"])[0]

    standard = (x - x.mean((0, 1, 2), keepdims=True)) / x.std((0, 1, 2), keepdims=True)
    whole = normalized(x, vector, None)
    np.testing.assert_allclose(whole[0::2], 2 * standard[0::2] + 5, atol=2e-4)
    np.testing.assert_allclose(whole[1::2], standard[1::2], atol=1e-4)
    parts = (x.reshape(4, 2, *x.shape[1:]), vector.reshape(4, 2, 2))
    split = jax.pmap(functools.partial(normalized, axis_name="data"), axis_name="data", devices=jax.devices()[:4])(
        *parts
    )
    np.testing.assert_allclose(split.reshape(whole.shape), whole, atol=1e-4)


@pytest.mark.parametrize(
    "preset, overrides, shape, line",
    [
        (
            "small",
            {"latent.size": 82},
            (32, 32, 3),
            r"latent\.size=82 cannot be split into 4 equal.*80 or 84, or .*split",
        ),
        (
            "small",
            {"latent.size": 3},
            (32, 32, 3),
            r"latent\.size=3 cannot be split into 4 equal.*nearest valid: 4, or",
        ),
        ("small", {"generator.conditioning": "batch_norm"}, (32, 32, 3), r"'shared_embedding', or split_latent=False"),
        ("small", {"generator.embedding": 0}, (32, 32, 3), r"config\.generator\.embedding=0 must be at least 1"),
        ("small", {}, (28, 28, 3), r"\(28, 28\) has no published biggan: set config\.generator\'s widths"),
        ("deep", {}, (28, 28, 3), r"\(28, 28\) has no published biggan_deep: set config\.generator\'s widths"),
        (
            "deep",
            {"generator.widths": (4, 8)},
            (8, 8, 3),
            r"config\.generator\.widths=\(4, 8\) must not increase",
        ),
        ("deep", {"discriminator.widths": (8, 4), "discriminator.halvings": 1}, (128, 128, 3), r"must not decrease"),
        ("deep", {"discriminator.depth": 0}, (128, 128, 3), r"config\.discriminator\.depth=0 must be at least 1"),
    ],
)
def test_what_does_not_fit_is_reported_in_one_line(preset, overrides, shape, line):
    config = biggan.get_config(preset)
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=line) as caught:
        make_game(config, image_shape=shape, num_classes=10)
    assert "\n" not in str(caught.value)


def test_the_ema_copies_first_and_then_averages():
    config = biggan.get_config("imagenet128")
    images = 2 * 2048
    halflife = make_schedules(config)(20_000 * images).ema_halflife
    np.testing.assert_allclose(np.exp2(-images / halflife), 0.9999, rtol=1e-6)
    assert make_schedules(config)(19_999 * images).ema_halflife == 0.0


@pytest.mark.slow  # tests/test_combinations.py trains these networks too
def test_the_first_step_is_finite_and_changes_both_players():
    config = biggan.get_config()
    config.latent.size = 6
    config.generator.widths, config.discriminator.widths, config.discriminator.halvings = (8, 8, 8), (8, 8), 1
    config.generator.attention = config.discriminator.attention = (4,)
    config.generator.conditioning = config.discriminator.conditioning = "none"
    game = make_game(config, image_shape=(8, 8, 3))
    before, after, metrics = first_step(game, make_schedules(config)(0))
    assert all(np.isfinite(value) for value in metrics.values()) and metrics["ortho"] >= 0.0
    for player, rate in (("generator", 2e-4), ("discriminator", 4e-4)):
        # Adam's first update changes a weight by the learning rate, wherever its gradient is not zero.
        np.testing.assert_allclose(largest_move(before, after, player), rate, rtol=0.1)
