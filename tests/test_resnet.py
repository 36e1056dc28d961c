"""gan.networks.resnet: published parameter counts, equality with PyTorch, conditional statistics, the recipes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from players import first_step, largest_move
from twins import check_same, drawn

from configs import sngan, wgan_gp
from gan.build import make_game, make_schedules
from gan.errors import UserError
from gan.game import initial_variables, parameter_count
from gan.networks.layers.normalization import ConditionalBatchNorm
from gan.networks.resblocks import DiscriminatorBlock
from gan.networks.resnet import Discriminator, Generator

SHAPE = (8, 4, 3)


# A generator's block of I to O channels has 9 I O + O, 9 O O + O, I O + O and two normalizations, 2 I + 2 O: U(I, O). A
# discriminator's has 9 I I + I, 9 I O + O and, where it halves the image or adds channels, I O + O: V(I, O); its first
# block 9*3 O + O + 9 O O + O + 3 O + O.
@pytest.mark.parametrize(
    "config, side, classes, generator, discriminator",
    [
        # G: 129*4096 + 3 U(256, 256) = 1,246,976 + 2*256 + 9*256*3 + 3. D: 151,680 + 311,680 + 2*295,168 + 129. Another
        # codebase says 4,276,739 and 1,055,879, of which 2,054 are batch normalizations that a penalty forbids.
        (sngan.get_config(), 32, 0, 4_276_739, 1_053_825),
        # Six of the normalizations have 2*10*256 instead of 2*256; an embedding of 10*128. As in another codebase.
        (sngan.get_config("conditional"), 32, 10, 4_304_387, 1_055_105),
        # 129*18432 + U(512, 256) + U(256, 128) + U(128, 64) + 128 + 1731. D: 38,976 + V(64, 128) + ... + V(512, 1024).
        pytest.param(sngan.get_config(), 48, 0, 4_878_083, 10_141_441, marks=pytest.mark.slow),
        # 129*16384 + U(1024, 512) + ... + U(128, 64) + 128 + 1731. D as for 48: the last block halves, or widens only.
        (sngan.get_config(), 64, 0, 12_220_675, 10_141_441),
        # U(1024, 1024) = 19,930,112 more, and 2 (9*1024^2 + 1024) = 18,876,416.
        pytest.param(sngan.get_config(), 128, 0, 32_150_787, 29_017_857, marks=pytest.mark.slow),
        # G: 129*2048 + 3 U(128, 128) + 256 + 3459.
        (wgan_gp.get_config(), 32, 10, 1_204_483, 1_053_825),
        # Six times 2*9*128 more; ten more logits of 129.
        (wgan_gp.get_config("conditional"), 32, 10, 1_218_307, 1_055_115),
    ],
)
def test_the_parameter_counts(config, side, classes, generator, discriminator):
    game = make_game(config, image_shape=(side, side, 3), num_classes=classes)
    made = jax.eval_shape(functools.partial(initial_variables, game), *jax.random.split(jax.random.key(0)))
    assert [parameter_count(variables["params"]) for variables in made] == [generator, discriminator]


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
        if "scale" not in params:
            params = params["BatchNorm_0"]
            return F.batch_norm(x, None, None, params["scale"], params["bias"], training=True)
        scale, offset = (params[name]["embedding"][label][:, :, None, None] for name in ("scale", "offset"))
        return F.batch_norm(x, None, None, training=True) * scale + offset

    def up(x):
        return F.interpolate(x, scale_factor=2, mode="nearest")

    def generator_block(x, params, label):
        kind = "BatchNorm" if label is None else "ConditionalBatchNorm"
        y = F.relu(normalized(x, params[f"{kind}_0"], label))
        y = convolved(up(y), params["ResampledConv_0"])
        y = convolved(F.relu(normalized(y, params[f"{kind}_1"], label)), params["Conv_0"])
        return y + convolved(up(x), params["Conv_1"])

    def generate(params, latent, label):
        x = dense(latent, params["Dense_0"]).reshape(len(latent), 2, 1, 4).permute(0, 3, 1, 2)
        x = generator_block(x, params["GeneratorBlock_0"], label)
        x = generator_block(x, params["GeneratorBlock_1"], label)
        x = F.relu(normalized(x, params["BatchNorm_0"], label))
        return convolved(x, params["Conv_0"]).permute(0, 2, 3, 1)

    def layer_norm(x, params):
        return F.group_norm(x, 1, params["scale"], params["bias"])

    def discriminator_block(x, params, first=False, halves=False):
        y = x if first else F.relu(layer_norm(x, params["GroupNorm_0"]) if "GroupNorm_0" in params else x)
        y = convolved(y, params["Conv_0"])
        last = "GroupNorm_0" if first else "GroupNorm_1"
        y = F.relu(layer_norm(y, params[last]) if last in params else y)
        y = convolved(y, params["ResampledConv_0" if halves else "Conv_1"])
        shortcut = params.get("Conv_1" if halves else "Conv_2")
        x = x if shortcut is None else convolved(x, shortcut)
        return F.avg_pool2d(y, 2) + F.avg_pool2d(x, 2) if halves else x + y

    def discriminate(params, image, label, pooling):
        x = discriminator_block(image.permute(0, 3, 1, 2), params["DiscriminatorBlock_0"], first=True, halves=True)
        x = discriminator_block(x, params["DiscriminatorBlock_1"], halves=True)
        x = discriminator_block(x, params["DiscriminatorBlock_2"])
        x = getattr(F.relu(discriminator_block(x, params["DiscriminatorBlock_3"])), pooling)((2, 3))
        logit = dense(x, params["Dense_0"])[:, 0]
        if label is None:
            return logit
        return logit + (x * params["LabelledLogit_0"]["Embed_0"]["embedding"][label]).sum(1)

    return {"generator": generate, "discriminator": discriminate}


@pytest.mark.parametrize(
    "label",
    [pytest.param(None, id="unconditional", marks=pytest.mark.slow), pytest.param([2, 0, 1, 2], id="conditional")],
)
def test_pytorch_generates_the_same(torch_networks, label):
    module = Generator(SHAPE, 3, widths=(4, 3, 5), conditioning="batch_norm" if label else "none")
    latent = np.random.default_rng(1).normal(size=(4, 6)).astype("float32")

    def ours(params, latent):
        given = None if label is None else jnp.array(label)
        # The initial running statistics are the module's; training does not read them.
        return module.apply({"params": params}, latent, given, True, mutable=["batch_stats"])[0]

    theirs = functools.partial(torch_networks["generator"], label=label)
    check_same(ours, theirs, drawn(module, latent), latent, tolerance=3e-4)


@pytest.mark.parametrize(
    "fields, label",
    [
        ({"pooling": "sum"}, None),
        pytest.param({"pooling": "mean", "layer_norm": True}, None, marks=pytest.mark.slow),
        ({"conditioning": "projection"}, [2, 0, 1]),
    ],
    ids=["sngan", "wgan_gp", "projection"],
)
def test_pytorch_discriminates_the_same(torch_networks, fields, label):
    # Blocks that halve, halve and add channels, keep both, and add channels.
    module = Discriminator(SHAPE, 3, widths=(4, 5, 5, 3), halvings=2, **fields)
    image = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype("float32")

    def ours(params, image):
        return module.apply({"params": params}, image, None if label is None else jnp.array(label), False)

    theirs = functools.partial(torch_networks["discriminator"], label=label, pooling=fields.get("pooling", "sum"))
    check_same(ours, theirs, drawn(module, image), image, tolerance=3e-4)


def test_a_block_with_a_last_convolution_of_zero_is_its_shortcut():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))

    def play(halves):
        block = DiscriminatorBlock(3, jax.nn.initializers.zeros, halves=halves)
        params = block.init(jax.random.key(1), x)["params"]
        if halves:
            params["Conv_1"]["kernel"] = jnp.eye(3)[None, None]
        return block.apply({"params": params}, x)

    np.testing.assert_array_equal(play(False), x)
    np.testing.assert_allclose(play(True), x.reshape(2, 2, 2, 2, 2, 3).mean((2, 4)), atol=1e-6)


def test_conditional_statistics_are_those_of_the_whole_batch_on_every_device():
    x, label = 3.0 + jax.random.normal(jax.random.key(0), (8, 2, 2, 3)), jnp.arange(8) % 2
    variables = ConditionalBatchNorm(2).init(jax.random.key(1), x, label, True)
    variables["params"]["scale"]["embedding"] = jnp.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    variables["params"]["offset"]["embedding"] = jnp.array([[0.0, 0.0, 0.0], [5.0, 5.0, 5.0]])

    def normalized(x, label, axis_name):
        module = ConditionalBatchNorm(2, axis_name)
        return module.apply(variables, x, label, True, mutable=["batch_stats"])

    standard = (x - x.mean((0, 1, 2), keepdims=True)) / x.std((0, 1, 2), keepdims=True)
    made, updated = normalized(x, label, None)
    np.testing.assert_allclose(made[0::2], standard[0::2], atol=1e-4)
    np.testing.assert_allclose(made[1::2], 2 * standard[1::2] + 5, atol=2e-4)
    np.testing.assert_allclose(updated["batch_stats"]["BatchNorm_0"]["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    parts = jax.tree.map(lambda leaf: leaf.reshape(4, 2, *leaf.shape[1:]), (x, label))
    split, _ = jax.pmap(functools.partial(normalized, axis_name="data"), axis_name="data", devices=jax.devices()[:4])(
        *parts
    )
    np.testing.assert_allclose(split.reshape(made.shape), made, atol=1e-4)


@pytest.mark.parametrize(
    "overrides, shape, line",
    [
        ({}, (28, 28, 1), r"\(28, 28\) has no published resnet.*32x32, 48x48, 64x64, 128x128; nearest: \(32, 32\)"),
        (
            {"generator.widths": (8, 8, 8)},
            (30, 64, 3),
            r"\(30, 64\) cannot be halved 2 times.*nearest valid: \(32, 64\)",
        ),
        ({"discriminator.halvings": 6}, (64, 64, 3), r"config\.discriminator\.halvings=6.*5 blocks"),
        ({"discriminator.pooling": "max"}, (32, 32, 3), r"config\.discriminator\.pooling='max'.*expected: mean, sum"),
        ({"generator.conditioning": "batch"}, (32, 32, 3), r"conditioning='batch' is unknown.*batch_norm"),
        ({"generator.conditioning": "batch_norm"}, (32, 32, 3), r"conditioning='batch_norm' needs labels"),
    ],
)
def test_what_does_not_fit_is_reported_in_one_line(overrides, shape, line):
    config = sngan.get_config()
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=line) as caught:
        make_game(config, image_shape=shape)
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # tests/test_combinations.py trains this network too
@pytest.mark.parametrize("module", [sngan, wgan_gp])
def test_the_first_step_is_finite_and_changes_both_players(module):
    config = module.get_config("conditional")
    config.generator.widths, config.discriminator.widths, config.discriminator.halvings = (4, 4), (4, 4), 1
    config.discriminator_steps = 1  # instead of five, which would be compiled too
    game = make_game(config, image_shape=(8, 8, 3), num_classes=10)
    hyperparams = make_schedules(config)(0)

    before, after, metrics = first_step(game, hyperparams)
    assert all(np.isfinite(value) for value in metrics.values())
    vectors = after.discriminator.batch_stats.get("spectral_norm", {})
    kernels = [path for path, _ in jax.tree_util.tree_leaves_with_path(before.discriminator.params)]
    kernels = [path for path in kernels if path[-1].key in ("kernel", "embedding")]
    assert len(vectors) == (len(kernels) if module is sngan else 0)
    for player in ("generator", "discriminator"):
        # Adam's first update changes a weight by the learning rate, wherever its gradient is not zero.
        np.testing.assert_allclose(largest_move(before, after, player), 2e-4, rtol=0.1)
    # Five batches of 64 per step: at the end the rate is zero.
    assert float(make_schedules(config)(config.steps * 5 * 64).generator.learning_rate) == 0.0
