"""gan.networks.gat: the paper's parameter count, equality with PyTorch, levels and their noise, styles, recipes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from players import first_step, largest_move
from twins import check_same, drawn, jit

from configs import gat as configs
from gan.augment import AUGMENTS
from gan.build import make_game, make_schedules
from gan.config import specs
from gan.errors import UserError
from gan.game import parameter_count
from gan.networks.gat import Discriminator, Generator
from gan.networks.gat_layers import MappingNetwork, image_of, noise_weights, noised, patches
from gan.networks.layers.styles import STYLE_MEAN

SHAPE, CLASSES = (8, 12, 3), 3
FIELDS = {"width": 16, "depth": 2, "heads": 2, "patch_size": 4, "levels": 2}
OF_G = FIELDS | {"conditioning": "concat_embedding"}
OF_D = FIELDS | {"conditioning": "projection", "label_width": 5}
LATENT, LABEL = jax.random.normal(jax.random.key(0), (4, 6)), jnp.array([2, 0, 2, 1])


def with_four_levels():
    """The small preset with as many levels as the paper's."""
    config = configs.get_config("small")
    config.generator.levels = config.discriminator.levels = 4
    return config


# With C features and heads of d, a branch of attention has A(C) = 4 C^2 + 4 C + 2 d numbers, one of SwiGLU with h = 8 C
# / 3 has S(C) = 3 C h + 2 h + C. A block of G: A + S + 4 C^2 + 4 C of the modulation. A block of D: A + S + 4 C.
# At 1152: A = 5,313,168, S = 10,624,128, so 21,250,320 of G and 15,941,904 of D (d = 72). At 768 (d = 64):
# 9,448,320 and 7,089,024. At 384 (d = 64): 2,364,928 and 1,775,104. At 96 (d = 24): 148,880 and 112,016.
@pytest.mark.parametrize(
    "preset, shape, classes, generator, discriminator",
    [
        # G: 28 blocks, 128*1152 + 1152^2 + 2*1152 of the mapping, 1000*64 of the labels, 4 times 1152^2 + 1152 +
        # 1152*16 + 16 of the images. The paper's 602 million are these and 256*1152 positions, and a layer of 16*1152 +
        # 1152 that the authors' code multiplies by 0.
        # D: 28 blocks, 64*1152 + 1152 of the patches of 4 levels, 1152 the class token, 1152 the norm, 1152*2048 + 2048
        # the logit, 1000*2048 + 2 (2048^2 + 2048) of the labels.
        pytest.param("XL", (32, 32, 4), 1000, 601_936_640, 459_252_544, marks=pytest.mark.slow),
        # 12 blocks of width 384, 128*384 + 384^2 + 2*384, 10*64, and 4 times 384^2 + 384 + 384*12 + 12.
        # D: 12 blocks, 48*384 + 3*384, 384*2048 + 2048, 10*2048 + 2 (2048^2 + 2048).
        ("cifar10", (32, 32, 3), 10, 29_186_992, 30_522_496),
        # 12 blocks of width 768, patches of 16 pixels: 4 times 768^2 + 768 + 768*48 + 48; 192*768 for D.
        pytest.param("imagenet64", (64, 64, 3), 1000, 116_643_520, 97_233_664, marks=pytest.mark.slow),
        # Ours: 4 blocks of width 96, 128*96 + 96^2 + 2*96, 10*64, and 96^2 + 96 + 96*49 + 49.
        # D: 4 blocks, 49*96 + 3*96, 96*512 + 512, 10*512 + 2 (512^2 + 512).
        ("small", (28, 28, 1), 10, 631_921, 1_033_152),
    ],
)
def test_the_parameter_counts_of_the_paper_and_of_the_presets(preset, shape, classes, generator, discriminator):
    config = configs.get_config("cifar10" if preset == "XL" else preset)
    counts = []
    for module, settings, given in (
        (Generator, config.generator, jnp.zeros((1, config.latent.size))),
        (Discriminator, config.discriminator, jnp.zeros((1, *shape))),
    ):
        fields = {name: settings[name] for name in module.__dataclass_fields__ if name in settings}
        fields |= {"width": 1152, "depth": 28, "heads": 16} if preset == "XL" else {}
        init = functools.partial(module(shape, classes, **fields).init, train=False)
        made = jax.eval_shape(init, jax.random.key(0), given, jnp.zeros(1, jnp.int32))
        counts.append(parameter_count(made["params"]))
    assert counts == [generator, discriminator]


@pytest.fixture(scope="module")
def torch_networks():
    """The two networks as functions of PyTorch tensors; parameters with our names and layouts, images [B, H, W, C]."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    rows, columns = (side // FIELDS["patch_size"] for side in SHAPE[:2])

    def dense(x, params):
        return F.linear(x, params["kernel"].T, params["bias"])

    def norm(x, scale=None, epsilon=1e-6):
        return F.rms_norm(x, x.shape[-1:], scale, epsilon)

    def places(features):
        """The column and the row of each patch times the frequencies, [T, features / 4] each."""
        frequencies = torch.tensor([10000.0 ** (-k / (features // 4)) for k in range(features // 4)])
        place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        return place[:, 1, None] * frequencies, place[:, 0, None] * frequencies

    def positions(features):
        column, row = places(features)
        return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1)

    def rotated(x):
        """Pairs of features of the last T tokens as complex numbers, times exp(i angle)."""
        column, row = places(x.shape[-1])
        angles = torch.cat([row, column], dim=1)
        turned = torch.view_as_complex(x[:, :, -len(angles) :].unflatten(-1, (-1, 2)).contiguous())
        turned = torch.view_as_real(turned * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
        return torch.cat([x[:, :, : -len(angles)], turned], dim=2)

    def attended(x, params):
        heads = dense(x, params["qkv"]).unflatten(-1, (3, FIELDS["heads"], -1)).permute(2, 0, 3, 1, 4)
        query, key = (
            rotated(norm(heads[i], params[f"{name}_norm"]["scale"], 2.0**-23)) for i, name in ((0, "query"), (1, "key"))
        )
        weights = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1)
        return dense((weights @ heads[2]).transpose(1, 2).flatten(2), params["output"])

    def swiglu(x, params):
        gates, values = dense(x, params["hidden"]).chunk(2, dim=-1)
        return dense(F.silu(gates) * values, params["output"])

    def slow(x, params):
        x = F.silu(0.01 * dense(x, params["SlowDense_0"]))
        return 0.01 * dense(x, params["SlowDense_1"])

    def scaled(x):
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()

    def generate(params, latent, label):
        mapping = params["mapping_network"]
        if label is not None:
            latent = torch.cat([scaled(mapping["Embed_0"]["embedding"][label]), scaled(latent)], dim=1)
        style = F.silu(slow(latent if label is not None else scaled(latent), mapping))[:, None]
        x, total, images = positions(FIELDS["width"])[None], 0.0, []
        for index in range(FIELDS["depth"]):
            block, head = params[f"blocks_{index}"], params[f"to_image_{index}"]
            scale, gate, mlp_scale, mlp_gate = dense(style, block["modulation"]).chunk(4, dim=-1)
            x = x + gate * attended(norm(x) * (1 + scale), block["Attention_0"])
            x = x + mlp_gate * swiglu(norm(x) * (1 + mlp_scale), block["SwiGLU_0"])
            made = dense(norm(x) * (1 + dense(style, head["modulation"])), head["patches"])
            made = made.unflatten(1, (rows, columns)).unflatten(-1, (4, 4, 3)).permute(0, 1, 3, 2, 4, 5)
            total = total + made.reshape(-1, *SHAPE)
            images.append(total)
        return torch.cat(images, dim=-1)

    def discriminate(params, image, label):
        weights = torch.tensor([1 - (0.875 + 0.01)] * 3 + [1 - 0.01] * 3)  # of two levels of three channels
        image = (torch.cat([image, image], -1) if image.shape[-1] == 3 else image) * weights
        tokens = params["PatchTokens_0"]
        kernel = tokens["patches"]["kernel"].unflatten(0, (4, 4, 6)).permute(3, 2, 0, 1)
        x = F.conv2d(image.permute(0, 3, 1, 2), kernel, tokens["patches"]["bias"], stride=4).flatten(2).transpose(1, 2)
        x = x + positions(FIELDS["width"])
        x = torch.cat([tokens["class_token"].expand(len(x), 1, -1), x], dim=1)
        for index in range(FIELDS["depth"]):
            block = params[f"TransformerBlock_{index}"]
            y = attended(norm(x, block["attention_norm"]["scale"]), block["Attention_0"])
            x = x + block["attention_scale"] * y
            x = x + block["mlp_scale"] * swiglu(norm(x, block["mlp_norm"]["scale"]), block["SwiGLU_0"])
        x = dense(norm(x[:, 0], params["RMSNorm_0"]["scale"]), params["Dense_0"])
        if label is None:
            return x[:, 0]
        return (x * slow(params["LabelVector_0"]["Embed_0"]["embedding"][label], params["LabelVector_0"])).sum(1)

    return {"generator": generate, "discriminator": discriminate}


def with_slow_layers(params):
    """The parameters, with slow layers that have an effect: 100 times as large."""
    return {
        name: jax.tree_util.tree_map_with_path(
            lambda path, leaf: 100 * leaf if "SlowDense" in jax.tree_util.keystr(path) else leaf, leaves
        )
        for name, leaves in params.items()
    }


def levels_of(generator):
    """The images of all levels, as a function of parameters and latents."""

    def made(params, latent, label):
        mean = jnp.zeros((CLASSES, 16) if generator.conditioning != "none" else 16)
        variables = {"params": params, "batch_stats": {STYLE_MEAN: mean}}
        return generator.apply(
            variables, latent, label, method=lambda module, *given: module.synthesis(module.mapping(*given), True)
        )

    return made


@pytest.mark.parametrize("is_conditional", [True, False])
def test_pytorch_makes_the_same_levels(torch_networks, is_conditional):
    generator = Generator(SHAPE, CLASSES, **(OF_G if is_conditional else FIELDS))
    label = [2, 0, 2, 1] if is_conditional else None
    check_same(
        lambda params, latent: levels_of(generator)(params, latent, LABEL),
        lambda params, latent: torch_networks["generator"](params, latent, label),
        with_slow_layers(drawn(generator, LATENT)),
        np.asarray(LATENT),
    )


@pytest.mark.parametrize("is_conditional, channels", [(True, 6), (False, 3)])
def test_pytorch_computes_the_same_logits(torch_networks, is_conditional, channels):
    discriminator = Discriminator(SHAPE, CLASSES, **(OF_D if is_conditional else FIELDS))
    image = np.random.default_rng(1).normal(size=(4, *SHAPE[:2], channels)).astype("float32")
    label = [2, 0, 2, 1] if is_conditional else None
    check_same(
        lambda params, image: discriminator.apply({"params": params}, image, LABEL, False),
        lambda params, image: torch_networks["discriminator"](params, image, label),
        with_slow_layers(drawn(discriminator, image)),
        image,
    )


def test_patches_are_rows_of_pixels():
    image = jnp.arange(8 * 12 * 3).reshape(1, 8, 12, 3)
    cut = patches(image, 4)
    np.testing.assert_array_equal(cut[0, 4], image[0, 4:8, 4:8].reshape(-1))  # the fifth of 2 x 3: row 1, column 1
    np.testing.assert_array_equal(image_of(cut, (2, 3), 4), image)


def test_the_noise_of_the_levels():
    # 1 - 0.125^(1 - k / 3) + 0.01: 0.125, 0.125^(2/3) = 0.25 and 0.125^(1/3) = 0.5 are what is left of the image.
    np.testing.assert_allclose(noise_weights(4), [0.885, 0.76, 0.51, 0.01])
    assert noise_weights(1) == (0.0,)
    t = np.asarray(noise_weights(4))
    image = jax.random.normal(jax.random.key(0), (2, 3, 1, 4, 2))
    scaled = noised(image, jnp.zeros_like(image))
    np.testing.assert_allclose(scaled, image * (1 - t).reshape(1, 1, 1, 4, 1), rtol=1e-5)
    # The map from independent noise to that of the levels. Of a level and a later one the covariance is the later
    # one's variance, scaled as the image is between them: t'^2 (1 - t) / (1 - t').
    unit = jnp.eye(4).reshape(4, 1, 1, 4, 1)
    mix = noised(jnp.zeros((4, 1, 1, 4, 1)), unit)[:, 0, 0, :, 0].T
    expected = [[t[max(k, n)] ** 2 * (1 - t[min(k, n)]) / (1 - t[max(k, n)]) for n in range(4)] for k in range(4)]
    np.testing.assert_allclose(mix @ mix.T, expected, rtol=1e-5)
    assert expected[0][0] == pytest.approx(0.885**2) and expected[3][3] == pytest.approx(0.01**2)


def test_the_last_level_is_the_image_of_evaluation_and_training_adds_noise():
    generator, discriminator = Generator(SHAPE, CLASSES, **OF_G), Discriminator(SHAPE, CLASSES, **OF_D)
    params = with_slow_layers(drawn(generator, LATENT))
    variables = {"params": params, "batch_stats": {STYLE_MEAN: jnp.zeros((CLASSES, 16))}}
    image = jit(lambda: generator.apply(variables, LATENT, LABEL, False))()
    levels, _ = jit(lambda: generator.apply(variables, LATENT, LABEL, True, mutable=["batch_stats"]))()
    assert levels.shape == (4, 8, 12, 6) and image.shape == (4, *SHAPE)
    np.testing.assert_allclose(levels[..., 3:], image, atol=1e-5)
    assert float(jnp.abs(levels[..., :3] - image).max()) > 0.1

    given = {"params": with_slow_layers(drawn(discriminator, image))}

    @functools.partial(jit, static_argnums=1)
    def logits(image, train, seed=0):
        return discriminator.apply(given, image, LABEL, train, rngs={"noise": jax.random.key(seed)})

    # A real image stands for all levels; the draws are those of the key, and of the row.
    for train in (False, True):
        np.testing.assert_allclose(
            logits(image, train), logits(jnp.concatenate([image, image], axis=-1), train), rtol=1e-5
        )
    same = jnp.broadcast_to(image[:1], image.shape)
    assert np.abs(logits(same, True) - logits(same, True, 1)).min() > 1e-4
    of_one_label = logits(same, True)[jnp.array([0, 2])]
    assert abs(float(of_one_label[0] - of_one_label[1])) > 1e-4


def test_levels_are_augmented_with_the_same_draws():
    config = with_four_levels()
    config.augment.policy, config.augment.p = "diff_augment('color,translation,cutout,flip')", 1.0
    game = make_game(config, image_shape=(28, 28, 1), num_classes=10)
    image = jax.random.uniform(jax.random.key(0), (3, 28, 28, 1), minval=-1.0)
    keys, p = jax.random.split(jax.random.key(1), 3), jnp.float32(1.0)
    one = jit(game.augmented)(image, keys, p)
    np.testing.assert_allclose(
        jit(game.augmented)(jnp.tile(image, (1, 1, 1, 4)), keys, p), jnp.tile(one, (1, 1, 1, 4)), rtol=1e-5, atol=1e-5
    )
    assert float(jnp.abs(one - image).max()) > 0.1


def test_training_tracks_the_mean_style_of_each_class_and_evaluation_truncates_toward_it():
    generator = Generator(SHAPE, 4, **OF_G)
    params = with_slow_layers(drawn(generator, LATENT))
    styles = MappingNetwork(16, 4, "concat_embedding").apply({"params": params["mapping_network"]}, LATENT, LABEL)
    means = jax.random.normal(jax.random.key(3), (4, 16))
    variables = {"params": params, "batch_stats": {STYLE_MEAN: means}}
    _, updated = generator.apply(variables, LATENT, LABEL, True, mutable=["batch_stats"])
    # The labels are 2, 0, 2 and 1: 0.995 of the old mean and 0.005 of the batch's, and of class 3 the old mean.
    batch = jnp.stack([styles[1], styles[3], (styles[0] + styles[2]) / 2])
    expected = jnp.concatenate([0.995 * means[:3] + 0.005 * batch, means[3:]])
    np.testing.assert_allclose(updated["batch_stats"][STYLE_MEAN], expected, rtol=1e-4, atol=1e-6)

    def mapped(psi):
        return generator.clone(truncation=psi).apply(variables, LATENT, LABEL, method="mapping")

    np.testing.assert_allclose(mapped(1.0), jnp.broadcast_to(styles[:, None], (4, 2, 16)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mapped(0.0)[:, 1], means[LABEL], rtol=1e-4)
    np.testing.assert_allclose(mapped(0.25)[:, 0], 0.75 * means[LABEL] + 0.25 * styles, rtol=1e-4, atol=1e-5)


def test_initial_values_are_those_of_the_authors():
    fields = {"width": 48, "depth": 1, "heads": 2, "patch_size": 4, "levels": 1}
    generator = Generator(SHAPE, 40, **fields, conditioning="concat_embedding")
    discriminator = Discriminator(SHAPE, 40, **fields, label_width=64, conditioning="projection")
    g = jit(lambda: generator.init(jax.random.key(0), LATENT, LABEL, False))()["params"]
    d = jit(lambda: discriminator.init(jax.random.key(0), jnp.zeros((4, *SHAPE)), LABEL, False))()["params"]
    # Xavier's bound is gain sqrt(6 / (inputs + outputs)): the gain is 0.1 for modulations and 1 / 0.01 for slow layers.
    for kernel, gain in (
        (g["blocks_0"]["modulation"]["kernel"], 0.1),
        (g["to_image_0"]["modulation"]["kernel"], 0.1),
        (g["to_image_0"]["patches"]["kernel"], 1.0),
        (g["blocks_0"]["Attention_0"]["qkv"]["kernel"], 1.0),
        (g["mapping_network"]["SlowDense_0"]["kernel"], 100.0),
        (d["LabelVector_0"]["SlowDense_1"]["kernel"], 100.0),
        (d["PatchTokens_0"]["patches"]["kernel"], 1.0),
    ):
        bound = gain * math.sqrt(6 / sum(kernel.shape))
        assert 0.95 * bound < float(jnp.abs(kernel).max()) <= bound * 1.0001
    louder = generator.clone(modulation_gain=0.7)
    scaled = jit(lambda: louder.init(jax.random.key(0), LATENT, LABEL, False))()["params"]
    moved = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf / 7 if "modulation" in jax.tree_util.keystr(path) else leaf, scaled
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), moved, g)
    for embedding in (g["mapping_network"]["Embed_0"], d["LabelVector_0"]["Embed_0"]):
        np.testing.assert_allclose(embedding["embedding"].std(), 0.02, rtol=0.15)
    block = d["TransformerBlock_0"]
    np.testing.assert_array_equal(block["attention_scale"], jnp.full(48, 0.1))
    np.testing.assert_array_equal(block["attention_norm"]["scale"], jnp.ones(48))


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"generator.patch_size": 5}, r"image_size=\(28, 28\) does not fit config\.generator\.patch_size=5; n.*30"),
        ({"generator.heads": 5}, r"config\.generator\.width=96 is not a multiple of 4 \* heads = 20"),
        ({"discriminator.depth": 6}, r"discriminator\.depth=6 is not a multiple of config\.discriminator\.levels=4"),
        ({"discriminator.heads": 0}, r"config\.discriminator\.heads=0; expected: 1 or more"),
        ({"generator.levels": 2}, r"config\.generator\.levels=2: the discriminator takes 4; expected"),
        ({"penalties.wgan_gp": 1.0}, r"config\.penalties\.wgan_gp needs .* config\.generator\.levels=4 makes several"),
        ({"penalties.transport": 1.0, "latent.size": 0}, r"config\.penalties\.transport needs generated images like"),
        ({"augment.policy": "apa", "augment.p": 0.5}, r"config\.augment\.policy needs generated images like the real"),
        ({"discriminator.spectral_norm": True}, r"discriminator\.spectral_norm=True does not work"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_reported_in_one_line(changes, line):
    config = with_four_levels()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=line) as caught:
        make_game(config, image_shape=(28, 28, 1), num_classes=10)
    assert "\n" not in str(caught.value)


def test_one_level_of_the_generator_fits_any_discriminator():
    config = with_four_levels()
    config.generator.levels, config.penalties.wgan_gp = 1, 1.0
    make_game(config, image_shape=(28, 28, 1), num_classes=10)


@pytest.mark.parametrize("preset, rate", [("cifar10", 4e-4), ("imagenet64", 2e-4)])
def test_the_hyperparameters_of_the_paper(preset, rate):
    config = configs.get_config(preset)
    now = make_schedules(config)(1e6)
    for player in (now.generator, now.discriminator):  # 2e-4 * 768 / width
        numbers = (player.learning_rate, player.beta1, player.beta2, player.clip_norm)
        np.testing.assert_allclose(numbers, (rate, 0.0, 0.99, 1.0), rtol=1e-6)
    assert now.penalties == {"r1": pytest.approx(0.05), "r2": pytest.approx(0.05)}
    np.testing.assert_allclose(2 ** (-512 / now.ema_halflife), 0.999, rtol=1e-6)
    assert config.steps == 150_000 and config.batch_size == 512
    augment = specs.call(AUGMENTS, config.augment.policy, "config.augment.policy").transform
    assert augment.parts == ("color", "translation", "cutout", "flip") and augment.color == 0.5


@pytest.mark.slow  # tests/test_combinations.py trains this network too
def test_the_first_step_of_the_cifar_recipe_is_finite_and_changes_both_players():
    config = configs.get_config("cifar10")
    for player in (config.generator, config.discriminator):
        player.update({"width": 8, "depth": 2, "heads": 1, "levels": 2, "patch_size": 4})
    config.discriminator.label_width = 4
    game = make_game(config, image_shape=(8, 8, 3), num_classes=10)
    before, after, metrics = first_step(game, make_schedules(config)(0))
    assert all(np.isfinite(value) for value in metrics.values()) and metrics["r1"] > 0 and metrics["r2"] > 0
    for player in ("generator", "discriminator"):
        # Adam's first update changes a weight by the learning rate, wherever its gradient is not zero.
        np.testing.assert_allclose(largest_move(before, after, player), 4e-4, rtol=0.1)
    moved = np.abs(after.generator.batch_stats[STYLE_MEAN]).max(axis=1)
    assert moved[0] > 0 and not moved[1:].any()  # all labels are 0
