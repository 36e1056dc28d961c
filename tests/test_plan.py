"""experiments.plan: estimates equal counts by hand, and the communication of the compiled step."""

import dataclasses
import re
import shlex

import jax
import meshes
import pytest

from experiments import plan
from experiments.benchmarks import systems
from experiments.benchmarks.systems import load
from experiments.plan.__main__ import main, parser
from experiments.plan.compile import compiled_text
from experiments.plan.hlo import exchanged_bytes, parse
from experiments.plan.machines import Machine
from experiments.plan.traffic import row
from experiments.plan.work import data_of, work_of
from gan.errors import UserError

TINY = ["data.image_size=(2, 2)", "latent.size=3", "generator.width=8", "discriminator.width=8", "batch_size=16",
        "checkpoint_every=10", "data.on_device=never"]  # fmt: skip
# Latents of 3 to 8 to 4 pixels: 24 + 8 + 32 + 4 parameters; pixels to 8 to a logit: 32 + 8 + 8 + 1.
GENERATOR, DISCRIMINATOR = 4 * 68, 4 * 49


def tiny(*overrides):
    config = load("configs/smooth_gan.py", [*TINY, *overrides])
    return config, data_of(config)


@pytest.fixture(scope="module")
def work():
    return work_of(*tiny())


def test_a_step_by_hand(work):
    # Products for an example. D's update: G forward, 24 + 32; D forward, 32 + 8, as many for the gradient of its
    # kernels and 8 for that of its hidden layer, twice. G's: G and D forward, D back to the pixels, 8 + 32, G's kernels
    # and its hidden layer, 56 + 32; its loss does not depend on real images.
    assert work.operations == {"float32": 2 * 16 * (56 + 2 * (40 + 40 + 8) + 56 + 40 + 40 + 56 + 32)}
    assert work.images == 16 and work.image_bytes == 4 and not work.is_resident
    assert work.gradients == GENERATOR + DISCRIMINATOR and work.statistics == 0


def test_steps_of_several_updates_with_batch_statistics_by_hand():
    small = ["data.image_size=(8, 8)", "generator.width=4", "discriminator.width=4", "discriminator_steps=3"]
    config = load("configs/dcgan.py:digits", small)
    work = work_of(config, data_of(config))
    # G at 8x8: 100 * 64 + 8 + 64 parameters, D 64 + 64. G's one normalization has 4 means and 4 variances: once in each
    # of D's updates, forward and back in its own.
    assert work.gradients == 4 * (6472 + 3 * 128)
    assert work.statistics == 4 * 8 * (3 + 2)
    assert work.images == 3 * 64 and work.is_resident


def test_a_row_by_hand(work):
    config, _ = tiny()
    machine = Machine({"float32": 1e6}, link_bytes=1000.0, network_bytes=100.0, hosts_of=2, memory_bytes=1e9, source="")
    found = row(config, work, 4, machine, share=0.5, disk=100.0, read=4.0)
    assert found.batch == 4
    assert found.compute == pytest.approx(2 * 16 * 456 / 1e6 / 4 / 0.5)
    # Two hosts of two devices: 2 * 3/4 of 468 bytes, at the 100 * 2 bytes a second that go from one to the other.
    assert found.exchanged == pytest.approx(702) and found.exchange == pytest.approx(3.51)
    assert found.reading == pytest.approx(8 / 4)  # each reads 8 of the 16 images
    # Parameters 468, twice that of moments and two counts, the EMA 272, step and images 8, the key 8.
    assert found.state_bytes == 468 + 2 * 468 + 8 + 272 + 16
    # Of 68 numbers 17, of 49 one that cannot be sharded and 12.
    assert found.sharded_state_bytes == 468 + 4 * 2 * (17 + 13) + 8 + 4 * 17 + 16
    assert found.saving == pytest.approx(1700 / 100 / 10)
    assert found.step == pytest.approx(found.compute + 3.51) and found.limit == "exchange"
    # On one host: the link's own rate, and all 16 images.
    alone = row(config, work, 4, dataclasses.replace(machine, hosts_of=4), share=0.5, disk=100.0, read=4.0)
    assert alone.exchange == pytest.approx(0.702)
    assert alone.step == alone.reading == pytest.approx(4.0) and alone.limit == "reading"
    with pytest.raises(UserError, match="config.batch_size=16 is not divisible by the 3 devices"):
        row(config, work, 3, machine, share=0.5, disk=100.0, read=4.0)


@pytest.mark.parametrize(
    "devices, overrides, split",
    [
        pytest.param(2, [], 0, marks=pytest.mark.slow),
        # All but D's one bias.
        (4, ["shard_state=True"], GENERATOR + DISCRIMINATOR - 4),
        pytest.param(8, [], 0, marks=pytest.mark.slow),
        # All but that one and G's last four.
        pytest.param(8, ["shard_state=True"], GENERATOR + DISCRIMINATOR - 20, marks=pytest.mark.slow),
    ],
)
def test_the_compiled_step_exchanges_the_planned_bytes(work, devices, overrides, split):
    found = exchanged_bytes(parse(compiled_text(*tiny(*overrides), meshes.first(devices))))
    # XLA's compiler for CPUs sums D's gradient over devices for real and for generated images separately; that for
    # GPUs adds them first. Besides gradients there are sums of the logged metrics, of four bytes each, and of the
    # squares of each array's update where it is split.
    planned = work.gradients + DISCRIMINATOR
    assert planned <= found.pop("all-reduce") <= planned + (160 if split else 64)
    assert found.pop("all-gather", 0) == split
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_under_pmap_each_gradient_is_exchanged_once(work, devices):
    found = exchanged_bytes(parse(compiled_text(*tiny("parallel=pmap"), meshes.first(devices))))
    assert work.gradients <= found.pop("all-reduce") <= work.gradients + 64
    # The logits of 16 real and 16 generated images, in each player's update, those of real ones not in G's; and back,
    # each device's share of the sum of their gradients.
    assert found.pop("all-gather") == 4 * 16 * 3
    assert found.pop("reduce-scatter") == 4 * 16 * 3 // devices
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_batch_statistics_and_kernels_in_loops_are_counted(devices):
    config = load("configs/dcgan.py:digits", ["data.image_size=(8, 8)", "generator.width=4", "discriminator.width=4"])
    data = data_of(config)
    work = work_of(config, data)
    found = exchanged_bytes(parse(compiled_text(config, data, meshes.first(devices))))
    planned = work.gradients + 4 * 128  # D's twice, see above
    # Forward, a normalization sums means and squares, [4] each, twice; backward, one number more than its parameters.
    statistics = 4 * (2 * 8 + 4)
    assert statistics <= work.statistics
    assert planned + statistics <= found.pop("all-reduce") <= planned + statistics + 64
    assert not found


def test_every_plan_in_the_documents_parses():
    commands = []
    for text in (plan.__doc__, (systems.ROOT / "docs/scaling.md").read_text()):
        commands += re.findall(r"^python -m experiments\.plan (.*)$", text, re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        flags = parser().parse_args(shlex.split(command))
        systems.load(flags.config, flags.override)


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--config=configs/biggan.py:imagenet128"], "--classes is missing"),
        (["--config=configs/smooth_gan.py", "--override", "batch=3"], "the config has no field batch"),
        (["--config=configs/smooth.py"], "is not a file; nearest: 'smooth_gan'"),
    ],
)
def test_a_mistake_is_one_line(flags, line, monkeypatch):
    monkeypatch.setattr("sys.argv", ["plan", *flags])
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # JAX is already running
    with pytest.raises(UserError, match=re.escape(line)):
        main()
