"""experiments.benchmarks: the PyTorch programs are equivalent to ours, and operations are counted correctly."""

import ast
import collections
import graphlib
import importlib
import itertools
import json
import logging
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.benchmarks import __main__ as suite
from experiments.benchmarks import (
    operations,
    processes,
    program,
    run_costs,
    scaling,
    systems,
    time_to_quality,
    timing,
)
from experiments.benchmarks.torch import variants
from gan.build import make_game
from gan.game import initial_variables, parameter_count
from gan.networks import dcgan
from gan.networks.conv import primitives
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
}


def game_of(config, channels):
    return make_game(config, image_shape=(*config.data.image_size, channels))


def flattened_first(array, image_shape):
    """Rows [H W C, ...] of a dense layer in the order [C H W, ...] of PyTorch's images."""
    height, width, channels = image_shape
    return np.moveaxis(np.reshape(array, (height, width, channels, -1)), 2, 0).reshape(np.shape(array))


KINDS = {
    "Linear": "Dense", "Conv2d": "Conv", "Same": "Conv", "ConvTranspose2d": "ConvTranspose", "Enlarge": "ConvTranspose",
    "BatchNorm1d": "BatchNorm", "BatchNorm2d": "BatchNorm", "SynthesisLayer": "StyledConv", "ToRGB": "StyledImage",
    "MappingNetwork": "LatentMapping",
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
     ("r3gan", True), ("stylegan2", True)],
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
    variables = jax.tree_util.tree_map_with_path(  # each side draws StyleGAN2's noise by itself
        lambda path, leaf: 0 * leaf if path[-1] == jax.tree_util.DictKey("noise") else leaf, variables
    )
    for ours in variables:
        ours["batch_stats"] = jax.tree.map(np.abs, ours["batch_stats"])
    latent = numbers.standard_normal((5, game.latent_size), np.float32)
    real = numbers.random((5, *game.image_shape), np.float32)

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


@pytest.mark.parametrize("name", ["sngan", "wgan_gp", "biggan", "r3gan", "stylegan2"])
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
    assert unchanged <= ({"discriminator dense.bias"} if config.loss in ("wasserstein", "hinge") else set())
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_sides_measure_a_product_of_each_dtype(dtype):
    assert program.matrix_rate(64, dtype) > 0
    pytest.importorskip("torch")
    from experiments.benchmarks.torch import device

    assert device.matrix_rate(64, dtype) > 0
    assert device.facts()["float32"] == ("TF32" if device.DEVICE.type == "cuda" else "float32")


class Waiting:
    """A side that is slow."""

    def wait(self, seconds):
        """Waits."""
        time.sleep(seconds)
        return seconds


def test_a_side_that_takes_too_long_is_killed():
    side = processes.OwnProcess(Waiting)
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
    counted = operations.count(lambda given, latent: generator.apply(given, latent, label, False), variables, latent)
    assert counted == 2 * 5 * (100 * 256 + 16 * 16 * 48)


def test_repeated_or_unused_operations_do_not_count():
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((4, 4, 3, 5))
    once = 2 * 2 * 4 * 4 * 4 * 4 * 3 * 5
    forward = lambda image, kernel: primitives.conv(image, kernel, stride=2)  # noqa: E731
    assert operations.count(forward, image, kernel) == once
    assert operations.count(lambda i, k: forward(i, k) + jax.jit(forward)(i, k), image, kernel) == once
    # The gradient of a sum of squares for the kernel needs the outputs, and not the gradient for the image.
    assert operations.count(jax.grad(lambda k, i: jnp.sum(forward(i, k) ** 2)), kernel, image) == 2 * once
    loop = lambda x: jax.lax.scan(lambda x, _: (x @ x, None), x, length=7)[0]  # noqa: E731
    assert operations.count(loop, jnp.zeros((3, 3))) == 7 * 2 * 27


def test_points_that_would_take_too_long_are_skipped():
    before = {"operations": 5, "programs": [{"median_ms": 1000.0}, {"median_ms": 3000.0}]}
    assert scaling.predicted_seconds(None, 20) == 0.0
    assert scaling.predicted_seconds(before, 20) == 12.0  # the slowest takes 3 s, and there is four times the work


def test_programs_are_timed_alternately():
    calls = []
    timers = {name: lambda steps, name=name: calls.append((name, steps)) or 2.0 for name in "ab"}
    measured = timing.alternate(timers, {"a": 1, "b": 3}, rounds=2)
    assert calls == [("a", 1), ("b", 3)] * 2
    assert measured == {"a": [2.0, 2.0], "b": [2.0, 2.0]}
    assert timing.spread([0.001, 0.005, 0.002]) == {"median_ms": 2.0, "min_ms": 1.0, "max_ms": 5.0}
    assert timing.steps_in(1.0, 0.3) == 3 and timing.steps_in(1.0, 9.0) == 1
    assert timing.table(("name", "ms"), [("ours", 1), ("b", 10)]) == "name  ms\nours   1\nb     10"


def test_the_shares_of_a_full_run():
    config = systems.load(
        "configs/dcgan.py:digits", ["steps=100", "log_every=50", "sample_every=50", "checkpoint_every=100"]
    )
    once = {"calls": 1, "seconds": 1.0}
    parts = dict.fromkeys(("start", "logging", "samples", "evaluation", "checkpoints"), once)
    found = run_costs.shares(parts | {"steps": {"calls": 9, "seconds": 0.9}}, config)
    # 1 start, 99 steps of 0.1 s, 2 logs, 3 samples (one before the first step), 1 evaluation and 1 checkpoint of 1 s.
    assert found == pytest.approx({"start": 1 / 17.9, "steps": 9.9 / 17.9, "logging": 2 / 17.9, "samples": 3 / 17.9,
                                   "evaluation": 1 / 17.9, "checkpoints": 1 / 17.9})  # fmt: skip


def test_a_mistake_is_reported_in_one_line(capsys):
    def fail():
        systems.configured("dcgan32", ["batch_sise=3"])

    with pytest.raises(SystemExit) as end:
        cli.run(fail)
    assert end.value.code == 2
    line = "error: --override batch_sise=3: the config has no field batch_sise; nearest: 'batch_size'\n"
    assert capsys.readouterr().err == line
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: 3)
    assert end.value.code == 3


TINY_RUN = ("data.image_size=(8, 8)", "generator.width=4", "discriminator.width=4", "batch_size=8", "sample_every=400",
            "log_every=2", "evaluation.metrics=('inception_score',)", "checkpoint_every=400", "steps=800")  # fmt: skip


def run_costs_of_a_tiny_run(monkeypatch, path):
    flags = ["--steps=8", "--samples=16", "--batches=2", f"--json={path}", "--override", *TINY_RUN]
    monkeypatch.setattr(sys, "argv", ["run_costs", *flags])
    levels = {name: logging.getLogger(name).level for name in ("gan", "absl")}
    try:
        run_costs.main()
    finally:  # it raises them, and other tests read what is logged
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    return json.loads(path.read_text())


@pytest.mark.slow
def test_the_costs_of_a_run_end_to_end(monkeypatch, tmp_path, capsys):
    launches = {"empty caches": {"seconds": 1.0, "peak_bytes": 2**20}}
    monkeypatch.setattr(run_costs, "launch", lambda arguments, folder: launches)
    record = run_costs_of_a_tiny_run(monkeypatch, tmp_path / "costs.json")
    # In 8 of 800 steps: logs every 2; samples before the first step and every 4; evaluations and saves every 4.
    calls = {part: row["calls"] for part, row in record["parts"].items()}
    assert calls == {"start": 1, "steps": 7, "logging": 4, "samples": 3, "evaluation": 2, "checkpoints": 2}
    assert all(row["seconds"] > 0 for row in record["parts"].values())
    assert sum(record["shares"].values()) == pytest.approx(1.0)
    assert list(record["shares"]) == list(record["parts"])
    assert record["samples_per_second"] > 0
    assert set(record["images_per_second"]) == {"resident", "decoded", "encoded"}
    assert "of a full run" in capsys.readouterr().out


@pytest.mark.slow  # four launches
def test_launches_are_faster_with_filled_caches(monkeypatch, tmp_path):
    monkeypatch.setattr(run_costs, "rate_of_data", lambda arguments, where: 1.0)
    record = run_costs_of_a_tiny_run(monkeypatch, tmp_path / "costs.json")
    assert list(record["launches"]) == ["empty caches", "data cached", "data and compiled functions cached"]
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 2**20 for row in record["launches"].values())


@pytest.mark.parametrize("name", suite.SUITE)
def test_the_benchmarks_of_the_suite_exist_and_take_their_flags(monkeypatch, name):
    module = importlib.import_module(f"experiments.benchmarks.{name}")
    for flags in suite.SUITE[name]:
        monkeypatch.setattr(sys, "argv", [name, *flags, "--json=x.json"])
        assert module.parse().json.name == "x.json"


def test_modules_of_experiments_do_not_import_each_other_in_a_circle():
    root = systems.ROOT
    imports = {}
    for path in (root / "experiments").rglob("*.py"):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        targets = {node.module for node in nodes} | {
            f"{node.module}.{one.name}" for node in nodes for one in node.names
        }
        imports[name] = targets - {name}
    packages = {name for name in imports if any(other.startswith(f"{name}.") for other in imports)}
    imports = {name: targets for name, targets in imports.items() if name not in packages}
    order = graphlib.TopologicalSorter({name: targets & imports.keys() for name, targets in imports.items()})
    assert len(list(order.static_order())) == len(imports)


@pytest.mark.slow  # a launch
def test_the_quality_after_a_time_is_that_of_a_run_with_these_overrides(monkeypatch, tmp_path, capsys):
    flags = ["--config=configs/dcgan.py:digits", "--ours_only", "--seconds=300", "--seeds=3", "--samples=20"]
    flags += [f"--json={tmp_path / 'quality.json'}", "--override", *TINY_RUN, "steps=2"]
    monkeypatch.setattr(sys, "argv", ["time_to_quality", *flags])
    time_to_quality.main()
    record = json.loads((tmp_path / "quality.json").read_text())
    (row,) = record["rows"]
    assert (row["side"], row["seed"], row["steps"]) == ("ours", 3, 2) and row["value"] > 0
    assert record["real_training_images"] > 0 and "steps=2" in record["override"]
    assert "times that of real training images" in capsys.readouterr().out
