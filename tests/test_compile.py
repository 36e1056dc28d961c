"""experiments.plan --compile: steps compiled for accelerators that are not present.

The command compiles each step in a process of its own: a plugin reads its environment once, and the XLA flags that make
these tests compile faster would affect it, too.
"""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from collections import Counter

import jax
import meshes
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from experiments.benchmarks import systems
from experiments.benchmarks.systems import load
from experiments.plan import compile as ahead
from experiments.plan import targets
from experiments.plan.__main__ import main
from experiments.plan.compile import Compiled, _argument_bytes, _rejected, format_compiled, lower_step, record
from experiments.plan.convolutions import Convolution
from experiments.plan.work import data_of, program
from gan.errors import UserError
from gan.parallel import sharding

GPU, TPU = "h100", "v5e:2x2"
BFLOAT16 = "compute_dtype=bfloat16"
SMALL = ["data.image_size=(8, 8)", "generator.width=8", "discriminator.width=8"]
GROUPED = ["data.image_size=(8, 8)", "generator.widths=(32, 16)", "discriminator.widths=(32, 16)",
           "generator.bfloat16_stages=2", "discriminator.bfloat16_stages=2"]  # fmt: skip
SHIFTED = [
    "data.image_size=(8, 8)",
    "generator.widths=(8, 8)",
    "discriminator.widths=(8, 8)",
    "discriminator.halvings=1",
]
STYLED = ["data.image_size=(8, 8)", "generator.widths=(16, 8)", "discriminator.widths=(16, 8)", "batch_size=8"]
"""Kernels that are computed from others by shifts, reversals and conversions."""
FOLDER = {"channels": 3, "classes": 0, "examples": 5000}
"""The facts of a folder of images, which does not exist."""
CONFIGS = ["biggan", "conv_gan", "dcgan", "fast_mnist", "flag_gan", "r3gan", "sagan", "sngan", "stacked_mnist",
           "stylegan2", "wgan_gp"]  # fmt: skip
"""The configs with convolutions."""


def data_for(config):
    return data_of(config, **(FOLDER if config.data.name == "folder" else {}))


def compiled(folder, config, target, *overrides):
    """The JSON record of a config's compiled step."""
    flags = [f"--config={config}", f"--compile={target}", f"--json={folder / 'plan.json'}", "--devices=1"]
    if load(config).data.name == "folder":
        flags += [f"--{name}={value}" for name, value in FOLDER.items()]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    if target == TPU:  # the calls do not depend on libtpu's search for tiles, 2 to 4 s of CPU each
        environment["JAX_EXEC_TIME_OPTIMIZATION_EFFORT"] = "-1.0"
    command = [sys.executable, "-m", "experiments.plan", *flags, "--override", *overrides]
    subprocess.run(command, cwd=systems.ROOT, env=environment, check=True, capture_output=True)
    return json.loads((folder / "plan.json").read_text())


def asked_for(config, *overrides):
    """The number of convolutions of each dtype in a config's step before compilation."""

    def inside(jaxpr):
        total = Counter()
        for equation in jaxpr.eqns:
            if equation.primitive.name.startswith("conv") and not equation.primitive.name.startswith("convert"):
                total[str(equation.invars[0].aval.dtype)] += 1
            for value in jax.tree.leaves(equation.params, is_leaf=lambda leaf: isinstance(leaf, ClosedJaxpr | Jaxpr)):
                if isinstance(value, ClosedJaxpr | Jaxpr):
                    total += inside(getattr(value, "jaxpr", value))
        return total

    config = load(config, overrides)
    step, given = program(config, data_for(config))
    return inside(jax.make_jaxpr(functools.partial(step, axis_name=None))(*given).jaxpr)


def check(found, asked):
    """No image is dilated with zeros, no convolution is left to XLA, and none is converted to float32."""
    calls = found["convolutions"]
    assert calls and not [call for call in calls if call["kind"] in ("dilated_forward", "unfused")]
    assert sum(call["count"] for call in calls if call["dtype"] == "float32") <= asked["float32"]


@pytest.mark.needs_cuda_plugin
@pytest.mark.parametrize(
    "config, overrides",
    [
        ("configs/dcgan.py:digits", SMALL),
        ("configs/r3gan.py", GROUPED),
        ("configs/sngan.py", SHIFTED),
        ("configs/stylegan2.py", STYLED),
    ],
)
def test_a_gpu_program_has_the_convolutions_of_the_step(config, overrides, tmp_path):
    check(compiled(tmp_path, config, GPU, BFLOAT16, *overrides), asked_for(config, BFLOAT16, *overrides))


@pytest.mark.needs_tpu_plugin
def test_a_tpu_program_has_the_convolutions_of_the_step(tmp_path):
    found = compiled(tmp_path, "configs/dcgan.py:digits", TPU, BFLOAT16, *SMALL)
    check(found, asked_for("configs/dcgan.py:digits", BFLOAT16, *SMALL))
    # On 8x8 G has one transposed convolution and D one convolution. D's update: G forward, D forward on both batches,
    # and two weight gradients. G's: G and D forward, D back to the images, and G's weight gradient and the gradient of
    # its input, which is a convolution.
    assert {call["kind"]: call["count"] for call in found["convolutions"]} == {
        "forward": 4, "backward_input": 3, "backward_filter": 3
    }  # fmt: skip
    assert found["devices"] == 4 and found["collectives"]["all-reduce"] > 0 and found["fits"]


@pytest.mark.needs_tpu_plugin
def test_tpus_do_not_gather_the_batch_of_a_grouped_convolution(tmp_path):
    found = compiled(tmp_path, "configs/r3gan.py", TPU, BFLOAT16, *GROUPED)
    check(found, asked_for("configs/r3gan.py", BFLOAT16, *GROUPED))
    assert set(found["collectives"]) == {"all-reduce"}


@pytest.mark.slow
@pytest.mark.needs_cuda_plugin
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_compiles_for_a_gpu(name, dtype, tmp_path):
    config, overrides = f"configs/{name}.py", [f"compute_dtype={dtype}"]
    found = compiled(tmp_path, config, GPU, *overrides)
    check(found, asked_for(config, *overrides))
    assert found["fits"]


@pytest.mark.slow
@pytest.mark.needs_tpu_plugin
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_compiles_for_tpus(name, tmp_path):
    config = f"configs/{name}.py"
    found = compiled(tmp_path, config, TPU, BFLOAT16)
    check(found, asked_for(config, BFLOAT16))
    assert found["fits"]


@pytest.mark.slow
@pytest.mark.needs_cuda_plugin
@pytest.mark.parametrize(
    "preset, overrides, gib",
    [
        # A single step needed 2.35 and 8.96 GiB at batches of 16 and 64; without grouped calls 5.67 and 22.74.
        ("cifar10", ["batch_size=16", "microbatches=1"], 3),
        ("stacked_mnist", ["batch_size=64", "microbatches=1"], 11),
        # The presets: batches of 512 on one GPU, with the microbatches that "auto" chooses.
        ("cifar10", [], 56),
        ("stacked_mnist", [], 56),
    ],
)
def test_r3gan_fits_into_a_gpu(preset, overrides, gib, tmp_path):
    found = compiled(tmp_path, f"configs/r3gan.py:{preset}", GPU, *overrides)
    assert found["temporary_bytes"] < gib * 2**30 and found["fits"]


@pytest.mark.slow
@pytest.mark.needs_cuda_plugin
def test_eight_gpus_do_not_gather_the_batch(tmp_path):
    # With grouped convolutions, for which XLA's partitioner may gather the batch.
    found = compiled(tmp_path, "configs/r3gan.py", f"{GPU}x8")
    assert found["devices"] == 8 and set(found["collectives"]) == {"all-reduce"}


@pytest.mark.needs_cuda_plugin
@pytest.mark.parametrize(
    "flags, line",
    [
        (["--override", "batch_size=60", "--compile=h100x8"], "batch_size=60 is not divisible by the 8 devices"),
        (["--override", "parallel=pmap", "--compile=h100"], "--compile is for config.parallel='jit', not 'pmap'"),
        (["--override", "batch=3", "--compile=h100"], "the config has no field batch"),
    ],
)
def test_a_step_that_cannot_be_compiled_is_reported_in_one_line(flags, line):
    command = [sys.executable, "-m", "experiments.plan", "--config=configs/dcgan.py:digits", *flags]
    ended = subprocess.run(command, cwd=systems.ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert line in ended.stderr and ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


@pytest.mark.needs_tpu_plugin
def test_a_slice_that_libtpu_does_not_know_is_reported_in_one_line():
    command = [sys.executable, "-m", "experiments.plan", "--config=configs/dcgan.py:digits", "--compile=v9:2x2"]
    ended = subprocess.run(command, cwd=systems.ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "--compile=v9:2x2 is unknown: expected h100" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["h200", "a100", "h100x0", "h100x9", "h100x", "x8", ""])
def test_an_unknown_target_is_reported_with_the_known_ones(name):
    with pytest.raises(UserError, match=r"is unknown: expected h100, h100x2 to h100x8 .*v5e:2x2"):
        targets.target_of(name)


@pytest.mark.parametrize("name, extra", [("h100x4", "cuda"), ("v5e:2x2", "tpu")])
def test_a_missing_plugin_is_reported_with_the_command_that_installs_it(name, extra, monkeypatch):
    monkeypatch.setattr(targets, "plugin_is_installed", lambda platform: False)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # JAX is already running
    monkeypatch.setattr("sys.argv", ["plan", "--config=configs/dcgan.py:digits", f"--compile={name}"])
    with pytest.raises(UserError, match=re.escape(f"pip install '.[{extra}]'")):
        main()


@pytest.mark.parametrize(
    "name, platform, machine, gpus, memory",
    [
        ("h100", "cuda", "h100", 1, 80e9),
        ("h100x8", "cuda", "h100", 8, 80e9),
        ("v5e:4x4", "tpu", "tpu_v5e", 0, 16e9),
        ("v4:2x2x1", "tpu", "tpu_v4", 0, 2**35),
        ("v6e:2x2", "tpu", "", 0, None),
    ],
)
def test_targets_by_name(name, platform, machine, gpus, memory, monkeypatch):
    monkeypatch.setattr(targets, "plugin_is_installed", lambda platform: True)
    found = targets.target_of(name)
    assert found == targets.Target(name, platform, machine, gpus)
    assert found.memory_bytes == memory


@pytest.mark.parametrize("devices, overrides", [(1, []), (4, ["shard_state=True"])])
def test_a_step_is_lowered_as_a_run_compiles_it(devices, overrides):
    config, mesh = load("configs/dcgan.py:digits", [*SMALL, *overrides]), meshes.first(devices)
    lowered = lower_step(config, data_of(config), mesh)
    memory = lowered.compile().memory_analysis()
    # Besides the state, the images and their labels: 64 rows, a count, a seed and the hyperparameters, 4 bytes each.
    given = _argument_bytes(lowered, config, mesh)
    assert given < memory.argument_size_in_bytes < given + 64 * 4 / devices + 4 * 40
    # The state is donated, so only the metrics are new.
    images = 64 // devices * (8 * 8 + 4)
    assert memory.alias_size_in_bytes == given - images
    assert 0 < memory.output_size_in_bytes - memory.alias_size_in_bytes < 1000


FOUND = Compiled(
    device="NVIDIA H100 80GB HBM3", devices=8, lower_seconds=1.0, compile_seconds=12.25, argument_bytes=2**30,
    temporary_bytes=3 * 2**30, output_bytes=2**29, limit_bytes=5.0 * 2**30,
    convolutions=Counter({Convolution("forward", "bfloat16", 1): 19, Convolution("backward_filter", "bfloat16", 8): 9}),
    collectives=Counter({"all-reduce": 23}), text="HloModule",
)  # fmt: skip


def test_auto_chooses_the_microbatches_of_a_run(monkeypatch):
    """A step with m microbatches needs 4 + 112 / m GiB; JAX allocates 3/4 of 74.5 GiB, 9/10 of which are for a step."""

    def compiled(config, data, target, mesh):
        number = config.microbatches
        return dataclasses.replace(
            FOUND, argument_bytes=3 * 2**30, output_bytes=2**30, temporary_bytes=112 * 2**30 // number,
            microbatches=number,
        )  # fmt: skip

    monkeypatch.setattr(ahead, "_compile", compiled)
    monkeypatch.setattr(sharding, "device_mesh", lambda devices: meshes.first(len(devices)))
    config = load("configs/r3gan.py", ["microbatches=auto"])
    target, devices = targets.Target(GPU, "cuda", "h100", 1), jax.devices()[:1]
    found = ahead.compile_ahead(config, data_of(config), target, devices)
    assert found.microbatches == 4  # 56 + 4 GiB exceed 50.3 GiB, 28 + 4 do not
    assert "microbatches=4) in" in format_compiled(GPU, found) and record(found)["microbatches"] == 4
    with pytest.raises(UserError, match="the memory of v6e:2x2 is not in the table; expected: a number"):
        ahead.compile_ahead(config, data_of(config), targets.Target("v6e:2x2", "tpu", "", 0), devices)


def test_the_record_and_the_printed_lines_of_a_step():
    written = json.loads(json.dumps(record(FOUND)))
    assert written["convolutions"] == [
        {"kind": "backward_filter", "dtype": "bfloat16", "groups": 8, "count": 9},
        {"kind": "forward", "dtype": "bfloat16", "groups": 1, "count": 19},
    ]
    assert written["collectives"] == {"all-reduce": 23} and written["fits"] is True and "text" not in written
    assert written["temporary_bytes"] == 3 * 2**30 and written["argument_bytes"] == 2**30
    assert written["compile_seconds"] == 12.25
    said = format_compiled("h100x8", FOUND)
    assert "1.00 arguments, 3.00 temporary, 0.50 outputs; together 4.50 of 5.00: fits" in said
    assert "23 all-reduce" in said


def test_a_step_fits_up_to_the_last_byte():
    assert dataclasses.replace(FOUND, limit_bytes=4.5 * 2**30).fits
    assert not dataclasses.replace(FOUND, limit_bytes=4.5 * 2**30 - 1).fits
    unknown = dataclasses.replace(FOUND, limit_bytes=None)
    assert unknown.fits and "not in the table" in format_compiled("v6e:2x2", unknown)


@pytest.mark.parametrize(
    "said, needed",
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (56.00G) exceeds "
         "available HBM (15.75G).", 56 * 2**30),
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 17.50G of "
         "15.75G hbm. Exceeded hbm capacity by 1.75G.", 17.5 * 2**30),
    ],
)  # fmt: skip
def test_messages_of_libtpu_for_a_step_that_does_not_fit(said, needed):
    rejected = dataclasses.replace(FOUND, **_rejected(RuntimeError(said), 2**30))
    assert rejected.total_bytes == needed and rejected.argument_bytes == 2**30
    assert not rejected.fits and "does not fit" in format_compiled("v5e:2x2", rejected)
    assert record(rejected)["convolutions"] == []


def test_any_other_failure_of_a_compiler_is_raised():
    with pytest.raises(RuntimeError, match="vmem"):
        _rejected(
            RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 130M of 128M vmem."), 0
        )
