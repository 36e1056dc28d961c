"""experiments.benchmarks: PyTorch's programs are the same games as ours, and what is counted is what is there.

Nothing is timed here.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import flops, growth, run_costs, systems, timing
from gan import game as rules
from gan.networks import conv, dcgan

SHAPES = dict.fromkeys(systems.SYSTEMS, (28, 28, 1)) | {
    "flag_gan": (64, 64, 1), "dcgan32": (32, 32, 3), "dcgan64": (64, 64, 3), "dcgan32_r1": (32, 32, 3),
}  # fmt: skip
SMALL = {
    "mlp_gan": ["generator.width=8", "discriminator.width=8"],
    "vanilla_gan": ["generator.width=4", "discriminator.width=4"],
    "conv_gan": ["generator.width=4", "discriminator.width=2"],
    "flag_gan": ["generator.maps=(4, 6, 5)", "discriminator.maps=(4, 3)", "data.image_size=(8, 12)"],
    "dcgan32": ["generator.width=4", "discriminator.width=4", "data.image_size=(28, 36)"],
    "dcgan32_r1": ["generator.width=4", "discriminator.width=4"],
}


def game_of(config, channels):
    return rules.build(config, image_shape=(*config.data.image_size, channels))


def flattened_first(array, image_shape):
    """Rows [H W C, ...] of a dense layer in the order [C H W, ...] of an image that is laid out so."""
    height, width, channels = image_shape
    return np.moveaxis(np.reshape(array, (height, width, channels, -1)), 2, 0).reshape(np.shape(array))


def carry(variables, module, flat):
    """Gives our variables to PyTorch's layers of the same kind and place. `flat` is the shape behind a flat side.

    A dense layer with that many inputs or outputs has them in another order there, as has a normalisation of them.
    """
    torch = pytest.importorskip("torch")
    nn, size = torch.nn, int(np.prod(flat))
    kinds = {nn.Linear: "Dense", nn.Conv2d: "Conv", nn.ConvTranspose2d: "ConvTranspose",
             nn.BatchNorm1d: "BatchNorm", nn.BatchNorm2d: "BatchNorm"}  # fmt: skip
    counters = {name: itertools.count() for name in kinds.values()}
    carried = 0
    for layer in module.modules():
        kind = next((name for base, name in kinds.items() if isinstance(layer, base)), None)
        if kind is None:
            continue
        name = f"{kind}_{next(counters[kind])}"
        entry = dict(variables["params"][name])
        if kind == "BatchNorm":
            entry = {**entry["BatchNorm_0"], **variables["batch_stats"][name]["BatchNorm_0"]}
            entry = {key: flattened_first(leaf, flat) if leaf.size == size else leaf for key, leaf in entry.items()}
            tensors = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
        else:
            tensors = {"weight": "kernel", "bias": "bias"}
        for theirs, ours in tensors.items():
            if ours not in entry:
                assert getattr(layer, theirs) is None
                continue
            leaf = np.asarray(entry[ours])
            if kind == "Dense" and leaf.shape[-1] == size:
                leaf = flattened_first(leaf.T, flat).T
            elif kind == "Dense" and ours == "kernel" and leaf.shape[0] == size:
                leaf = flattened_first(leaf, flat)
            if ours == "kernel":
                leaf = leaf.T if kind == "Dense" else leaf.transpose(3, 2, 0, 1)
            tensor = getattr(layer, theirs)
            assert tuple(tensor.shape) == leaf.shape
            tensor.data.copy_(torch.from_numpy(np.array(leaf)))
            carried += 1
    assert carried == len(jax.tree.leaves(variables))


def flat_sides(name, game):
    """The shapes [H, W, C] behind the flat outputs of G's first layer and the flat inputs of D's dense one."""
    height, width, _ = game.image_shape
    generator, discriminator = game.generator.module, game.discriminator.module
    if name == "conv_gan":
        return (1, 1, 1), (7, 7, 2 * discriminator.width)
    if name == "flag_gan":
        return (height // 4, width // 4, generator.maps[0]), (height, width, discriminator.maps[-1])
    if name.startswith("dcgan"):
        *_, smallest = sizes = dcgan.stage_sizes(game.image_shape, 0)
        maps = 2 ** (len(sizes) - 2)
        return (*smallest, maps * generator.width), (*smallest, maps * discriminator.width)
    return game.image_shape, game.image_shape


@pytest.mark.parametrize("name", list(systems.SYSTEMS))
def test_pytorch_s_players_have_as_many_parameters(name):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_peers

    config, shape = systems.configured(name), SHAPES[name]
    assert tuple(config.data.image_size) == shape[:2]
    game = game_of(config, shape[2])
    variables = jax.eval_shape(lambda key: rules.initial_variables(game, key, key), jax.random.key(0))
    with torch.device("meta"):
        peers = torch_peers.players(config, (shape[2], *shape[:2]))
    for ours, theirs in zip(variables, peers, strict=True):
        assert rules.parameter_count(ours["params"]) == torch_peers.parameter_count(theirs)


@pytest.mark.parametrize(
    "name, train",  # dropout draws its own numbers on each side; without it training differs in batch statistics only
    [("mlp_gan", True), ("vanilla_gan", False), ("conv_gan", True), ("flag_gan", False),
     ("dcgan32", True), ("dcgan32_r1", True)],
)  # fmt: skip
def test_pytorch_s_players_say_the_same_with_our_weights(name, train):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_peers

    config = systems.configured(name, SMALL[name])
    channels = SHAPES[name][2]
    game = game_of(config, channels)

    # Larger than the initialisers make them, so that a wrong tap shows; no bias at zero, no statistic at one.
    numbers = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: rules.initial_variables(game, key, key), jax.random.key(0))
    variables = jax.tree.map(lambda leaf: 0.6 * numbers.random(leaf.shape, np.float32) - 0.2, shapes)
    for ours in variables:
        ours["batch_stats"] = jax.tree.map(np.abs, ours["batch_stats"])
    latent = numbers.standard_normal((5, game.latent_size), np.float32)
    real = numbers.random((5, *game.image_shape), np.float32)

    @jax.jit
    def played(generator, discriminator, latent, real):
        label = jnp.zeros(5, jnp.int32)
        image, _ = game.generate(generator, latent, label, train=train)
        return image, game.discriminate(discriminator, real, label, train=train).logits

    image, logits = played(*variables, latent, real)
    if name == "conv_gan":  # whose latent is its first image, 2x2
        latent = flattened_first(latent.T, (2, 2, game.latent_size // 4)).T
    players = torch_peers.players(config, (channels, *config.data.image_size))
    for player, ours, flat in zip(players, variables, flat_sides(name, game), strict=True):
        carry(ours, player, flat)
        player.train(train)
    with torch.no_grad():
        images = players[0](torch.from_numpy(np.array(latent))).permute(0, 2, 3, 1)
        judged = players[1](torch.from_numpy(np.array(real)).permute(0, 3, 1, 2))
    np.testing.assert_allclose(images, image, atol=1e-4)
    np.testing.assert_allclose(judged, logits, atol=1e-4, rtol=1e-4)
    assert np.std(image) > 0.01 and np.std(logits) > 1e-3


@pytest.mark.parametrize("name, shared", [("dcgan32", True), ("dcgan32_r1", False), ("mlp_gan", False)])
def test_a_turn_of_pytorch_s_moves_every_parameter(name, shared):
    pytest.importorskip("torch")
    from experiments.benchmarks import torch_peers

    changes = [*SMALL[name], "batch_size=4", f"latent.shared={shared}"]
    images = np.random.default_rng(0).integers(0, 256, (16, 28, 36, 3), np.uint8)
    program = torch_peers.Program(systems.configured(name, [*changes, "data.image_size=(28, 36)"]), images, "fused")
    players = (program._generator, program._discriminator)
    before = [parameter.detach().clone() for player in players for parameter in player.parameters()]
    average = [tensor.clone() for tensor in program._average]
    assert program.play(2) > 0
    after = [parameter for player in players for parameter in player.parameters()]
    assert all((old != new).any() for old, new in zip(before, after, strict=True))
    moved = any((old != new).any() for old, new in zip(average, program._average, strict=True))
    assert moved == (name != "mlp_gan")  # whose config has no average


def test_a_variant_that_pytorch_refuses_is_told(monkeypatch):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_peers

    def refuse(*_, **__):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", refuse)
    images = np.zeros((16, 28, 28, 1), np.uint8)
    config = systems.configured("mlp_gan", [*SMALL["mlp_gan"], "batch_size=4"])
    programs, refused = torch_peers.prepare(config, images, ["eager", "fused+compile"])
    assert list(programs) == ["eager"]
    assert refused == {"fused+compile": "RuntimeError: no compiler"}


def test_the_operations_of_a_generator_by_hand():
    # DCGAN at 8x8x3, width 16, one stage: 2 B (100 * 4*4*16 + 4*4 * 4*4 * 3*16), two for each product of two numbers.
    # The transpose of a convolution costs what the convolution does: each of its 4x4 positions with each of 4x4 taps.
    generator = dcgan.Generator((8, 8, 3), width=16)
    latent, label = jnp.zeros((5, 100)), jnp.zeros(5, jnp.int32)
    variables = jax.eval_shape(lambda: generator.init(jax.random.key(0), latent, label, False))
    counted = flops.count(lambda given, latent: generator.apply(given, latent, label, False), variables, latent)
    assert counted == 2 * 5 * (100 * 256 + 16 * 16 * 48)


def test_operations_that_are_repeated_or_unread_do_not_count():
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((4, 4, 3, 5))
    once = 2 * 2 * 4 * 4 * 4 * 4 * 3 * 5
    forward = lambda image, kernel: conv.conv(image, kernel, stride=2)  # noqa: E731
    assert flops.count(forward, image, kernel) == once
    assert flops.count(lambda i, k: forward(i, k) + jax.jit(forward)(i, k), image, kernel) == once
    # The gradient of a sum of squares for the kernel needs the outputs, and not the gradient for the image.
    assert flops.count(jax.grad(lambda k, i: jnp.sum(forward(i, k) ** 2)), kernel, image) == 2 * once
    loop = lambda x: jax.lax.scan(lambda x, _: (x @ x, None), x, length=7)[0]  # noqa: E731
    assert flops.count(loop, jnp.zeros((3, 3))) == 7 * 2 * 27


def test_points_that_would_take_too_long_are_left_out():
    before = {"operations": 5, "programs": [{"median_ms": 1000.0}, {"median_ms": 3000.0}]}
    assert growth.foreseen(None, 20) == 0.0
    assert growth.foreseen(before, 20) == 12.0  # the slowest takes 3 s, and there is four times the work


def test_programs_take_turns():
    played = []
    plays = {name: lambda turns, name=name: played.append((name, turns)) or 2.0 for name in "ab"}
    measured = timing.alternate(plays, {"a": 1, "b": 3}, rounds=2)
    assert played == [("a", 1), ("b", 3)] * 2
    assert measured == {"a": [2.0, 2.0], "b": [2.0, 2.0]}
    assert timing.spread([0.001, 0.005, 0.002]) == {"median_ms": 2.0, "min_ms": 1.0, "max_ms": 5.0}
    assert timing.turns_in(1.0, 0.3) == 3 and timing.turns_in(1.0, 9.0) == 1
    assert timing.table(("name", "ms"), [("ours", 1), ("b", 10)]) == "name  ms\nours   1\nb     10"


def test_the_shares_of_a_whole_run():
    config = systems.load("configs/dcgan.py", ["steps=100", "log_every=50", "sample_every=50", "checkpoint_every=100"])
    once = {"calls": 1, "seconds": 1.0}
    parts = dict.fromkeys(("start", "logging", "pictures", "evaluation", "checkpoints"), once)
    found = run_costs.shares(parts | {"turns": {"calls": 9, "seconds": 0.9}}, config)
    # 1 start, 99 turns of 0.1 s, 2 logs, 3 pictures (one before the first turn), 1 evaluation and 1 checkpoint of 1 s.
    assert found == pytest.approx({"start": 1 / 17.9, "turns": 9.9 / 17.9, "logging": 2 / 17.9, "pictures": 3 / 17.9,
                                   "evaluation": 1 / 17.9, "checkpoints": 1 / 17.9})  # fmt: skip
