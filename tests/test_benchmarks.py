"""experiments.benchmarks: PyTorch's programs are the same games as ours, and what is counted is what is there.

Nothing is timed here.
"""

import collections
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.benchmarks import flops, processes, run_costs, scaling, step_time, systems, timing, torch_variants
from gan.build import make_game
from gan.game import initial_variables, parameter_count
from gan.networks import dcgan, spectral
from gan.networks.conv import primitives

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
}


def game_of(config, channels):
    return make_game(config, image_shape=(*config.data.image_size, channels))


def flattened_first(array, image_shape):
    """Rows [H W C, ...] of a dense layer in the order [C H W, ...] of an image that is laid out so."""
    height, width, channels = image_shape
    return np.moveaxis(np.reshape(array, (height, width, channels, -1)), 2, 0).reshape(np.shape(array))


KINDS = {
    "Linear": "Dense", "Conv2d": "Conv", "Same": "Conv", "ConvTranspose2d": "ConvTranspose", "Enlarge": "ConvTranspose",
    "BatchNorm1d": "BatchNorm", "BatchNorm2d": "BatchNorm",
}  # fmt: skip
NAMES = {"weight": ("kernel", "scale"), "running_mean": ("mean",), "running_var": ("var",)}


def carry(variables, module, flat):
    """Gives our variables to PyTorch's layers of the same kind and place. `flat` is the shape behind a flat side.

    A dense layer with that many inputs or outputs has them in another order there, as has a normalization of them.
    """
    pytest.importorskip("torch")
    params, stats = variables["params"], variables.get("batch_stats", {})
    carried = carried_into(module, params, stats, flat, collections.defaultdict(itertools.count))
    assert carried == len(jax.tree.leaves(variables))


def carried_into(module, params, stats, flat, counters):
    """How many of a scope's variables a module of PyTorch's, and what it consists of, have taken over.

    A part is our layer of the same name, or the next of its kind; any other is a container of such.
    """
    import torch

    carried = 0
    for name, part in module.named_children():
        kind = KINDS.get(type(part).__name__, type(part).__name__)
        if name in params:
            entry = name
        elif f"{kind}_0" in params or f"{kind}_0" in stats:
            entry = f"{kind}_{next(counters[kind])}"
        else:
            carried += carried_into(part, params, stats, flat, counters)
            continue
        scopes = params.get(entry, {}), stats.get(entry, {})
        if kind == "BatchNorm":
            scopes = [scope.get("BatchNorm_0", scope) for scope in scopes]
        carried += carried_into(part, *scopes, flat, collections.defaultdict(itertools.count))
    buffers = {name: value for name, value in module.named_buffers(recurse=False) if name in module.state_dict()}
    for name, tensor in (dict(module.named_parameters(recurse=False)) | buffers).items():
        if name == "num_batches_tracked":
            continue
        variables = params | stats
        leaf = np.asarray(variables[next(ours for ours in (name, *NAMES.get(name, ())) if ours in variables)])
        size = int(np.prod(flat))
        if leaf.ndim == 4:
            leaf = leaf.transpose(3, 2, 0, 1)
        elif leaf.ndim == 3:  # an image for each map
            leaf = leaf.transpose(2, 0, 1)
        elif leaf.ndim == 2:
            leaf = flattened_first(leaf, flat) if leaf.shape[0] == size else leaf
            leaf = flattened_first(leaf.T, flat) if leaf.shape[1] == size else leaf.T
        elif leaf.size == size:
            leaf = flattened_first(leaf, flat)
        assert tuple(tensor.shape) == leaf.shape
        tensor.data.copy_(torch.from_numpy(np.array(leaf)))
        carried += 1
    return carried


def flat_sides(name, game):
    """The shapes [H, W, C] behind the flat outputs of G's first layer and the flat inputs of D's dense one."""
    height, width, _ = game.image_shape
    generator, discriminator = game.generator.module, game.discriminator.module
    if name == "conv_gan":
        return (1, 1, 1), (7, 7, 2 * discriminator.width)
    if name == "flag_gan":
        return (height // 4, width // 4, generator.channels[0]), (height, width, discriminator.channels[-1])
    if name.startswith("dcgan"):
        *_, smallest = sizes = dcgan.stage_sizes(game.image_shape, 0)
        maps = 2 ** (len(sizes) - 2)
        return (*smallest, maps * generator.width), (*smallest, maps * discriminator.width)
    if name in ("sngan", "wgan_gp", "sagan", "biggan"):
        return (4, 4, (generator.widths or [4 * generator.width])[0]), (1, 1, 1)
    if name in ("r3gan", "stylegan2"):
        return (1, 1, 1), (height // 4, width // 4, discriminator.widths[0])
    return game.image_shape, game.image_shape


@pytest.mark.parametrize("name", list(systems.SYSTEMS))
def test_pytorch_s_players_have_as_many_parameters(name):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_peers

    config, shape = systems.configured(name), SHAPES[name]
    assert tuple(config.data.image_size) == shape[:2]
    game = game_of(config, shape[2])
    variables = jax.eval_shape(lambda key: initial_variables(game, key, key), jax.random.key(0))
    with torch.device("meta"):
        peers = torch_peers.players(config, (shape[2], *shape[:2]))
    for ours, theirs in zip(variables, peers, strict=True):
        assert parameter_count(ours["params"]) == torch_peers.parameter_count(theirs)


@pytest.mark.parametrize(
    "name, train",  # dropout draws its own numbers on each side; without it training differs in batch statistics only
    [("mlp_gan", True), ("vanilla_gan", False), ("conv_gan", True), ("flag_gan", False),
     ("dcgan32", True), ("dcgan32_r1", True), ("sngan", True), ("wgan_gp", False), ("sagan", True), ("biggan", True),
     ("r3gan", True), ("stylegan2", True)],
)  # fmt: skip
def test_pytorch_s_players_say_the_same_with_our_weights(name, train):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_peers

    config = systems.configured(name, SMALL[name])
    channels = SHAPES[name][2]
    game = game_of(config, channels)

    # Larger than the initializers make them, so that a wrong tap shows; no bias at zero, no statistic at one.
    numbers = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: initial_variables(game, key, key), jax.random.key(0))
    span = 3.0 if name == "stylegan2" else 0.6  # whose layers divide their weights by the root of their inputs
    variables = jax.tree.map(lambda leaf: span * (numbers.random(leaf.shape, np.float32) - 1 / 3), shapes)
    variables = jax.tree_util.tree_map_with_path(  # StyleGAN2's noise is drawn by each side for itself
        lambda path, leaf: 0 * leaf if path[-1] == jax.tree_util.DictKey("noise") else leaf, variables
    )
    for ours in variables:
        ours["batch_stats"] = jax.tree.map(np.abs, ours["batch_stats"])
    latent = numbers.standard_normal((5, game.latent_size), np.float32)
    real = numbers.random((5, *game.image_shape), np.float32)

    @jax.jit
    def played(generator, discriminator, latent, real):
        label = jnp.zeros(5, jnp.int32)
        image, _ = game.generate(generator, latent, label, train=train, key=jax.random.key(0))
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
    np.testing.assert_allclose(images, image, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(judged, logits, atol=1e-4, rtol=1e-4)
    assert np.std(image) > 0.01 and np.std(logits) > 1e-3


@pytest.mark.parametrize("name, shared", [("dcgan32", True), ("dcgan32_r1", False), ("mlp_gan", False)])
def test_a_turn_of_pytorch_s_moves_every_parameter(name, shared):
    pytest.importorskip("torch")
    from experiments.benchmarks import torch_peers

    changes = [*SMALL[name], "batch_size=4", f"latent.share={shared}"]
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


@pytest.mark.parametrize("name", ["sngan", "wgan_gp", "biggan", "r3gan", "stylegan2"])
def test_a_turn_of_a_later_network_moves_every_parameter(name):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_peers

    torch.manual_seed(0)  # a ReLU that never fires would leave its weights where they are
    changes = [text for text in SMALL[name] if "norm" not in text] + ["batch_size=5", "discriminator_steps=1"]
    config = systems.configured(name, changes)
    images = np.random.default_rng(0).integers(0, 256, (16, *config.data.image_size, SHAPES[name][2]), np.uint8)
    program = torch_peers.Program(config, images, "fused+channels_last")
    players = {"generator": program._generator, "discriminator": program._discriminator}
    parameters = {f"{who} {part}": leaf for who, player in players.items() for part, leaf in player.named_parameters()}
    before = {part: leaf.detach().clone() for part, leaf in parameters.items()}
    program.play(3)
    still = {part for part, leaf in parameters.items() if leaf.equal(before[part])}
    # It falls out of a difference of logits, and out of hinges' within a margin.
    assert still <= ({"discriminator dense.bias"} if config.loss in ("wasserstein", "hinge") else set())
    assert all(leaf.isfinite().all() for leaf in parameters.values())


def test_pytorch_s_layers_are_normalised_as_ours():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_peers

    config = systems.configured("sagan", SMALL["sagan"])
    game = game_of(config, 3)
    numbers = np.random.default_rng(0)
    _, ours = jax.jit(lambda key: initial_variables(game, key, key))(jax.random.key(0))
    _, theirs = torch_peers.players(config, (3, 32, 32))
    carry(ours, theirs, (1, 1, 1))
    torch_peers.spectrally_normalize(theirs)
    params, vectors = ours["params"], spectral.initial_vectors(ours["params"], jax.random.key(1))
    assert len(vectors) == sum(torch.nn.utils.parametrize.is_parametrized(layer) for layer in theirs.modules())
    real = numbers.standard_normal((5, 32, 32, 3), np.float32)
    given = torch.from_numpy(np.array(real)).permute(0, 3, 1, 2)
    for _ in range(300):  # power iterations, until neither changes
        normalized, vectors = jax.jit(spectral.normalized)(params, vectors)
        with torch.no_grad():
            judged = theirs(given)
    label = jnp.zeros(5, jnp.int32)
    logits = game.discriminate(ours | {"params": normalized}, real, label, train=True).logits
    np.testing.assert_allclose(judged, logits, atol=1e-4, rtol=1e-3)


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


def test_variants_are_those_that_make_a_difference_and_the_slow_ones_come_last():
    image, flat = (systems.configured(name) for name in ("dcgan32", "mlp_gan"))
    assert not any("reduce_overhead" in name for name in torch_variants.variants_of(image, "cpu"))
    assert {"fused+reduce_overhead", "fused+channels_last+reduce_overhead"} < {
        *torch_variants.variants_of(image, "cuda")
    }
    assert not any("one_thread" in name for name in torch_variants.variants_of(image, "cuda"))
    assert not any("channels_last" in name for name in torch_variants.variants_of(flat, "cuda"))
    is_slow = [torch_variants.is_compiled(name) for name in torch_variants.VARIANTS]
    assert is_slow == sorted(is_slow) and 0 < sum(is_slow) < len(is_slow)


def test_pytorch_computes_in_the_type_that_the_config_names():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_peers

    images = np.random.default_rng(0).integers(0, 256, (16, 28, 28, 3), np.uint8)
    small = [*SMALL["dcgan32"], "batch_size=4", "data.image_size=(28, 28)"]
    kept = {}
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        program = torch_peers.Program(
            systems.configured("dcgan32", [*small, f"compute_dtype={dtype}"]), images, "fused"
        )
        images_made = []
        generate = program._generate
        program._generate = lambda latent, generate=generate, made=images_made: (
            made.append(generate(latent)) or made[-1]
        )
        program.play(1)
        assert {made.dtype for made in images_made} == {getattr(torch, dtype)}
        kept[dtype] = [leaf.detach().clone() for leaf in program._generator.parameters()]
        assert {leaf.dtype for leaf in kept[dtype]} == {torch.float32} and all(
            leaf.isfinite().all() for leaf in kept[dtype]
        )
    assert any((a != b).any() for a, b in zip(*kept.values(), strict=True))


@pytest.mark.slow  # the compiler of PyTorch's programs is a C++ compiler: a minute
def test_compiled_programs_of_pytorch_s_move_every_parameter():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_peers

    images = np.random.default_rng(0).integers(0, 256, (16, 28, 28, 3), np.uint8)
    small = [*SMALL["dcgan32"], "batch_size=4", "data.image_size=(28, 28)", "latent.share=True"]
    for dtype in ("float32", "bfloat16"):
        config = systems.configured("dcgan32", [*small, f"compute_dtype={dtype}"])
        torch.manual_seed(0)
        program = torch_peers.Program(config, images, "fused+channels_last+reduce_overhead")  # on a CPU without graphs
        players = (program._generator, program._discriminator)
        before = [leaf.detach().clone() for player in players for leaf in player.parameters()]
        program.play(3)
        after = [leaf for player in players for leaf in player.parameters()]
        assert all((old != new).any() for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_sides_measure_a_product_of_each_type(dtype):
    assert step_time.matrix_rate(64, dtype) > 0
    pytest.importorskip("torch")
    from experiments.benchmarks import torch_device

    assert torch_device.matrix_rate(64, dtype) > 0
    assert torch_device.facts()["float32"] == ("TF32" if torch_device.DEVICE.type == "cuda" else "float32")


class Waiting:
    """A side that answers late."""

    def wait(self, seconds):
        """Waits."""
        time.sleep(seconds)
        return seconds


def test_a_side_that_takes_too_long_is_ended():
    side = processes.Apart(Waiting)
    try:
        assert side.ask("wait", 0.0) == side.ask("wait", 0.0, timeout=60) == 0.0
        with pytest.raises(TimeoutError, match="wait had no answer within 0 s"):
            side.ask("wait", 600.0, timeout=0.1)
        with pytest.raises((RuntimeError, OSError)):
            side.ask("wait", 0.0)
    finally:
        side.close()


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
    forward = lambda image, kernel: primitives.conv(image, kernel, stride=2)  # noqa: E731
    assert flops.count(forward, image, kernel) == once
    assert flops.count(lambda i, k: forward(i, k) + jax.jit(forward)(i, k), image, kernel) == once
    # The gradient of a sum of squares for the kernel needs the outputs, and not the gradient for the image.
    assert flops.count(jax.grad(lambda k, i: jnp.sum(forward(i, k) ** 2)), kernel, image) == 2 * once
    loop = lambda x: jax.lax.scan(lambda x, _: (x @ x, None), x, length=7)[0]  # noqa: E731
    assert flops.count(loop, jnp.zeros((3, 3))) == 7 * 2 * 27


def test_points_that_would_take_too_long_are_left_out():
    before = {"operations": 5, "programs": [{"median_ms": 1000.0}, {"median_ms": 3000.0}]}
    assert scaling.foreseen(None, 20) == 0.0
    assert scaling.foreseen(before, 20) == 12.0  # the slowest takes 3 s, and there is four times the work


def test_programs_take_turns():
    played = []
    plays = {name: lambda turns, name=name: played.append((name, turns)) or 2.0 for name in "ab"}
    measured = timing.alternate(plays, {"a": 1, "b": 3}, rounds=2)
    assert played == [("a", 1), ("b", 3)] * 2
    assert measured == {"a": [2.0, 2.0], "b": [2.0, 2.0]}
    assert timing.spread([0.001, 0.005, 0.002]) == {"median_ms": 2.0, "min_ms": 1.0, "max_ms": 5.0}
    assert timing.steps_in(1.0, 0.3) == 3 and timing.steps_in(1.0, 9.0) == 1
    assert timing.table(("name", "ms"), [("ours", 1), ("b", 10)]) == "name  ms\nours   1\nb     10"


def test_the_shares_of_a_whole_run():
    config = systems.load("configs/dcgan.py", ["steps=100", "log_every=50", "sample_every=50", "checkpoint_every=100"])
    once = {"calls": 1, "seconds": 1.0}
    parts = dict.fromkeys(("start", "logging", "pictures", "evaluation", "checkpoints"), once)
    found = run_costs.shares(parts | {"turns": {"calls": 9, "seconds": 0.9}}, config)
    # 1 start, 99 turns of 0.1 s, 2 logs, 3 pictures (one before the first turn), 1 evaluation and 1 checkpoint of 1 s.
    assert found == pytest.approx({"start": 1 / 17.9, "turns": 9.9 / 17.9, "logging": 2 / 17.9, "pictures": 3 / 17.9,
                                   "evaluation": 1 / 17.9, "checkpoints": 1 / 17.9})  # fmt: skip


def test_a_mistake_is_told_in_one_line(capsys):
    def refuse():
        systems.configured("dcgan32", ["batch_sise=3"])

    with pytest.raises(SystemExit) as end:
        cli.run(refuse)
    assert end.value.code == 2
    told = "error: --override batch_sise=3: the config has no field batch_sise; nearest: 'batch_size'\n"
    assert capsys.readouterr().err == told
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: 3)
    assert end.value.code == 3
