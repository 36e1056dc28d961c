"""gan.parallel.processes: several processes, over the loopback, train as one does; and the loss of a process."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import runs

from gan.io import checkpoint
from gan.parallel.processes import LOST

METRICS = ("discriminator_loss", "generator_loss", "discriminator_real", "generator_gradient_norm")


def ends(processes, timeout=200):
    """What each process printed on stderr, and its exit status."""
    return [(process.communicate(timeout=timeout)[1], process.returncode) for process in processes]


def wait_for(folder, step, seconds=120):
    """Waits until a run has saved a checkpoint."""
    until = time.monotonic() + seconds
    while not (folder / "checkpoints" / str(step)).is_dir():
        assert time.monotonic() < until, f"no checkpoint {step} in {folder}"
        time.sleep(0.05)


def assert_same_training(one, other):
    """The same steps and images, and the same metrics up to the order of sums."""
    assert [line["step"] for line in runs.logged(one)] == [line["step"] for line in runs.logged(other)]
    for a, b in zip(runs.logged(one), runs.logged(other), strict=True):
        assert a["images"] == b["images"]
        for name in METRICS:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=name)


def assert_one_line(output):
    assert "Traceback" not in output
    assert len([line for line in output.splitlines() if line.startswith("process ")]) == 1


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The small run of one process, on four devices."""
    folder = tmp_path_factory.mktemp("alone")
    runs.train(folder, log_every=1, steps=16, sample_every=8)
    return folder


def test_two_processes_train_as_one_and_one_resumes(tmp_path, alone):
    """Streamed data, each reading its share; stopped by a SIGTERM to the second; then a single process ends it."""
    run = {"log_every": 1, "sample_every": 8, "data__on_device": "never"}
    processes = runs.start_together(tmp_path, 2, devices=2, **run, steps=10**6)
    wait_for(tmp_path, 4)
    processes[1].send_signal(signal.SIGTERM)
    (first, status), (second, other) = ends(processes)
    assert (status, other) == (143, 143), first + second
    assert "SIGTERM: saved at step" in first
    assert not [line for line in second.splitlines() if "step" in line]  # only the primary process logs
    stopped, _ = runs.final_digests(tmp_path)
    if stopped < 16:
        runs.train(tmp_path, **run, steps=16)
    lines = [line for line in runs.logged(tmp_path) if line["step"] <= 16]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert_same_training(tmp_path, alone)


@pytest.mark.slow
def test_auto_microbatches_are_chosen_together(tmp_path):
    """Both compile the same candidates, and neither waits for the other for ever; the first alone says what it is."""
    run = {"microbatches": "auto", "generator__batch_norm": False, "discriminator__batch_norm": False, "steps": 4}
    (first, status), (second, other) = ends(runs.start_together(tmp_path, 2, devices=2, **run))
    assert (status, other) == (0, 0), first + second
    assert "microbatches=auto: 1; a step needs" in first and "microbatches" not in second
    assert json.loads((tmp_path / "config.json").read_text())["memory"]["microbatches"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices", "resident"), [(2, 1, "always"), (2, 2, "never"), (4, 1, "always")])
def test_many_processes_train_as_one(tmp_path, alone, processes, devices, resident):
    started = runs.start_together(
        tmp_path, processes, devices=devices, log_every=1, steps=16, sample_every=8, data__on_device=resident
    )
    for output, status in ends(started):
        assert status == 0, output
    assert_same_training(tmp_path, alone)
    assert (tmp_path / "samples" / "00000016.png").is_file()
    with checkpoint.open_manager(tmp_path / "checkpoints", read_only=True) as manager:
        assert manager.latest_step() == 16


@pytest.mark.slow
def test_dispatches_of_many_steps_do_not_mix_with_collectives(tmp_path):
    """Many steps in flight, and a collective after each 0.2 seconds of them: their bytes must not be mixed up."""
    started = runs.start_together(tmp_path, 4, steps=60, log_every=30, checkpoint_every=0, data__image_size=(16, 16))
    for output, status in ends(started, timeout=400):
        assert status == 0, output
    assert runs.logged(tmp_path)[-1]["step"] == 60


@pytest.mark.slow
def test_a_sharded_state_of_two_processes_is_resumed_by_one(tmp_path, alone):
    run = {"log_every": 1, "sample_every": 8}
    for output, status in ends(runs.start_together(tmp_path, 2, devices=2, **run, steps=8, shard_state=True)):
        assert status == 0, output
    runs.train(tmp_path, **run, steps=16)
    assert_same_training(tmp_path, alone)


@pytest.mark.slow
def test_evaluations_and_the_best_checkpoint_are_the_same(tmp_path):
    run = {"evaluate_every": 8, "evaluation.num_samples": 100, "evaluation.metrics": ("frechet",), "steps": 16}
    runs.train(tmp_path / "alone", **run)
    for output, status in ends(runs.start_together(tmp_path / "two", 2, **run)):
        assert status == 0, output
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "evaluations.jsonl").read_text().splitlines()]
        for name in ("alone", "two")
    )
    assert [line["step"] for line in two] == [8, 16]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a["fd_classifier"], b["fd_classifier"], rtol=1e-2)
    assert sorted(os.listdir(tmp_path / "alone" / "best")) == sorted(os.listdir(tmp_path / "two" / "best"))


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_is_reported_and_the_run_resumes(tmp_path, lost, how):
    processes = runs.start_together(tmp_path, 2, steps=10**6, checkpoint_every=20)
    wait_for(tmp_path, 20)
    processes[lost].send_signal(how)
    start = time.monotonic()
    output, status = ends([processes[1 - lost]], timeout=60)[0]
    assert time.monotonic() - start < 60
    assert status == LOST, output
    assert_one_line(output)
    assert "to resume from the last checkpoint" in output
    processes[lost].kill()
    processes[lost].communicate()
    with checkpoint.open_manager(tmp_path / "checkpoints", read_only=True) as manager:
        last = manager.latest_step()
    several = 4 if (lost, how) == (1, signal.SIGKILL) else 2  # more of them, or as many
    for output, status in ends(runs.start_together(tmp_path, several, steps=last + 8, checkpoint_every=4)):
        assert status == 0, output
    assert runs.logged(tmp_path)[-1]["step"] == last + 8


@pytest.mark.slow
@pytest.mark.parametrize("then, status", [("signal.raise_signal(signal.SIGKILL)", LOST), ("", -signal.SIGABRT)])
def test_an_abort_of_the_runtime_is_the_loss_of_the_coordinator_or_itself(then, status):
    """Outside a collective, the C++ runtime notices first that process 0 is lost, and aborts."""
    code = f"""
import os, signal, sys, time
from gan.parallel import processes
processes.POLL_SECONDS = 1000  # the runtime alone may notice
processes.initialize("localhost:" + sys.argv[1], 2, int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
if not processes.is_primary():
    {"time.sleep(60)" if then else "os.abort()"}
{then or "time.sleep(60)"}
"""
    port = str(runs.free_port())
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", code, port, str(index)], cwd=runs.ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for index in range(2)
    ]  # fmt: skip
    for process in pair:
        assert process.stdout.readline() == "ready\n"
    for process in reversed(pair):
        print(file=process.stdin, flush=True)
    output, ended = ends(pair[1:], timeout=60)[0]
    pair[0].kill()
    pair[0].communicate()
    assert ended == status, output
    assert ("to resume from the last checkpoint" in output) is bool(then)


@pytest.mark.slow
def test_slurm_is_detected(tmp_path):
    """As `srun` sets it for the tasks of a step; JAX takes the first host's port from the number of the job."""
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    processes = [
        runs.command(
            *runs.flags(tmp_path, {}), "--multihost", **step, SLURM_PROCID=str(index), SLURM_LOCALID=str(index)
        )
        for index in range(2)
    ]
    (first, status), (second, other) = ends(processes)
    assert (status, other) == (0, 0), first + second
    assert "step 12 of 12 done" in first
    assert "step 12" not in second


@pytest.mark.slow
def test_a_corrupted_checkpoint_is_skipped_by_all(tmp_path):
    runs.train(tmp_path, steps=8)
    largest = max((tmp_path / "checkpoints/8/state").rglob("d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    first, second = ends(runs.start_together(tmp_path, 2))
    assert (first[1], second[1]) == (0, 0), first[0] + second[0]
    assert "checkpoint 8 is damaged" in first[0]
    assert "damaged" not in second[0]
    assert (tmp_path / "damaged_checkpoints" / "8").is_dir()


@pytest.mark.slow
def test_a_mistake_is_reported_once(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (first, status), (second, other) = ends(runs.start_together(tmp_path, 2))
    assert (status, other) == (2, 2), first + second
    assert "has no format number" in first
    assert "has no format number" not in second


@pytest.mark.slow
def test_processes_that_do_not_connect_are_reported():
    program = (
        "from gan.parallel import processes; processes.INITIALIZATION_SECONDS = 3;"
        "processes.initialize('localhost:1', 2, 1)"
    )
    no_proxies = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}  # JAX warns
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=no_proxies)
    assert ended.returncode == 2
    message = "not all processes of the run connected within 3 seconds"
    assert ended.stderr.strip() == f"error: --coordinator=localhost:1: {message}"
