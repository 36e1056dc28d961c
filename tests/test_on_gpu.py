"""experiments.on_gpu: failing stages do not affect others, and each stage works at tiny sizes."""

import json
import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import cli
from experiments.on_gpu import __main__ as command
from experiments.on_gpu import driver, parity, parity_cases, r3gan, runs, speed, stacked_mnist, stage, tutorials
from experiments.on_gpu.driver import StageSpec
from gan.errors import UserError

HERE = Path(__file__).parent


def specs(*names, seconds=60.0):
    return {name: StageSpec("on_gpu_stages", seconds) for name in names}


@pytest.fixture
def run_all(tmp_path, monkeypatch):
    """Runs stages of tests/on_gpu_stages.py; how they ended, by name, and the folder."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setattr(driver, "gpus", lambda: [])  # on any machine

    def run(chosen, seconds=600.0):
        ended = driver.run_all(chosen, tmp_path, seconds=seconds, started=time.monotonic())
        return {entry.name: entry for entry in ended}, tmp_path

    return run


def record_of(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_failing_stages_do_not_stop_others_and_are_recorded(run_all):
    ended, folder = run_all(specs("raises", "runs_out_of_memory", "exits", "is_killed", "passes"))
    assert [entry.status for entry in ended.values()] == ["failed"] * 4 + ["passed"]
    failures = [entry.failure for entry in ended.values()]
    assert failures[0] == "ValueError: the third layer"
    assert failures[1].startswith("out of memory (RESOURCE_EXHAUSTED: Out of memory while trying")
    assert failures[2] == "its process ended with status 3 before the stage did"
    assert failures[3] == "it was killed by SIGKILL, perhaps because memory ran out"
    assert "ValueError: the third layer" in record_of(folder, "raises")["traceback"]
    assert record_of(folder, "exits")["traceback"].endswith("the driver is gone")
    for name in ended:
        found = record_of(folder, name)
        assert (found["status"], found["failure"]) == (ended[name].status, ended[name].failure)
        assert found["rows"] == [{"what": name}]  # written before the failure
    summary = json.loads((folder / "summary.json").read_text())
    assert [entry["name"] for entry in summary["stages"]] == list(ended) and summary["cores"] > 0
    assert summary["gpus"] == [] and summary["versions"]["jax"] == jax.__version__
    lines = driver.table(list(ended.values())).splitlines()
    assert lines[0].split() == ["stage", "status", "seconds"]
    assert lines[1].startswith("raises") and lines[-1].endswith("all is well")


@pytest.mark.slow
def test_a_budget_is_kept_by_dropping_the_last_stages(run_all, monkeypatch):
    monkeypatch.setattr(driver, "MIN_SECONDS", 6.0)
    start = time.monotonic()
    needs_more = {"raises": StageSpec("on_gpu_stages", 60.0, min_seconds=20.0)}
    ended, folder = run_all(needs_more | specs("takes_its_time", "passes"), seconds=10.0)
    assert time.monotonic() - start < 11.0
    assert [entry.status for entry in ended.values()] == ["dropped", "passed", "dropped"]
    assert ended["takes_its_time"].dropped == record_of(folder, "takes_its_time")["dropped"] == ["the rest"]
    assert "remained of 10" in ended["passes"].failure and not (folder / "passes.json").exists()


def test_a_stage_that_hangs_is_killed_with_its_child_processes(run_all, monkeypatch):
    monkeypatch.setattr(driver, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(driver, "MIN_SECONDS", 1.0)
    ended, folder = run_all(specs("hangs", "passes", seconds=4.0), seconds=8.0)
    assert [entry.status for entry in ended.values()] == ["failed", "passed"]
    found = record_of(folder, "hangs")
    assert found["failure"] == "it was killed at its limit of 4 s" and found["rows"] == [{"what": "hangs"}]
    with pytest.raises(ProcessLookupError):
        os.kill(found["facts"]["child"], signal.SIGKILL)


def test_mistakes_in_the_flags_are_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("GAN_FLAGS", raising=False)
    known = "expected: parity, speed, tutorials, stacked_mnist, r3gan, launch"
    for flags, message in (
        (["--stages=sped"], f"--stages: 'sped' is unknown; nearest: 'speed'; {known}"),
        (["--stages=,"], f"--stages: ',' is unknown; {known}"),
        (
            ["--systems=dcgan46"],
            "--systems: 'dcgan46' is unknown; nearest: 'dcgan64'; expected: dcgan64, dcgan32_r1, mlp_gan, r3gan, "
            "stylegan2, sngan, biggan, flag_gan, gat, wgan_gp, sagan, conv_gan, dcgan32, smooth_gan, vanilla_gan",
        ),
        (["--seconds=9"], "--seconds=9: a stage needs at least 10"),
        (["--seconds=nan"], "--seconds=nan: a stage needs at least 10"),
        ([f"--flags={tmp_path}/none"], f"--flags={tmp_path}/none is not a folder"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.run(lambda flags=flags: command.main([f"--out={tmp_path}", *flags]))
        assert end.value.code == 2 and capsys.readouterr().err == f"error: {message}\n"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written: (Not a directory|File exists)"):
        command.main([f"--out={tmp_path}/file", "--stages=parity"])
    given = command.parse([f"--out={tmp_path}", "--stages=r3gan,parity", f"--flags={tmp_path}"])
    assert given.stages == ["parity", "r3gan"] and given.flags == str(tmp_path)


@pytest.mark.parametrize("statuses, expected", [
    (["passed", "dropped"], 0), (["passed", "failed"], 1), (["dropped", "dropped"], 1),
])  # fmt: skip
def test_the_exit_status(statuses, expected, tmp_path, monkeypatch):
    ended = [driver.Ended(str(index), status, 1.0, "", [], []) for index, status in enumerate(statuses)]
    monkeypatch.setattr(driver, "run_all", lambda *_, **__: ended)
    assert command.main([f"--out={tmp_path}"]) == expected


def test_a_record_is_written_after_each_change(tmp_path):
    kept = stage.Stage("name", tmp_path, 60.0)
    kept.add(row=1)
    kept.replace_last(row=2)
    kept.drop("the rest")
    found = record_of(tmp_path, "name")
    assert (found["status"], found["rows"], found["dropped"]) == ("running", [{"row": 2}], ["the rest"])
    assert [path.name for path in tmp_path.iterdir()] == ["name.json"]  # no temporary file is left
    assert 0 < kept.left() < 60
    assert stage.Stage("late", tmp_path, 60.0, started=time.monotonic() - 100).left() < -39


def test_errors_by_hand():
    found, expected = [np.float32([1.0, 4.5]), np.float32([2.0])], [np.float64([1.0, 5.0]), np.float64([2.5])]
    assert parity.largest_error(found, expected) == pytest.approx(0.2)  # 0.5 / 5 and 0.5 / 2.5
    # |(0, 0.5, 0.5)| / |(1, 5, 2.5)| = sqrt(0.5 / 32.25)
    assert parity.norm_error(found, expected) == pytest.approx((0.5 / 32.25) ** 0.5)
    assert parity.norm_error([np.float32([3.0, 4.0])], [np.float64([0.0, 0.0])]) == 5.0
    mode = parity.MODES[0]
    assert parity.row_of("what", "value", mode, 1e-6, 1e-5)["passed"]
    assert not parity.row_of("what", "value", mode, 2e-5, 1e-5)["passed"]
    assert not parity.row_of("what", "value", mode, float("nan"), 1e-5)["passed"]


@pytest.mark.slow
def test_a_wrong_convolution_is_found(tmp_path, monkeypatch):
    case, (cpu, device, *_) = parity_cases.TINY_CASES[0], jax.devices("cpu")
    rows = parity.compare_case(case, device, cpu)
    assert len(rows) == 9 and all(row["passed"] for row in rows)
    # In bfloat16 the result is rounded by 2^-8 at most, and somewhere by more than a tenth of that.
    assert all(row["error"] > 2**-12 for row in rows if row["dtype"] == "bfloat16")
    right = parity_cases.Case.apply

    def wrong(self, image, kernel):
        scale = 1.0 if image.dtype == np.float64 else 1.01  # the reference is as it was
        return right(self, image, kernel) * np.asarray(scale, image.dtype)

    monkeypatch.setattr(parity_cases.Case, "apply", wrong)
    rows = parity.compare_case(case, device, cpu)
    assert not any(row["passed"] for row in rows if row["precision"] == "highest")


def test_a_comparison_that_fails_stops_no_other(tmp_path, monkeypatch):
    right = parity_cases.TINY_CASES[0]
    monkeypatch.setattr(parity_cases, "TINY_CASES", (right._replace(name="3 channels in 2 groups", groups=2), right))
    monkeypatch.setattr(parity_cases, "TINY_FAMILIES", {})
    kept = stage.Stage("parity", tmp_path, 600.0, tiny=True)
    with pytest.raises(stage.StageFailed, match="^3 channels in 2 groups: ValueError: [^;]*$"):
        parity.run(kept)
    found = record_of(tmp_path, "parity")
    assert sorted(row["passed"] for row in found["rows"]) == [False] + [True] * 9
    assert found["headline"] == ["9 of 10 comparisons within their tolerance"]


@pytest.mark.slow
def test_the_compared_quantities_of_a_step_are_its_gradients():
    family, (cpu, device, *_) = parity_cases.TINY_FAMILIES["dcgan with R1"], jax.devices("cpu")
    network = parity.Network(family, device, cpu)  # two devices: the reference is compiled as with a GPU
    rows = parity.compare_step("dcgan with R1", network, (parity.MODES[0], parity.MODES[2]))
    assert len(rows) == 8 and all(row["passed"] for row in rows)
    assert all(row["error"] < 1e-5 for row in rows if row["dtype"] == "float32")
    gradients = [row["error"] for row in rows if row["dtype"] == "bfloat16" and row["quantity"].startswith("grad")]
    assert len(gradients) == 2 and all(1e-4 < error < 0.2 for error in gradients)
    # The momentum after one step is the gradient, whose norm is a metric of the step.
    found = network.references()[1]["float32"]
    for player, quantity in (("discriminator", "gradients of D"), ("generator", "gradients of G")):
        norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in found[quantity]))
        assert norm == pytest.approx(float(found["metrics"][f"{player}_gradient_norm"]), rel=1e-4) and norm > 0


@pytest.mark.slow
def test_rows_of_the_speed_table(tmp_path, monkeypatch, hide_package):
    hide_package("torch")  # PyTorch's side is tested elsewhere
    monkeypatch.setattr(speed, "TINY_ORDER", (("conv_gan", 4), ("mlp_gan", 4), ("dcgan32", 3)))
    monkeypatch.setattr(speed, "DTYPES", ("bfloat16",))
    monkeypatch.setattr(speed, "TINY_OVERRIDES", ("generator.width=8", "discriminator.width=8", "microbatches=2"))
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    monkeypatch.setenv("XLA_FLAGS", os.environ["GAN_TEST_XLA_FLAGS"])  # one device
    kept = stage.Stage("speed", tmp_path, 600.0, tiny=True, systems=("mlp_gan", "dcgan32"))
    with pytest.raises(stage.StageFailed, match="dcgan32 batch 3 bfloat16: config.microbatches=2"):
        speed.run(kept)
    found = record_of(tmp_path, "speed")
    row, failed = found["rows"]
    assert row["images_per_second"] == pytest.approx(4 * 1000 / row["median_ms"]) and row["program"] == "ours"
    seconds = row["median_ms"] / 1000
    assert row["share_of_peak"] == pytest.approx(
        row["gflop"] * 1e9 / seconds / found["facts"]["peak_product"]["bfloat16"]
    )
    assert "failure" in failed and found["facts"]["torch"] == "not installed"
    assert (tmp_path / "speed.md").read_text().count("`mlp_gan` | 4 | bfloat16") == 1


class Answers:
    """A fake of our side, which runs out of memory on dcgan64."""

    def __init__(self):
        self.asked = []

    def ask(self, method, *arguments, timeout):
        self.asked.append((method, arguments[0]))
        if method == "prepare" and arguments[0] == "dcgan64":
            raise RuntimeError("Traceback ...\nXlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory")
        prepared = speed.processes.Prepared({"ours": 0.5}, {}, (2, 3), 64)
        return {"operations": 10**9, "prepare": prepared, "time_steps": 0.5}[method]


def test_a_failing_row_does_not_affect_others(tmp_path):
    table = speed.Table(stage.Stage("speed", tmp_path, 600.0))
    table._ours, table._peak = Answers(), {"float32": 1e10, "bfloat16": 4e10}
    for name, dtype in (("dcgan64", "float32"), ("sngan", "float32"), ("sngan", "bfloat16")):
        table.time_row(speed.Row(name, 64, dtype), "ours")
    assert table._ours.asked.count(("operations", "sngan")) == 1  # the same for every dtype
    failed, *found = record_of(tmp_path, "speed")["rows"]
    assert "RESOURCE_EXHAUSTED" in failed["failure"]
    assert [line.split(":")[0] for line in table.failed] == ["dcgan64 batch 64 float32"]
    # 64 images and 1e9 operations in half a second, at peaks of 1e10 and 4e10 operations per second.
    assert [(row["system"], row["images_per_second"], row["share_of_peak"]) for row in found] == [
        ("sngan", 128.0, 0.2), ("sngan", 128.0, 0.05),
    ]  # fmt: skip


def test_the_speed_table_compares_to_the_fastest_pytorch_program():
    ours = {"system": "dcgan64", "batch": 64, "dtype": "float32", "program": "ours", "median_ms": 2.0,
            "images_per_second": 32000.0, "share_of_peak": 0.25}  # fmt: skip
    others = [ours | {"program": "fused", "median_ms": 5.0}, ours | {"program": "fused+compile", "median_ms": 3.0},
              ours | {"program": "fused", "dtype": "bfloat16", "median_ms": 1.0},
              ours | {"program": "eager", "median_ms": 0.0, "failure": "unsupported"}]  # fmt: skip
    others[-1].pop("median_ms")
    assert speed.headlines([ours, *others]) == [
        "dcgan64 batch 64 float32: 2.00 ms, 25% of the matrix product; PyTorch 3.00 (fused+compile): 1.50 times"
    ]
    line = "| `dcgan64` | 64 | float32 | 2.00 | 32,000 | 25% | 3.00 | fused+compile | 1.50 |"
    assert speed.markdown([ours, *others]).splitlines()[2:] == [line]
    assert {name for name, _ in speed.ORDER} == set(speed.systems.SYSTEMS)  # every system, with both batches
    assert len(set(speed.ORDER)) == len(speed.ORDER) == 2 * len(speed.systems.SYSTEMS)


def test_compiled_pytorch_variants_come_after_all_others(tmp_path):
    kept = stage.Stage("speed", tmp_path, 600.0)
    kept.note(our_platform="gpu")
    table = speed.Table(kept)
    table.has_torch = True
    rows = [speed.Row("dcgan64", 64, "float32"), speed.Row("mlp_gan", 64, "float32")]
    names = [what for what, _, _ in speed.plan(table, rows)]
    assert names[:3] == ["dcgan64 batch 64 float32", "dcgan64 batch 64 float32 fused",
                         "dcgan64 batch 64 float32 fused+channels_last"]  # fmt: skip
    is_slow = ["compile" in name or "reduce_overhead" in name for name in names]
    assert is_slow == sorted(is_slow) and sum(is_slow) == 6
    assert sum("reduce_overhead" in name for name in names) == 3  # the memory layout has no effect on MLPs


def test_the_configs_of_the_runs(tmp_path):
    overrides, data = tutorials.settings("flag_gan", tiny=False, flags="")
    assert overrides["data.channels"] == 3 and overrides["data.name"] == "digits" and "64x64" in data
    assert overrides["steps"] == 16_000 and overrides["sample_every"] == 2000 and overrides["log_every"] == 400
    overrides, data = tutorials.settings("flag_gan", tiny=False, flags="/images/flags")
    assert overrides["data.dir"] == "/images/flags" and "data.channels" not in overrides
    assert tutorials.settings("vanilla_gan", tiny=False, flags="")[0]["steps"] == 120_000
    config, microbatches = r3gan.configured(tiny=False)
    assert config.batch_size == 512 and config.data.name == "stacked_mnist" and microbatches in r3gan.MICROBATCHES


def test_a_run_that_fails_or_is_stopped_is_reported(tmp_path):
    ended = runs.launch(["--config=configs/none.py"], seconds=60.0, log=tmp_path / "log")
    assert ended.status == 2 and ended.failure.startswith(
        "exit status 2: error: --config=configs/none.py is not a file"
    )
    ended = runs.launch(["--config=configs/toy.py"], seconds=0.3, log=tmp_path / "log")
    assert ended.is_stopped and not ended.failure
    assert runs.progress(tmp_path) == {"steps": 0} and runs.copy_images(tmp_path, tmp_path, "name") == {}


def test_progress_is_the_median_of_the_lines_after_the_first(tmp_path):
    losses = {"discriminator_loss": 1.0, "generator_loss": 2.0}
    lines = [
        {"step": 10 * number, "seconds": 8.0 + number, "seconds_per_step": value, "images_per_second": 1 / value}
        | losses
        for number, value in enumerate([5.0, 0.1, 0.2, 0.9], start=1)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = runs.progress(tmp_path)
    assert found["steps"] == 40 and found["ms_per_step"] == pytest.approx(200.0)
    assert found["images_per_second"] == pytest.approx(5.0) and found["seconds_to_first_log"] == 9.0
    (tmp_path / "checkpoints" / "43").mkdir(parents=True)  # stopped between two log lines
    assert runs.progress(tmp_path)["steps"] == 43


@pytest.mark.slow
@pytest.mark.parametrize("name, run_names", [
    ("r3gan", ["r3gan"]),
    ("launch", []),
    ("stacked_mnist", ["stacked_mnist"]),
    ("tutorials", [f"tutorials_{name}" for name in tutorials.TUTORIALS]),
])  # fmt: skip
def test_a_stage_of_runs_end_to_end(name, run_names, tmp_path, monkeypatch):
    monkeypatch.delenv("GAN_FLAGS", raising=False)
    monkeypatch.setenv("XLA_FLAGS", os.environ["GAN_TEST_XLA_FLAGS"])
    assert command.main([f"--out={tmp_path}", f"--stages={name}", "--tiny", "--seconds=600"]) == 0
    found = record_of(tmp_path, name)
    assert found["status"] == "passed" and found["headline"] and not found["dropped"]
    for run_name in run_names:
        last = tmp_path / "runs" / run_name / "samples" / "00000008.png"
        assert (tmp_path / f"{run_name}_samples.png").read_bytes() == last.read_bytes()
        Image.open(tmp_path / f"{run_name}_losses.png").close()
    if name == "stacked_mnist":
        evaluated = found["rows"][-1]
        assert evaluated["last"]["modes"] >= 1 and evaluated["last"]["reverse_kl"] > 0
        assert found["facts"]["published"] == stacked_mnist.PUBLISHED
    if name == "r3gan":
        assert found["rows"][0]["steps"] == 8 and found["rows"][0]["images_per_second"] > 0
