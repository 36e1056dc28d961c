"""gan.train.loop: a run and what it leaves behind; stopped and resumed in every way, it ends in the same bits."""

import functools
import itertools
import json
import random
import shutil
import signal
import time
from types import SimpleNamespace

import jax
import meshes
import numpy as np
import pytest
import runs
from PIL import Image

from gan import build, data
from gan.errors import Diverged, UserError
from gan.evaluation.warnings import Metrics
from gan.inference import model
from gan.parallel import compilation, sharding
from gan.train import loop, recorder, sources


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 12 steps that nothing disturbed, on this process's devices."""
    folder = tmp_path_factory.mktemp("whole")
    assert runs.train(folder, sample_every=6) == 0
    return folder


def test_due():
    assert [step for step in range(1, 11) if recorder.due(step, 4, 10)] == [4, 8, 10]
    assert not any(recorder.due(step, 0, 10) for step in range(1, 11))


def test_a_run_leaves_its_contract_behind(whole):
    record = json.loads((whole / "config.json").read_text())
    assert record["config"]["batch_size"] == 8
    assert record["dataset"]["examples"] == 1797
    # 8x8, depth 1, width 4. G: 100 * 4*4*4 + BN 2*4 + 4*4*4*1; D: 4*4*1*4 + 4*4*4.
    assert record["parameters"] == {"generator": 6400 + 8 + 64, "discriminator": 64 + 64}
    assert {"jax", "flax", "orbax-checkpoint", "python"} <= record["versions"].keys()
    lines = runs.logged(whole)
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert [line["images"] for line in lines] == [32, 64, 96]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    for line in lines:
        assert {"discriminator_loss", "generator_loss", "discriminator_real", "discriminator_fake",
                "discriminator_gradient_norm", "generator_gradient_norm", "images_per_second",
                "share_waiting_for_data"} <= line.keys()  # fmt: skip
        assert 0 < line["discriminator_real"] < 1
    assert sorted(path.name for path in (whole / "samples").iterdir()) == [
        "00000000.png", "00000006.png", "00000012.png"]  # fmt: skip
    assert sorted(int(path.name) for path in (whole / "checkpoints").iterdir()) == [4, 8, 12]
    assert any((whole / "tensorboard").iterdir())
    assert Image.open(whole / "losses.png").size[0] > 400
    with Image.open(whole / "training.gif") as animation:
        assert animation.n_frames == 3


def test_the_same_command_again_says_that_the_run_is_complete(whole, caplog):
    before = (whole / "metrics.jsonl").read_bytes()
    with caplog.at_level("INFO", "gan"):
        assert runs.train(whole, sample_every=6) == 0
    assert "the run is complete: step 12 of 12" in caplog.text
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_n_and_n_steps_are_2n_steps(whole, tmp_path):
    runs.train(tmp_path, steps=5)
    runs.train(tmp_path, steps=12)
    assert runs.final_digests(tmp_path) == runs.final_digests(whole)
    assert [line["step"] for line in runs.logged(tmp_path)] == [4, 5, 8, 12]


def test_another_seed_is_another_run(whole, tmp_path):
    runs.train(tmp_path, seed=1)
    assert runs.final_digests(tmp_path) != runs.final_digests(whole)


@pytest.mark.parametrize("decoded_bytes", [2**32, 0])
def test_streamed_and_resident_batches_give_the_same_run(whole, tmp_path, decoded_bytes, monkeypatch):
    monkeypatch.setattr(sources, "DECODED_BYTES", decoded_bytes)
    runs.train(tmp_path, data__on_device="never")
    assert runs.final_digests(tmp_path) == runs.final_digests(whole)
    assert all(0 <= line["share_waiting_for_data"] < 1 for line in runs.logged(tmp_path))


@pytest.mark.slow
def test_mirrored_images_are_the_same_in_a_run_that_is_resumed_and_streamed(whole, tmp_path):
    mirrored = {"data__mirror": True}
    assert runs.train(tmp_path / "run", **mirrored) == 0
    assert runs.train(tmp_path / "parts", steps=4, **mirrored) == 0
    with pytest.raises(UserError, match="config.data.mirror: True -> False"):
        runs.train(tmp_path / "parts")
    assert runs.train(tmp_path / "parts", **mirrored) == 0
    assert runs.final_digests(tmp_path / "parts") == runs.final_digests(tmp_path / "run")
    # The examples are bitwise those (tests/test_batches.py). Flipped on the device, they may change how XLA rounds.
    assert runs.train(tmp_path / "streamed", data__on_device="never", **mirrored) == 0
    losses = [
        runs.logged(folder)[-1]["discriminator_loss"] for folder in (tmp_path / "run", tmp_path / "streamed", whole)
    ]
    assert abs(losses[1] - losses[0]) < 1e-4 < abs(losses[2] - losses[0])


def test_a_run_older_than_a_field_goes_on_as_it_was_trained(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    del record["config"]["data"]["mirror"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    assert not model.recorded(tmp_path / "run")[0].data.mirror
    assert runs.train(tmp_path / "run", steps=16) == 0
    with pytest.raises(UserError, match="config.data.mirror: False -> True"):
        runs.train(tmp_path / "run", steps=20, data__mirror=True)


def test_how_turns_are_grouped_changes_no_bit(whole, tmp_path, monkeypatch):
    counts = []
    compile_steps = compilation.compile_steps

    def counting(*arguments, **settings):
        turns = compile_steps(*arguments, **settings)

        def counted(state, data, count):
            counts.append(count)
            return turns(state, data, count)

        return counted

    monkeypatch.setattr(compilation, "compile_steps", counting)
    monkeypatch.setattr(recorder, "DISPATCH_SECONDS", 1e9)  # as many turns as there are before something is due
    runs.train(tmp_path, sample_every=6)
    # Logged every 4, drawn every 6, 12 in all: one by one until the speed is known, then 4 to 6, 6 to 8, 8 to 12.
    assert counts == [1, 1, 1, 1, 2, 2, 4]
    assert runs.final_digests(tmp_path) == runs.final_digests(whole)
    for one, other in zip(runs.logged(tmp_path), runs.logged(whole), strict=True):
        assert one["discriminator_loss"] == other["discriminator_loss"]


def test_another_seed_rate_or_weight_is_the_same_program():
    def lowered(**overrides):
        config = runs.config(**{"discriminator.batch_norm": False, "penalties.r1": 1.0} | overrides)
        mesh = sharding.device_mesh()
        dataset = data.open_dataset(config.data)
        setup = build.setup(config, image_shape=dataset.image_shape, num_classes=10)
        source = sources.Resident(dataset, setup.options, mesh)
        step = functools.partial(
            loop.run_step, game=setup.game, schedules=setup.schedules, batch_of=source.batch_of, axis_name=None
        )
        given = (setup.shapes, source.take()[0], np.arange(config.batch_size), setup.base_hyperparams)
        return jax.jit(step).lower(*given).as_text()

    before = lowered()
    others = {"seed": 7, "generator.learning_rate": 1e-3, "discriminator.beta1": 0.0, "penalties.r1": 5.0}
    assert lowered(**others) == before
    assert lowered(**{"schedules.generator.learning_rate": "linear(0, 1000)"}) != before


@pytest.mark.slow  # tests/test_steps.py plays turns under pmap
def test_pmap_gives_the_same_run_to_rounding(tmp_path):
    runs.train(tmp_path / "jit", log_every=1, steps=4)
    runs.train(tmp_path / "pmap", log_every=1, steps=4, parallel="pmap")
    for a, b in zip(runs.logged(tmp_path / "jit"), runs.logged(tmp_path / "pmap"), strict=True):
        for name in ("discriminator_loss", "generator_loss", "discriminator_real", "generator_gradient_norm"):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-3, err_msg=name)


@pytest.mark.slow
def test_a_run_begun_on_four_devices_goes_on_with_eight_in_parts_and_with_one(whole, tmp_path, caplog):
    runs.begin(tmp_path)
    with meshes.on(8):
        runs.train(tmp_path, steps=8, sample_every=8, shard_state=True)
    with meshes.on(1):
        runs.train(tmp_path, steps=12)
    assert "is damaged" not in caplog.text
    assert runs.final_digests(tmp_path)[0] == 12
    # Equal but for the order of sums: a step of Adam follows a gradient's sign, and magnifies what is near zero.
    averages = [model.load(folder).ema for folder in (whole, tmp_path)]
    for leaf, other in zip(*map(jax.tree.leaves, averages), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=0, atol=2e-4)
    for line, other in zip(runs.logged(whole), runs.logged(tmp_path), strict=True):
        assert line["images"] == other["images"]
        np.testing.assert_allclose(line["generator_loss"], other["generator_loss"], rtol=2e-3)


def test_another_game_in_the_same_folder_is_refused(whole):
    before = (whole / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"config\.discriminator\.width: 4 -> 8"):
        runs.train(whole, discriminator__width=8, steps=20)
    with pytest.raises(UserError, match=r"config\.loss: 'non_saturating' -> 'minimax'"):
        runs.train(whole, loss="minimax", steps=20)
    assert (whole / "config.json").read_bytes() == before


def test_a_changed_number_is_told_obeyed_and_recorded(tmp_path, caplog):
    runs.begin(tmp_path)
    runs.train(tmp_path, steps=8, generator__learning_rate=0.0)
    assert "config.generator.learning_rate: 0.0002 -> 0.0" in caplog.text
    changes = json.loads((tmp_path / "config.json").read_text())["changes"]
    assert changes == [{"step": 4, "field": "generator.learning_rate", "from": 0.0002, "to": 0.0}]
    crcs = {step: runs.json.loads((tmp_path / f"checkpoints/{step}/digests/metadata").read_text()) for step in (4, 8)}
    kernel = "['Dense_0']['kernel']"
    same = [crcs[4]["state"][f".{player}.params{kernel}"] == crcs[8]["state"][f".{player}.params{kernel}"]
            for player in ("generator", "discriminator")]  # fmt: skip
    assert same == [True, False]


def test_nan_ends_the_run_and_leaves_the_last_good_checkpoint(tmp_path):
    runs.begin(tmp_path)
    good = runs.final_digests(tmp_path)
    with pytest.raises(Diverged, match=r"step [5-7]: \w+ is (nan|inf)"):
        runs.train(tmp_path, steps=40, discriminator__learning_rate=1e38)
    assert runs.final_digests(tmp_path) == good


def test_a_divergence_says_which_checkpoint_there_is(tmp_path):
    with pytest.raises(Diverged, match="There is no checkpoint yet$"):
        runs.train(tmp_path / "first", discriminator__learning_rate=1e38, log_every=1)
    runs.begin(tmp_path / "later")
    with pytest.raises(Diverged, match="The last checkpoint, of step 4, is intact$"):
        runs.train(tmp_path / "later", discriminator__learning_rate=1e38)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_not_saved(value):
    def state(**found):
        players = {name: SimpleNamespace(params={"w": np.float32([1, found.get(name, 0)])}) for name in PLAYERS}
        return SimpleNamespace(**players)

    saved = []
    manager = SimpleNamespace(all_steps=list, latest_step=lambda: None, save=lambda step, args: saved.append(step))
    one = recorder.Recorder.__new__(recorder.Recorder)
    one._manager, one._queue = manager, recorder.DispatchQueue()
    with pytest.raises(Diverged, match=f"step 3: discriminator_parameter is {value}. There is no checkpoint yet"):
        one.save(3, state(discriminator=value))
    assert not saved


PLAYERS = ("generator", "discriminator")


def evaluator_that_gives(scores, monkeypatch):
    """Evaluations have these scores, in turn; an exception is raised. Returns those that are left."""
    left = list(scores)

    def compute(game, ema):
        if isinstance(left[0], Exception):
            raise left.pop(0)
        return Metrics({"score": left.pop(0)})

    fake = SimpleNamespace(compute=compute, selection_metric="score")
    monkeypatch.setattr(recorder.evaluator, "create", lambda options, seed: fake)
    return left


def test_an_evaluation_that_fails_loses_no_step(tmp_path, monkeypatch):
    evaluator_that_gives([1.0, UserError("features contain NaN")], monkeypatch)
    with pytest.raises(UserError, match="features contain NaN"):
        runs.train(tmp_path, evaluate_every=4, checkpoint_every=8)
    assert runs.final_digests(tmp_path)[0] == 8


def test_speed_counts_all_images_and_no_evaluation(tmp_path, monkeypatch):
    calls, left = itertools.count(), evaluator_that_gives([1.0, 2.0], monkeypatch)
    # An hour passes in each evaluation.
    clock = SimpleNamespace(perf_counter=lambda: 0.01 * next(calls) - 3600 * len(left), monotonic=time.monotonic)
    monkeypatch.setattr(recorder, "time", clock)
    runs.train(tmp_path, steps=8, log_every=8, evaluate_every=4, checkpoint_every=0, discriminator_steps=2)
    (line,) = runs.logged(tmp_path)
    assert not left and 0 < line["seconds_per_step"] < 1
    np.testing.assert_allclose(line["images_per_second"] * line["seconds_per_step"], 2 * 8)


def test_a_rollback_leaves_nothing_of_the_abandoned_history(whole, tmp_path, monkeypatch):
    evaluator_that_gives([3.0, 2.0, 1.0], monkeypatch)
    runs.train(tmp_path, evaluate_every=4, sample_every=4)
    assert steps_in(tmp_path / "best") == [12]
    before = runs.logged(tmp_path)[0]
    for step in (8, 12):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    evaluator_that_gives([2.5, 2.6], monkeypatch)  # no better than what was abandoned
    runs.train(tmp_path, evaluate_every=4, sample_every=5, steps=12)
    assert steps_in(tmp_path / "best") == [8]
    assert steps_in(tmp_path / "samples") == [0, 4, 5, 10, 12]
    evaluations = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [(line["step"], line["score"]) for line in evaluations] == [(4, 3.0), (8, 2.5), (12, 2.6)]
    seconds = [line["seconds"] for line in runs.logged(tmp_path)]
    assert seconds[0] == before["seconds"] and seconds == sorted(seconds)
    assert runs.final_digests(tmp_path) == runs.final_digests(whole)


def steps_in(folder):
    return sorted(int(path.stem) for path in folder.iterdir() if path.stem.isdecimal())


def test_a_change_of_an_abandoned_history_holds_from_the_restored_step(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints/12")
    runs.train(tmp_path, steps=12, generator__learning_rate=1e-4)
    assert json.loads((tmp_path / "config.json").read_text())["changes"][0]["step"] == 8
    for step in (8, 12):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    runs.train(tmp_path, steps=12, generator__learning_rate=1e-4)
    changes = json.loads((tmp_path / "config.json").read_text())["changes"]
    assert changes == [{"step": 4, "field": "generator.learning_rate", "from": 0.0002, "to": 0.0001}]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_second_process_is_refused_and_a_signal_saves_within_a_step_from_which_the_next_launch_goes_on(
    number, undisturbed, tmp_path
):
    process = runs.start(tmp_path, steps=UNDISTURBED_STEPS, checkpoint_every=0)
    wait_for_a_line(process, tmp_path)
    with pytest.raises(UserError, match=f"in use by process {process.pid}"):
        runs.train(tmp_path, steps=1)  # without the lock it ends at once
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"{signal.Signals(number).name}: saved at step" in told
    assert 0 < runs.final_digests(tmp_path)[0] < UNDISTURBED_STEPS
    finish(tmp_path)
    assert runs.final_digests(tmp_path) == undisturbed


UNDISTURBED_STEPS = 400


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The final bits of a longer run that nothing stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(folder)
    return runs.final_digests(folder)


def finish(folder):
    """Begins or resumes the run in this process, on one device as the processes that are started."""
    with meshes.on(1):
        assert runs.train(folder, steps=UNDISTURBED_STEPS, checkpoint_every=0) == 0


def wait_for_a_line(process, folder, lines=2):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        path = folder / "metrics.jsonl"
        if path.exists() and path.read_text().count("\n") >= lines:
            return
        time.sleep(0.02)
    raise AssertionError(f"no line of metrics: {process.communicate()[1]}")


def kill_and_finish(folder, moments):
    """Kills the run at each moment (seconds after its first logged line, or after launch if negative), then ends it."""
    for moment in moments:
        process = runs.start(folder, steps=UNDISTURBED_STEPS, checkpoint_every=20)
        if moment >= 0:
            already = len(runs.logged(folder)) if (folder / "metrics.jsonl").exists() else 0
            try:
                wait_for_a_line(process, folder, lines=max(1, already - 20))
            except AssertionError:
                break  # it was already complete
        time.sleep(abs(moment))
        process.kill()
        process.communicate()
    finish(folder)


def test_sigkill_leaves_no_trace(undisturbed, tmp_path):
    kill_and_finish(tmp_path, [-3.0, 0.3])
    assert runs.final_digests(tmp_path) == undisturbed
    steps = [line["step"] for line in runs.logged(tmp_path)]
    assert steps == list(range(4, UNDISTURBED_STEPS + 1, 4))


@pytest.mark.slow
def test_sigkill_at_ten_random_moments_leaves_no_trace(undisturbed, tmp_path):
    draw = random.Random(0)
    kill_and_finish(tmp_path, [draw.choice([-6 * draw.random(), 1.5 * draw.random()]) for _ in range(10)])
    assert runs.final_digests(tmp_path) == undisturbed


@pytest.mark.parametrize(
    "damage", ["flip", *(pytest.param(damage, marks=pytest.mark.slow) for damage in ("truncate", "delete"))]
)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(whole, tmp_path, damage, caplog):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    files = [
        path for path in (tmp_path / "checkpoints/12/state").rglob("*") if path.is_file() and path.parent.name == "d"
    ]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    if damage == "truncate":
        largest.write_bytes(content[: len(content) // 2])
    elif damage == "delete":
        largest.unlink()
    else:
        content[len(content) // 2] ^= 0x10
        largest.write_bytes(content)
    assert runs.train(tmp_path) == 0
    assert "checkpoint 12 is damaged" in caplog.text
    assert "resuming from checkpoint 8" in caplog.text
    assert (tmp_path / "damaged_checkpoints/12").is_dir()
    assert runs.final_digests(tmp_path) == runs.final_digests(whole)


def test_a_half_written_checkpoint_is_passed_over(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints/12")
    half = tmp_path / "checkpoints/11.orbax-checkpoint-tmp"
    (half / "state").mkdir(parents=True)
    (half / "state/manifest.ocdbt").write_bytes(b"half")
    runs.train(tmp_path)
    assert runs.final_digests(tmp_path) == runs.final_digests(whole)


def test_when_no_checkpoint_can_be_read_nothing_is_begun_anew(tmp_path):
    runs.begin(tmp_path)
    for path in (tmp_path / "checkpoints/4").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        runs.train(tmp_path)
    assert (tmp_path / "checkpoints/4").is_dir()


def test_a_learning_rate_that_is_too_high_is_named_at_the_first_logged_step(tmp_path, caplog):
    runs.train(tmp_path, steps=4, generator__learning_rate=1e6)
    lines = [record.getMessage() for record in caplog.records if "times as large" in record.getMessage()]
    assert len(lines) == 1 and lines[0].startswith("step 4: G's update was ")
    assert "Lower config.generator.learning_rate" in lines[0]
    assert runs.logged(tmp_path)[0]["generator_relative_update"] > 1e3
