"""experiments.benchmarks: operations are counted correctly, and sides are timed and reported as they should."""

import ast
import graphlib
import importlib
import json
import logging
import sys
import time

import jax
import jax.numpy as jnp
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
from gan.networks import dcgan
from gan.networks.conv import primitives


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
