"""gan.networks.stylegan2: parameter counts, equality with PyTorch, noise, mixing, truncation, groups, recipes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from players import first_step, largest_move
from torch_stylegan2 import torch_networks
from twins import check_same, drawn, jit

from configs import stylegan2 as configs
from gan.build import make_game, make_schedules
from gan.errors import UserError
from gan.game import initial_variables, parameter_count
from gan.networks.layers.styles import STYLE_MEAN
from gan.networks.stylegan2 import Discriminator, Generator
from gan.networks.stylegan2_layers import MappingNetwork, MinibatchStd

SHAPE = (8, 4, 3)
OF_G = {"widths": (6, 4), "style_width": 5, "mapping_layers": 2, "conditioning": "concat_embedding"}
OF_D = {"widths": (6, 4), "group_size": 2, "mapping_layers": 1, "conditioning": "projection"}
CLASSES = {"small": 10, "cifar": 10, "cifar_conditional": 10, "ffhq256": 0}


# G, style width 512: a mapping layer has 512 * 513 = 262,656. A styled convolution of i to o channels has 513 i for its
# scales, 9 i o, o biases and the noise's strength: S(512, 512) = 2,622,465. A styled image of i channels has 513 i +
# 3 i + 3: I(512) = 264,195. D: a convolution of i to o channels has 9 i o + o, 2,359,808 of 512 to 512.
@pytest.mark.parametrize(
    "preset, generator, discriminator",
    [
        # G: 2 * 262,656 mapping + 7 S + 4 I + 16*512 constant. D: 3*512 + 512, 6 convolutions, the last 9*513*512 +
        # 512, dense 16*512 * 512 + 512 and 512 + 1.
        ("cifar", 19_947_539, 20_720_641),
        # G: 10*512 + 512 of the label, and 512*512 more in the first mapping layer. D: the label's, 8 mapping layers,
        # and the last layer has 262,656 in place of 513.
        ("cifar_conditional", 20_215_315, 23_089_664),
        # G: 8 mapping layers, 7 S(512, 512), at 64, 128 and 256 pixels S(512, 256) + S(256, 256) = 2,163,970, 639,618
        # and 209,218; images 4 I(512) + 132,099 + 66,051 + 33,027; 16*512. D: 3*64 + 64; a stage of m to o channels has
        # 9 m m + m + 9 m o + o + m o, 118,976 of 64 to 128, 475,520, 1,901,312, three times 4,981,760; then as above.
        pytest.param("ffhq256", 24_767_458, 24_001_089, marks=pytest.mark.slow),
        # Ours, style width 64, widths 64, 64, 32, 16. G: 2 * 64*65; S of i to o channels is 65 i + 9 i o + o + 1: three
        # times 41,089 of 64 to 64, 22,625 + 11,329, 6,705 + 3,361; I is 66 i + 1: twice 4,225, 2,113 + 1,057; 16*64. D:
        # 2*16; 2,320 + 4,640 + 512 of 16 to 32, 9,248 + 18,496 + 2,048, twice 36,928 and 4,096; 9*65*64 + 64,
        # 1024*64 + 64, 65.
        ("small", 105_683, 142_329),
    ],
)
def test_the_parameter_counts_of_the_authors_code(preset, generator, discriminator):
    config = configs.get_config(preset)
    shape = (*config.data.image_size, 1 if preset == "small" else 3)
    game = make_game(config, image_shape=shape, num_classes=CLASSES[preset])
    made = jax.eval_shape(functools.partial(initial_variables, game), *jax.random.split(jax.random.key(0)))
    assert [parameter_count(variables["params"]) for variables in made] == [generator, discriminator]


def drawn_mildly(module, inputs):
    """Random parameters, those of the mapping 100 times as large, because its rate is 0.01."""
    params = drawn(module, inputs, sd=1.0)
    is_mapping = [any(getattr(key, "key", "") == "Mapping_0" for key in path)
                  for path, _ in jax.tree_util.tree_leaves_with_path(params)]  # fmt: skip
    leaves, treedef = jax.tree.flatten(params)
    return jax.tree.unflatten(treedef, [100 * leaf if is_mapped else leaf for leaf, is_mapped in
                                        zip(leaves, is_mapping, strict=True)])  # fmt: skip


def test_pytorch_generates_the_same():
    in_torch, _ = torch_networks()
    latent, label = np.random.default_rng(1).normal(size=(3, 5)).astype("float32"), [2, 0, 1]
    module, batch_stats = Generator(SHAPE, 3, **OF_G), {STYLE_MEAN: jnp.zeros(5)}
    check_same(
        lambda params, latent: module.apply(
            {"params": params, "batch_stats": batch_stats}, latent, jnp.array(label), False
        ),
        lambda params, latent: in_torch(params, latent, label),
        drawn_mildly(module, latent),
        latent,
    )


@pytest.mark.parametrize("architecture, conditioning", [("resnet", "none"), ("orig", "projection")])
def test_pytorch_discriminates_the_same(architecture, conditioning):
    _, in_torch = torch_networks()
    module = Discriminator(SHAPE, 3, **{**OF_D, "architecture": architecture, "conditioning": conditioning})
    image = np.random.default_rng(1).normal(size=(4, *SHAPE)).astype("float32")
    label = [2, 0, 1, 1]
    check_same(
        lambda params, image: module.apply({"params": params}, image, jnp.array(label), False),
        lambda params, image: in_torch(params, image, None if conditioning == "none" else label, architecture),
        drawn_mildly(module, image),
        image,
    )


LATENT = jax.random.normal(jax.random.key(5), (8, 5))
LABEL = jnp.arange(8) % 3
# Of one stage each, which compiles in a tenth of the time.
SMALL_G = Generator((4, 2, 1), 3, **{**OF_G, "widths": (4,)})
SMALL_D = Discriminator((4, 2, 1), 3, **{**OF_D, "widths": (4,), "conditioning": "none"})


@functools.partial(jit, static_argnames=("truncation", "conv_clamp", "bfloat16_stages"))
def generate(params, latent, label, mean=None, moved=None, **fields):
    """Images in evaluation mode, with the offset `moved` [B, 2, 5] added to the styles."""
    moved = jnp.zeros((len(latent), 2, 5)) if moved is None else moved
    mean = jnp.zeros(5) if mean is None else mean
    variables = {"params": params, "batch_stats": {STYLE_MEAN: mean}, "perturbations": {"styles": moved}}
    return SMALL_G.clone(**fields).apply(variables, latent, label, False)


@functools.partial(jit, static_argnames="style_mixing")
def generate_in_training(params, latent, label, key, style_mixing):
    """Images and the new mean style in training mode, from a mean style of 1."""
    generator = SMALL_G.clone(style_mixing=style_mixing)
    rngs = {name: jax.random.fold_in(key, index) for index, name in enumerate(("noise", "style_mixing"))}
    variables = {"params": params, "batch_stats": {STYLE_MEAN: jnp.ones(5)}}
    image, updated = generator.apply(variables, latent, label, True, rngs=rngs, mutable=["batch_stats"])
    return image, updated["batch_stats"][STYLE_MEAN]


@pytest.fixture(scope="module")
def params():
    return drawn_mildly(SMALL_G, LATENT)


def largest(images):
    """The largest absolute value of each image, [B]."""
    return np.abs(images).max(axis=(1, 2, 3))


def test_noise_is_per_example_in_training_and_fixed_in_evaluation(params):
    same, label = jnp.broadcast_to(LATENT[:1], LATENT.shape), jnp.zeros(8, jnp.int32)
    fixed = generate(params, same, label)
    np.testing.assert_allclose(fixed, jnp.broadcast_to(fixed[:1], fixed.shape), atol=1e-4)
    np.testing.assert_allclose(fixed[0], generate(params, LATENT, label)[0], atol=1e-4)
    first, again, other = (
        generate_in_training(params, same, label, jax.random.key(seed), 0.0)[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    for others in (other, jnp.roll(first, 1, axis=0), fixed):
        assert (largest(first - others) > 0.1 * largest(first)).all()
    # With a strength of 0 there is no noise in either mode.
    silent = {name: {**layer, "noise": jnp.zeros(())} if "noise" in layer else layer for name, layer in params.items()}
    np.testing.assert_allclose(
        generate_in_training(silent, same, label, jax.random.key(0), 0.0)[0], generate(silent, same, label), atol=1e-4
    )


def test_training_tracks_the_mean_style_and_evaluation_truncates_toward_it(params):
    mapping = MappingNetwork(5, 2, 3, "concat_embedding")
    styles = jax.jit(mapping.apply)({"params": params["LatentMapping_0"]}, LATENT, LABEL)
    # It was 1: 0.995 of that, and 0.005 of the mean over the batch, without the second latents.
    _, mean = generate_in_training(params, LATENT, LABEL, jax.random.key(0), 0.9)
    np.testing.assert_allclose(mean, 0.995 + 0.005 * styles.mean(0), rtol=1e-5)
    # At truncation 0.7 a style moves by 0.3 of the distance to the mean, here the first example's style.
    way = jnp.broadcast_to((0.3 * (styles[:1] - styles))[:, None], (8, 2, 5))
    truncated, free = (generate(params, LATENT, LABEL, mean=styles[0], truncation=psi) for psi in (0.7, 1.0))
    np.testing.assert_allclose(truncated, generate(params, LATENT, LABEL, moved=way), atol=1e-3)
    np.testing.assert_allclose(truncated[0], free[0], atol=1e-3)
    assert (largest(truncated - free)[1:] > 0.1).all()
    np.testing.assert_array_equal(free, generate(params, LATENT, LABEL, mean=9 * styles[0], truncation=1.0))


@pytest.mark.slow
def test_synthesis_of_mapped_styles_is_the_generator():
    """Bit for bit in evaluation mode, one compiled function for each, with truncation and without."""
    generator = Generator(SHAPE, 3, **OF_G)
    variables = {"params": drawn_mildly(generator, LATENT), "batch_stats": {STYLE_MEAN: jnp.full(5, 0.5)}}
    for truncation in (1.0, 0.7):
        module = generator.clone(truncation=truncation)
        images = jax.jit(lambda module=module: module.apply(variables, LATENT, LABEL, False))()
        styles = jax.jit(lambda module=module: module.apply(variables, LATENT, LABEL, method="mapping"))()
        assert styles.shape == (8, 4, 5)
        given = jax.jit(lambda styles, module=module: module.apply(variables, styles, method="synthesis"))(styles)
        np.testing.assert_array_equal(given, images)
        # Other styles make other images.
        assert np.any(module.apply(variables, styles[::-1], method="synthesis") != images)


def test_styles_mix_from_a_random_layer_on(params):
    def draw(key, latent, layers):
        variables = {"params": params, "batch_stats": {STYLE_MEAN: jnp.zeros(5)}}
        return SMALL_G.apply(variables, latent, layers, method="_second_latents", rngs={"style_mixing": key})

    first, latent = jax.jit(draw, static_argnums=2)(jax.random.key(0), jnp.zeros((3000, 5)), 4)
    # Of 3,000 examples 0.9 are mixed, evenly from layer 1, 2 or 3 on, give or take 5 sqrt(3000 * 0.3 * 0.7).
    counts = np.bincount(np.asarray(first), minlength=5)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:4], 0.3 * 3000, atol=5 * 25)
    np.testing.assert_allclose(counts[4], 0.1 * 3000, atol=5 * 17)
    np.testing.assert_allclose([latent.mean(), latent.var()], [0.0, 1.0], atol=0.06)
    # With the same key, examples that are not mixed equal those without mixing.
    key = jax.random.key(3)
    is_mixed = draw(jax.random.fold_in(key, 1), LATENT, 2)[0] < 2
    differs = (
        largest(
            generate_in_training(params, LATENT, LABEL, key, 0.9)[0]
            - generate_in_training(params, LATENT, LABEL, key, 0.0)[0]
        )
        > 1e-3
    )
    np.testing.assert_array_equal(differs, is_mixed)
    assert differs.any()


@pytest.mark.slow
def test_four_devices_are_one(params):
    image = jax.random.normal(jax.random.key(1), (8, 4, 2, 1))
    discriminate = SMALL_D.clone(group_size=4)  # on devices of two examples: groups are gathered
    of_d = drawn(discriminate, image)

    def both(image, latent, label, axis_name):
        generator = SMALL_G.clone(axis_name=axis_name)
        rngs = {"noise": jax.random.key(2), "style_mixing": jax.random.key(3)}
        variables = {"params": params, "batch_stats": {STYLE_MEAN: jnp.zeros(5)}}
        images, updated = generator.apply(variables, latent, label, True, rngs=rngs, mutable=["batch_stats"])

        def total(image):
            return discriminate.clone(axis_name=axis_name).apply({"params": of_d}, image, label, True).sum()

        # R1 uses the gradient of the sum of all logits.
        return images, updated["batch_stats"][STYLE_MEAN], *jax.value_and_grad(total)(image)

    one = jit(lambda *arrays: both(*arrays, None))(image, LATENT, LABEL)
    parts = [leaf.reshape(4, 2, *leaf.shape[1:]) for leaf in (image, LATENT, LABEL)]
    four = jax.pmap(functools.partial(both, axis_name="data"), "data", devices=jax.devices()[:4])(*parts)
    for index in (0, 3):
        whole = four[index].reshape(one[index].shape)
        np.testing.assert_allclose(whole, one[index], atol=1e-4 * float(jnp.abs(one[index]).max()))
    np.testing.assert_allclose(four[1], jnp.broadcast_to(one[1], (4, 5)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(four[2].sum(), one[2], rtol=1e-4)


def test_the_deviation_of_a_group():
    # Groups of two: 0 and 4 deviate by 2, 1 and 1 not at all: the mean over channels is 1. Then 0 and 3: 3/2.
    x = jnp.array([[0.0, 1.0], [4.0, 1.0], [5.0, 0.0], [5.0, 6.0]]).reshape(4, 1, 1, 2)
    judged = MinibatchStd(2).apply({}, x)
    np.testing.assert_array_equal(judged[..., :2], x)
    np.testing.assert_allclose(judged[:, 0, 0, 2], [1.0, 1.0, 1.5, 1.5], atol=1e-4)
    # One group of all examples where there are fewer: variances 17/4 of (0, 4, 5, 5) and 22/4 of (1, 1, 0, 6).
    np.testing.assert_allclose(MinibatchStd(9).apply({}, x)[0, 0, 0, 2], (4.25**0.5 + 5.5**0.5) / 2, rtol=1e-5)
    with pytest.raises(
        UserError, match="group_size=3 does not divide the 4 examples .* expected: 1, 2, 4, or more than 4"
    ):
        MinibatchStd(3).apply({}, x)


def test_activations_are_clamped_and_large_stages_are_half_precision(params):
    image = jax.random.normal(jax.random.key(0), (8, 4, 2, 1))
    weights = drawn_mildly(SMALL_D, image)

    @functools.partial(jit, static_argnums=(0, 1))
    def discriminate(clamp, stages):
        return SMALL_D.clone(conv_clamp=clamp, bfloat16_stages=stages).apply({"params": weights}, image, None, False)

    def both(clamp, stages):
        return generate(params, LATENT, LABEL, conv_clamp=clamp, bfloat16_stages=stages), discriminate(clamp, stages)

    for exact, rounded, clamped in zip(both(0.0, 0), both(0.0, 1), both(0.01, 0), strict=True):
        assert exact.dtype == rounded.dtype == jnp.float32
        assert 1e-5 < float(jnp.abs(exact - rounded).max() / jnp.abs(exact).max()) < 0.05
        assert jnp.abs(exact - clamped).max() > 1e-3
    np.testing.assert_allclose(jnp.abs(both(0.01, 0)[0]).max(), 0.01)


@pytest.mark.parametrize(
    "player, fields, line",
    [
        ("generator", {"widths": (8, 8)}, None),
        ("generator", {"widths": (8,) * 7}, r"image_size=\(32, 32\) does not fit stylegan2 with 7 widths.*\(64, 64\)"),
        ("generator", {"widths": ()}, r"config\.generator\.widths=\(\) leaves stylegan2 without a stage"),
        ("generator", {"style_mixing": 1.5}, r"config\.generator\.style_mixing=1.5; expected: 0 <= style_mixing <= 1"),
        ("generator", {"mapping_layers": 0}, r"config\.generator\.mapping_layers=0; expected: 1 or more"),
        (
            "discriminator",
            {"architecture": "skip"},
            "config.discriminator.architecture='skip' is unknown; expected: orig",
        ),
        ("discriminator", {"group_size": 5}, "config.discriminator.group_size=5 does not divide the 32 examples"),
        ("discriminator", {"group_size": 0}, "config.discriminator.group_size=0 does not divide"),
    ],
)
def test_what_does_not_fit_is_reported_in_one_line(player, fields, line):
    config = configs.get_config()
    config[player].update(fields)
    if line is None:  # any number of stages whose halvings fit the image
        assert make_game(config, image_shape=(32, 32, 1))
        return
    with pytest.raises(UserError, match=line) as caught:
        make_game(config, image_shape=(32, 32, 1))
    assert "\n" not in str(caught.value)


def test_the_hyperparameters_of_the_recipes():
    cifar, faces = (make_schedules(configs.get_config(preset))(1e6) for preset in ("cifar", "ffhq256"))
    for numbers in (cifar, faces):
        # Rates 0.0025 * 4/5 and 0.0025 * 16/17; beta2 0.99 to those powers.
        expected = ((numbers.generator, 0.002, 0.9919919), (numbers.discriminator, 0.00235294, 0.9905856))
        for player, rate, beta2 in expected:
            made = (player.learning_rate, player.beta1, player.beta2, player.epsilon)
            np.testing.assert_allclose(made, (rate, 0.0, beta2, 1e-8), rtol=1e-5)
    # gamma 0.01 and 1, of which R1 without its half has half.
    np.testing.assert_allclose([cifar.penalties["r1"], faces.penalties["r1"]], [0.005, 0.5])
    assert "path_length" not in cifar.penalties and faces.penalties["path_length"] == 2.0
    # After a million images 0.05 of them, where there is a ramp.
    np.testing.assert_allclose([cifar.ema_halflife, faces.ema_halflife], [5e4, 2e4])
    np.testing.assert_allclose([cifar.augment.target, cifar.augment.ada_images], [0.6, 5e5])


@pytest.mark.slow  # tests/test_combinations.py trains this network too
def test_the_first_step_is_finite_and_changes_both_players():
    config = configs.get_config("ffhq256")
    for player in (config.generator, config.discriminator):
        player.update({"widths": (6, 4), "bfloat16_stages": 1})
    config.generator.update({"style_width": 8, "mapping_layers": 2})
    game = make_game(config, image_shape=(8, 8, 3))
    numbers = make_schedules(config)(1e6)
    before, after, metrics = first_step(game, numbers)
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["r1"] > 0 and metrics["path_length"] > 0
    assert after.running_stats["path_length"]["length"] > 0
    assert jnp.abs(after.generator.batch_stats[STYLE_MEAN]).max() > 0
    for player in ("generator", "discriminator"):
        # Adam's first update changes a weight by the learning rate, wherever its gradient is not zero.
        rate = getattr(numbers, player).learning_rate
        np.testing.assert_allclose(largest_move(before, after, player), rate, rtol=0.1)
