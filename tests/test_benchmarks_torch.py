"""experiments.benchmarks.torch: the PyTorch programs are equivalent to ours."""

import collections
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import systems
from experiments.benchmarks.torch import variants
from gan.build import make_game
from gan.game import initial_variables, parameter_count
from gan.networks import dcgan, gat_layers
from gan.networks.layers import spectral

SHAPES = dict.fromkeys(systems.SYSTEMS, (28, 28, 1)) | {
    "flag_gan": (64, 64, 1), "dcgan32": (32, 32, 3), "dcgan64": (64, 64, 3), "dcgan32_r1": (32, 32, 3),
    "sngan": (32, 32, 3), "wgan_gp": (32, 32, 3), "sagan": (32, 32, 3), "biggan": (32, 32, 3), "r3gan": (32, 32, 1),
    "stylegan2": (32, 32, 1),
}  # fmt: skip
UNNORMALIZED = ("generator.spectral_norm=False", "discriminator.spectral_norm=False")
WIDTHS = ("generator.widths=(6, 4, 5, 3)", "discriminator.widths=(4, 5, 5, 6)")
STAGES = ("generator.widths=(8, 6, 4)", "discriminator.widths=(8, 6, 4)", "data.image_size=(16, 24)")
SMALL = {
    "mlp_gan": ["generator.width=8", "discriminator.width=8"],
    "vanilla_gan": ["generator.width=4", "discriminator.width=4"],
    "conv_gan": ["generator.width=4", "discriminator.width=2"],
    "flag_gan": ["generator.channels=(4, 6, 5)", "discriminator.channels=(4, 3)", "data.image_size=(8, 12)"],
    "dcgan32": ["generator.width=4", "discriminator.width=4", "data.image_size=(28, 36)"],
    "dcgan32_r1": ["generator.width=4", "discriminator.width=4"],
    "sngan": [*WIDTHS, "discriminator.spectral_norm=False"],
    "wgan_gp": [*WIDTHS],
    "sagan": ["generator.width=3", "discriminator.width=4", *UNNORMALIZED],
    "biggan": ["generator.width=2", "discriminator.width=2", *UNNORMALIZED],
    "r3gan": [*STAGES, "generator.group_width=4", "discriminator.group_width=4"],
    "stylegan2": [*STAGES, "discriminator.group_size=5", "batch_size=5"],
    "gat": [f"{player}.{field}" for player in ("generator", "discriminator")
            for field in ("width=16", "depth=4", "heads=2", "patch_size=4", "levels=2")] + ["data.image_size=(8, 12)"],
}  # fmt: skip


def game_of(config, channels):
    return make_game(config, image_shape=(*config.data.image_size, channels))


def flattened_first(array, image_shape):
    """Rows [H W C, ...] of a dense layer in the order [C H W, ...] of PyTorch's images."""
    height, width, channels = image_shape
    return np.moveaxis(np.reshape(array, (height, width, channels, -1)), 2, 0).reshape(np.shape(array))


KINDS = {
    "Linear": "Dense", "Conv2d": "Conv", "Same": "Conv", "ConvTranspose2d": "ConvTranspose", "Enlarge": "ConvTranspose",
    "BatchNorm1d": "BatchNorm", "BatchNorm2d": "BatchNorm", "SynthesisLayer": "StyledConv", "ToRGB": "StyledImage",
    "MappingNetwork": "LatentMapping", "StyledBlock": "blocks", "ToImage": "to_image",
}  # fmt: skip
NAMES = {"weight": ("kernel", "scale"), "running_mean": ("mean",), "running_var": ("var",)}


def copy_variables(variables, module, flat):
    """Copies our variables into the corresponding layers of PyTorch. `flat` is the shape of a flattened image.

    A dense layer with that many inputs or outputs, or a normalization of them, has them in another order there.
    """
    pytest.importorskip("torch")
    params, stats = variables["params"], variables.get("batch_stats", {})
    copied = copied_into(module, params, stats, flat, collections.defaultdict(itertools.count))
    assert copied == len(jax.tree.leaves(variables))


def copied_into(module, params, stats, flat, counters):
    """Copies the variables of a scope into a module and its submodules. Returns how many were copied.

    A submodule corresponds to our layer of the same name, or to the next one of its type; otherwise it is a container.
    """
    import torch

    copied = 0
    for name, part in module.named_children():
        kind = KINDS.get(type(part).__name__, type(part).__name__)
        if name in params:
            entry = name
        elif f"{kind}_0" in params or f"{kind}_0" in stats:
            entry = f"{kind}_{next(counters[kind])}"
        else:
            copied += copied_into(part, params, stats, flat, counters)
            continue
        scopes = params.get(entry, {}), stats.get(entry, {})
        if kind == "BatchNorm":
            scopes = [scope.get("BatchNorm_0", scope) for scope in scopes]
        copied += copied_into(part, *scopes, flat, collections.defaultdict(itertools.count))
    buffers = {name: value for name, value in module.named_buffers(recurse=False) if name in module.state_dict()}
    for name, tensor in (dict(module.named_parameters(recurse=False)) | buffers).items():
        if name == "num_batches_tracked":
            continue
        variables = params | stats
        leaf = np.asarray(variables[next(ours for ours in (name, *NAMES.get(name, ())) if ours in variables)])
        size = int(np.prod(flat))
        if leaf.ndim == 4:
            leaf = leaf.transpose(3, 2, 0, 1)
        elif leaf.ndim == 3:  # an image for each channel
            leaf = leaf.transpose(2, 0, 1)
        elif leaf.ndim == 2:
            leaf = flattened_first(leaf, flat) if leaf.shape[0] == size else leaf
            leaf = flattened_first(leaf.T, flat) if leaf.shape[1] == size else leaf.T
        elif leaf.size == size:
            leaf = flattened_first(leaf, flat)
        assert tuple(tensor.shape) == leaf.shape
        tensor.data.copy_(torch.from_numpy(np.array(leaf)))
        copied += 1
    return copied


def flat_sides(name, game):
    """The shapes [H, W, C] of the flattened output of G's first layer and of the flattened input of D's dense layer."""
    height, width, _ = game.image_shape
    generator, discriminator = game.generator.module, game.discriminator.module
    if name == "conv_gan":
        return (1, 1, 1), (7, 7, 2 * discriminator.width)
    if name == "flag_gan":
        return (height // 4, width // 4, generator.channels[0]), (height, width, discriminator.channels[-1])
    if name.startswith("dcgan"):
        *_, smallest = sizes = dcgan.stage_sizes(game.image_shape, 0)
        widening = 2 ** (len(sizes) - 2)
        return (*smallest, widening * generator.width), (*smallest, widening * discriminator.width)
    if name in ("sngan", "wgan_gp", "sagan", "biggan"):
        return (4, 4, (generator.widths or [4 * generator.width])[0]), (1, 1, 1)
    if name == "gat":
        return (1, 1, 1), (1, 1, 1)
    if name in ("r3gan", "stylegan2"):
        return (1, 1, 1), (height // 4, width // 4, discriminator.widths[0])
    return game.image_shape, game.image_shape


@pytest.mark.parametrize("name", list(systems.SYSTEMS))
def test_pytorch_networks_have_as_many_parameters(name):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.torch import peers

    config, shape = systems.configured(name), SHAPES[name]
    assert tuple(config.data.image_size) == shape[:2]
    game = game_of(config, shape[2])
    variables = jax.eval_shape(lambda key: initial_variables(game, key, key), jax.random.key(0))
    with torch.device("meta"):
        twins = peers.make_players(config, (shape[2], *shape[:2]))
    for ours, theirs in zip(variables, twins, strict=True):
        assert parameter_count(ours["params"]) == peers.parameter_count(theirs)


@pytest.mark.parametrize(
    "name, train",  # dropout draws its own numbers on each side; without it training differs in batch statistics only
    [("mlp_gan", True), ("vanilla_gan", False), ("conv_gan", True), ("flag_gan", False),
     ("dcgan32", True), ("dcgan32_r1", True), ("sngan", True), ("wgan_gp", False), ("sagan", True), ("biggan", True),
     ("r3gan", True), ("stylegan2", True), ("gat", False)],
)  # fmt: skip
def test_pytorch_networks_with_our_weights_have_the_same_outputs(name, train):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.torch import peers

    config = systems.configured(name, SMALL[name])
    channels = SHAPES[name][2]
    game = game_of(config, channels)

    # Larger than initial weights, so that a wrong tap has an effect; no bias is zero, no statistic is one.
    numbers = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: initial_variables(game, key, key), jax.random.key(0))
    span = 3.0 if name == "stylegan2" else 0.6  # its layers scale their weights by 1 / sqrt(inputs)
    variables = jax.tree.map(lambda leaf: span * (numbers.random(leaf.shape, np.float32) - 1 / 3), shapes)
    # Each side draws StyleGAN2's noise by itself. The slow layers of GAT scale their weights by 1 / 100.
    scales = {"noise": 0.0, "SlowDense": 100.0}
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * math.prod(scales[part] for part in scales if part in jax.tree_util.keystr(path)),
        variables,
    )
    for ours in variables:
        ours["batch_stats"] = jax.tree.map(np.abs, ours["batch_stats"])
    latent = numbers.standard_normal((5, game.latent_size), np.float32)
    real = numbers.random((5, *game.image_shape), np.float32)
    if name == "gat":  # larger images, because its tokens have fixed vectors of their places, too
        real = 8.0 * real - 4.0

    @jax.jit
    def outputs(generator, discriminator, latent, real):
        label = jnp.zeros(5, jnp.int32)
        image, _ = game.generate(generator, latent, label, train=train, key=jax.random.key(0))
        return image, game.discriminate(discriminator, real, label, train=train).logits

    image, logits = outputs(*variables, latent, real)
    if name == "conv_gan":  # its latent is reshaped to an image of 2x2
        latent = flattened_first(latent.T, (2, 2, game.latent_size // 4)).T
    players = peers.make_players(config, (channels, *config.data.image_size))
    for player, ours, flat in zip(players, variables, flat_sides(name, game), strict=True):
        copy_variables(ours, player, flat)
        player.train(train)
    with torch.no_grad():
        images = players[0](torch.from_numpy(np.array(latent))).permute(0, 2, 3, 1)
        twin_logits = players[1](torch.from_numpy(np.array(real)).permute(0, 3, 1, 2))
    np.testing.assert_allclose(images, image, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(twin_logits, logits, atol=1e-4, rtol=1e-4)
    assert np.std(image) > 0.01 and np.std(logits) > 1e-3


def test_pytorch_makes_and_noises_the_levels_of_gat_as_ours():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.torch import gat, peers

    config = systems.configured("gat", SMALL["gat"])
    game = game_of(config, 3)
    ours, _ = jax.jit(lambda key: initial_variables(game, key, key))(jax.random.key(0))
    generator, _ = peers.make_players(config, (3, 8, 12))
    copy_variables(ours, generator, (1, 1, 1))
    latent = np.random.default_rng(0).standard_normal((5, game.latent_size), np.float32)
    images, stats = game.generate(ours, latent, jnp.zeros(5, jnp.int32), train=True, key=jax.random.key(0))
    with torch.no_grad():
        twin_images = generator.train()(torch.from_numpy(latent))
    np.testing.assert_allclose(twin_images.permute(0, 2, 3, 1), images, atol=1e-5, rtol=1e-4)
    assert images.shape == (5, 8, 12, 2 * 3) and np.std(images[..., :3] - images[..., 3:]) > 0.01
    (mean,) = jax.tree.leaves(stats)
    np.testing.assert_allclose(generator[0].style_mean, mean, atol=1e-6, rtol=1e-4)
    levels, noise = np.random.default_rng(1).standard_normal((2, 5, 4, 3, 8, 12), np.float32)
    noised = gat_layers.noised(*(np.moveaxis(array, (1, 2), (3, 4)) for array in (levels, noise)))
    np.testing.assert_allclose(
        gat.noised(torch.from_numpy(levels), torch.from_numpy(noise)), np.moveaxis(noised, (3, 4), (1, 2)), atol=1e-5
    )


@pytest.mark.parametrize("name, shared", [("dcgan32", True), ("dcgan32_r1", False), ("mlp_gan", False)])
def test_a_step_in_pytorch_changes_every_parameter(name, shared):
    pytest.importorskip("torch")
    from experiments.benchmarks.torch import peers

    changes = [*SMALL[name], "batch_size=4", f"latent.share={shared}"]
    images = np.random.default_rng(0).integers(0, 256, (16, 28, 36, 3), np.uint8)
    twin = peers.Program(systems.configured(name, [*changes, "data.image_size=(28, 36)"]), images, "fused")
    players = (twin._generator, twin._discriminator)
    before = [parameter.detach().clone() for player in players for parameter in player.parameters()]
    ema = [tensor.clone() for tensor in twin._ema]
    assert twin.time_steps(2) > 0
    after = [parameter for player in players for parameter in player.parameters()]
    assert all((old != new).any() for old, new in zip(before, after, strict=True))
    moved = any((old != new).any() for old, new in zip(ema, twin._ema, strict=True))
    assert moved == (name != "mlp_gan")  # whose config has no EMA


@pytest.mark.parametrize("name", ["sngan", "wgan_gp", "biggan", "r3gan", "stylegan2", "gat"])
def test_a_step_of_a_later_network_in_pytorch_changes_every_parameter(name):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.torch import peers

    torch.manual_seed(0)  # with another seed a ReLU may be inactive, and its weights do not change
    changes = [text for text in SMALL[name] if "norm" not in text] + ["batch_size=5", "discriminator_steps=1"]
    config = systems.configured(name, changes)
    images = np.random.default_rng(0).integers(0, 256, (16, *config.data.image_size, SHAPES[name][2]), np.uint8)
    twin = peers.Program(config, images, "fused+channels_last")
    players = {"generator": twin._generator, "discriminator": twin._discriminator}
    parameters = {f"{who} {part}": leaf for who, player in players.items() for part, leaf in player.named_parameters()}
    before = {part: leaf.detach().clone() for part, leaf in parameters.items()}
    twin.time_steps(3)
    unchanged = {part for part, leaf in parameters.items() if leaf.equal(before[part])}
    # It cancels in a difference of logits, and in hinge losses within the margin.
    cancels = config.loss in ("wasserstein", "hinge", "relativistic")
    assert unchanged <= ({"discriminator dense.bias"} if cancels else set())
    assert all(leaf.isfinite().all() for leaf in parameters.values())


def test_pytorch_layers_are_spectrally_normalized_as_ours():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.torch import peers

    config = systems.configured("sagan", SMALL["sagan"])
    game = game_of(config, 3)
    numbers = np.random.default_rng(0)
    _, ours = jax.jit(lambda key: initial_variables(game, key, key))(jax.random.key(0))
    _, theirs = peers.make_players(config, (3, 32, 32))
    copy_variables(ours, theirs, (1, 1, 1))
    peers.spectrally_normalize(theirs)
    params, vectors = ours["params"], spectral.initial_vectors(ours["params"], jax.random.key(1))
    assert len(vectors) == sum(torch.nn.utils.parametrize.is_parametrized(layer) for layer in theirs.modules())
    real = numbers.standard_normal((5, 32, 32, 3), np.float32)
    given = torch.from_numpy(np.array(real)).permute(0, 3, 1, 2)
    for _ in range(300):  # power iterations, until both have converged
        normalized, vectors = jax.jit(spectral.normalized)(params, vectors)
        with torch.no_grad():
            twin_logits = theirs(given)
    label = jnp.zeros(5, jnp.int32)
    logits = game.discriminate(ours | {"params": normalized}, real, label, train=True).logits
    np.testing.assert_allclose(twin_logits, logits, atol=1e-4, rtol=1e-3)


def test_a_variant_that_fails_is_reported(monkeypatch):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.torch import peers

    def fail(*_, **__):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", fail)
    images = np.zeros((16, 28, 28, 1), np.uint8)
    config = systems.configured("mlp_gan", [*SMALL["mlp_gan"], "batch_size=4"])
    programs, failed = peers.prepare(config, images, ["eager", "fused+compile"])
    assert list(programs) == ["eager"]
    assert failed == {"fused+compile": "RuntimeError: no compiler"}


def test_variants_have_an_effect_and_slow_ones_come_last():
    image, flat = (systems.configured(name) for name in ("dcgan32", "mlp_gan"))
    assert not any("reduce_overhead" in name for name in variants.variants_of(image, "cpu"))
    assert {"fused+reduce_overhead", "fused+channels_last+reduce_overhead"} < {*variants.variants_of(image, "cuda")}
    assert not any("one_thread" in name for name in variants.variants_of(image, "cuda"))
    assert not any("channels_last" in name for name in variants.variants_of(flat, "cuda"))
    is_slow = [variants.is_compiled(name) for name in variants.VARIANTS]
    assert is_slow == sorted(is_slow) and 0 < sum(is_slow) < len(is_slow)


def test_pytorch_computes_in_the_dtype_of_the_config():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.torch import peers

    images = np.random.default_rng(0).integers(0, 256, (16, 28, 28, 3), np.uint8)
    small = [*SMALL["dcgan32"], "batch_size=4", "data.image_size=(28, 28)"]
    kept = {}
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        twin = peers.Program(systems.configured("dcgan32", [*small, f"compute_dtype={dtype}"]), images, "fused")
        images_made = []
        generate = twin._generate
        twin._generate = lambda latent, generate=generate, made=images_made: made.append(generate(latent)) or made[-1]
        twin.time_steps(1)
        assert {made.dtype for made in images_made} == {getattr(torch, dtype)}
        kept[dtype] = [leaf.detach().clone() for leaf in twin._generator.parameters()]
        assert {leaf.dtype for leaf in kept[dtype]} == {torch.float32} and all(
            leaf.isfinite().all() for leaf in kept[dtype]
        )
    assert any((a != b).any() for a, b in zip(*kept.values(), strict=True))


@pytest.mark.slow  # the compiler of PyTorch's programs is a C++ compiler: a minute
def test_compiled_pytorch_programs_change_every_parameter():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.torch import peers

    images = np.random.default_rng(0).integers(0, 256, (16, 28, 28, 3), np.uint8)
    small = [*SMALL["dcgan32"], "batch_size=4", "data.image_size=(28, 28)", "latent.share=True"]
    for dtype in ("float32", "bfloat16"):
        config = systems.configured("dcgan32", [*small, f"compute_dtype={dtype}"])
        torch.manual_seed(0)
        twin = peers.Program(config, images, "fused+channels_last+reduce_overhead")  # on a CPU without graphs
        players = (twin._generator, twin._discriminator)
        before = [leaf.detach().clone() for player in players for leaf in player.parameters()]
        twin.time_steps(3)
        after = [leaf for player in players for leaf in player.parameters()]
        assert all((old != new).any() for old, new in zip(before, after, strict=True))
