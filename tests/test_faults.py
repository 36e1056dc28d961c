"""experiments.faults: fault injection into small runs; and the parts of gan that handle faults, one by one."""

import errno
import gc
import importlib
import logging
import operator
import os
import select
import signal
import struct
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
import runs
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from experiments import faults
from experiments.faults import datasets, disks, memory, streams
from experiments.faults import signals as early
from experiments.faults.bench import RUN
from gan import data
from gan.data import toys
from gan.errors import UserError, machine_failure
from gan.io import checkpoint, console, loggers, writer
from gan.parallel import compilation, sharding
from gan.train import signals, sources, summary

SHORT_RUN = RUN | {"steps": 128, "sample_every": 32, "checkpoint_every": 16}
"""A launch takes 9 s in place of 15, and saves 8 checkpoints in place of 30."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return faults.Bench(tmp_path_factory.mktemp("faults"), kills=1, run=SHORT_RUN)


EVERY = {
    "early_signals": 5, "damaged_folder": 3, "disk_full": 3, "pipes": 3, "two_launches": 2, "data_under_a_run": 3,
    "memory": 2,
}  # fmt: skip
"""Of the cases of a fault that has many, each so many-th is tried here, and all by `python -m experiments.faults`.

With 3, data that change under a run are cut, overwritten, replaced and deleted, and are of each kind of source."""


@pytest.mark.slow  # tests/test_loop.py kills runs, and damages their checkpoints, in the quick tests
@pytest.mark.parametrize("name", faults.FAULTS)
def test_no_fault_loses_anything(bench, name):
    try:
        cases = list(faults.cases(bench, name, every=EVERY.get(name, 1)))
    except faults.Skipped as error:
        pytest.skip(str(error))
    assert cases
    assert not [case for case in cases if case.lost]


@pytest.mark.parametrize("module, function", sorted({moment[:2] for moment in disks.MOMENTS.values()}))
def test_functions_before_which_the_disk_fills_exist(module, function):
    assert callable(operator.attrgetter(function)(importlib.import_module(module)))


def test_names_that_the_faults_patch_exist():
    assert isinstance(sources.DECODED_BYTES, int)
    for source in (memory.NO_MEMORY_TO_COMPILE, datasets.NAN_IN_STEP_101, datasets.STREAM_FROM_TFDS):
        compiled = compile(source, "fault", "exec")
        assert {"fail", "load_with_nan", "sources"} & {*compiled.co_names}
    assert data.positions(100, batches=1, batch_size=128)[0, :1].shape == (1,)
    points = toys.load("ring8", "train")
    assert points._images[data.example_order(np.arange(1), seed=0, n=len(points))].size == 2


def test_the_training_steps_are_compiled_under_the_name_that_the_memory_fault_expects():
    mesh = sharding.device_mesh()
    steps = compilation.jit_steps(
        lambda state, data, rows, numbers, axis_name: (state, data), mesh, data_axis=1, max_steps=2
    )
    array = jnp.zeros((1, len(mesh.devices)))
    lowered = steps.lower(array, array, np.int32(1), np.zeros(len(mesh.devices), np.int32), {})
    assert memory.COMPILED_STEPS in lowered.as_text()


def test_the_lines_of_a_run_are_those_that_the_signals_expect(tmp_path, caplog, capsys):
    fields = ("discriminator_loss", "generator_loss", "seconds_per_step", "images_per_second", "share_waiting_for_data")
    lines = writer.RunWriter(tmp_path, step=0, total=RUN["steps"])
    lines.metrics(RUN["log_every"], dict.fromkeys(fields, 1.0))
    lines.close()
    assert early.LOGGED in capsys.readouterr().err
    with caplog.at_level(logging.INFO):
        summary.log_end(RUN["steps"], tmp_path)
    assert early.DONE.format(steps=RUN["steps"]) in caplog.text


def test_a_full_pipe_costs_lines_which_are_counted(monkeypatch):
    monkeypatch.setattr(console, "PATIENCE_SECONDS", 0.2)
    may_wait, is_ready = [], console.Stderr._is_ready
    monkeypatch.setattr(
        console.Stderr, "_is_ready", lambda self, seconds: may_wait.append(seconds > 0) or is_ready(self, seconds)
    )
    reading, writing = streams.full_pipe()
    stream = console.Stderr(writing)
    for _ in range(3):
        print("lost", file=stream)  # two writes: the line and its end
    assert may_wait[0] and not any(may_wait[1:])  # only the first of them waited
    while select.select([reading], [], [], 0)[0]:
        os.read(reading, 4096)
    print("seen", file=stream)
    assert os.read(reading, 4096) == b"(6 writes dropped here: no reader)\nseen\n"
    os.close(reading)
    print("there is no reader any more", file=stream)
    os.close(writing)


def test_stderr_onto_a_full_disk_is_left_out():
    with open("/dev/full", "wb") as disk:
        print("no room", file=console.Stderr(disk.fileno()))


def test_closed_descriptors_are_filled():
    code = "from gan.io import console; console.fill_descriptors(); print(open('README.md').fileno())"
    child = f'exec 0<&- 2<&-; exec {sys.executable} -c "{code}"'
    assert int(subprocess.run(["sh", "-c", child], cwd=runs.ROOT, stdout=subprocess.PIPE).stdout) > 2


@pytest.mark.parametrize("number, seconds", [(signal.SIGINT, 0.0), (signal.SIGTERM, 1.0), (signal.SIGINT, 3.0)])
def test_an_early_signal_is_neither_lost_nor_a_traceback(bench, number, seconds):
    assert early.signal_after(bench, number, seconds).startswith(f"{number.name}: ")


def test_a_signal_does_not_wait_for_a_long_call(tmp_path):
    code = (
        "import hashlib, pathlib; from gan.io import atomic; from gan.train import signals; signals.end_at_once()\n"
        f"with atomic.replacing({str(tmp_path / 'file')!r}) as tmp:\n"
        "    tmp.touch(); print('begun', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"  # as a compilation: no handler is called within it
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (130, "SIGINT: ended at once; the same command begins again, or resumes\n")
    assert not any(tmp_path.iterdir())


def test_failures_of_the_machine_are_reported_with_advice():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "samples/1.png")
    assert machine_failure(full).startswith(
        "samples/1.png: No space left on device: make room; the last checkpoint, if"
    )
    of_orbax = ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device [os_error_code='28']")
    assert machine_failure(of_orbax, "--workdir=x").startswith("--workdir=x: No space left on device: make room")
    of_xla = RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.")
    of_cpu = RuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 274877906944 bytes.")
    of_cuda = RuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory")
    of_cublas = RuntimeError("INTERNAL: failed to create cublas handle: CUBLAS_STATUS_ALLOC_FAILED")
    of_system = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    for error in (of_xla, of_cpu, of_cuda, of_cublas, of_system, MemoryError("Unable to allocate 3 GiB")):
        assert "config.batch_size" in machine_failure(error)
    try:
        try:
            raise full
        except OSError:
            raise KeyError("on the way out") from None
    except KeyError as error:
        assert machine_failure(error) == machine_failure(full)
    assert machine_failure(KeyError("a bug")) == ""
    assert machine_failure(FileNotFoundError(errno.ENOENT, "No such file")) == ""


def test_a_checkpoint_that_does_not_fit_into_memory_is_not_reported_as_damaged(tmp_path, monkeypatch):
    runs.begin(tmp_path)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(checkpoint, "_read", fail)
    with pytest.raises(MemoryError):
        runs.train(tmp_path, steps=8)
    assert (tmp_path / "checkpoints/4").is_dir()


@pytest.mark.parametrize("file, printed", [("site-packages/orbax/checkpoint/read.py", 0), ("gan/io/read.py", 1)])
def test_reads_that_orbax_abandons_print_nothing(file, printed, monkeypatch):
    """One array of a damaged checkpoint cannot be read; Python collects the reads of the others at any time after."""
    source = (
        "import asyncio\n"
        "async def read():\n"
        "    try:\n        await asyncio.sleep(0)\n"
        "    except BaseException as error:\n        raise OSError from error\n"
    )
    names, found = {}, []
    exec(compile(source, file, "exec"), names)
    monkeypatch.setattr(sys, "unraisablehook", found.append)

    def fail(step):
        raise OSError("cut off")

    assert checkpoint._attempt(fail, 1) == (None, "cut off")
    read = names["read"]()
    read.send(None)
    del read
    gc.collect()
    assert len(found) == printed


def test_what_ignores_abandoned_reads_is_installed_once(monkeypatch):
    found = []
    monkeypatch.setattr(sys, "unraisablehook", found.append)

    def fail(step):
        raise OSError("cut off")

    checkpoint._attempt(fail, 1)
    installed = sys.unraisablehook
    checkpoint._attempt(fail, 2)
    assert sys.unraisablehook is installed is not found.append


def test_reading_checkpoints_does_not_warn_that_they_are_only_read(tmp_path, caplog):
    with checkpoint.open_manager(tmp_path / "checkpoints") as manager:
        manager.save(1, args=checkpoint.ocp.args.Composite(digests=checkpoint.ocp.args.JsonSave({})))
    with checkpoint.open_manager(tmp_path / "checkpoints", read_only=True) as manager:
        assert manager.all_steps() == [1]
    assert not [record for record in caplog.records if "read_only" in record.getMessage()]


@pytest.mark.parametrize("content", ["[]", "[" * 99_999])
def test_metadata_that_orbax_does_not_know_is_named(content, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    with checkpoint.open_manager(checkpoints) as manager:
        manager.save(1, args=checkpoint.ocp.args.Composite(digests=checkpoint.ocp.args.JsonSave({})))
    (checkpoints / "1/_CHECKPOINT_METADATA").write_text(content)
    with pytest.raises(UserError, match="_CHECKPOINT_METADATA in .*checkpoints is damaged.*move its checkpoint away"):
        checkpoint.open_manager(checkpoints, read_only=True)


def test_a_damaged_line_of_metrics_costs_no_other(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\xff": 2}\n{"step": 3}\n{"step": 4}\n{"step": 5')
    writer._keep_until(path, 3)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 3}\n'
    assert "removed 1 damaged lines, the first is line 2" in caplog.text


def test_events_are_records_that_tensorboard_reads(tmp_path):
    file = loggers.TensorBoard(tmp_path, 8, {})
    file.scalars(16, {"loss": 0.25})
    file.close()
    content, found = next((tmp_path / "tensorboard").iterdir()).read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        record, content = content[12 : 12 + length], content[16 + length :]
        found.append(Event.FromString(record))
    assert found[0].file_version == "brain.Event:2"
    assert (found[1].step, found[1].session_log.status) == (9, 1)  # START: events from step 9 on are dropped
    assert (found[2].step, found[2].summary.value[0].tag, found[2].summary.value[0].simple_value) == (16, "loss", 0.25)
    assert masked_crc32c(record) == struct.unpack("<I", _tail(tmp_path / "tensorboard"))[0]


def _tail(folder):
    return next(folder.iterdir()).read_bytes()[-4:]


def test_a_memory_mapped_file_that_changes_is_not_read_any_more(tmp_path):
    for name, shape in (("images", (8, 2, 2, 1)), ("labels", (8,))):
        np.save(tmp_path / f"{name}.npy", np.ones(shape, np.uint8))
    decoded = data.Decoded(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("images", "labels")))
    assert decoded.read(np.arange(3))[0].shape == (3, 2, 2, 1)
    (tmp_path / "labels.npy").rename(tmp_path / "elsewhere")  # the open map keeps the file
    decoded.read(np.arange(3))
    os.truncate(tmp_path / "images.npy", 140)
    with pytest.raises(UserError, match=r"images\.npy was changed during the run"):
        decoded.read(np.arange(3))


def test_a_user_without_a_home_has_a_temporary_cache(monkeypatch, caplog):
    monkeypatch.delenv("GAN_CACHE_DIR")
    monkeypatch.setattr(data.cache.pathlib.Path, "expanduser", no_home)
    assert data.cache.cache_folder().is_dir()
    assert "is not writable (Could not determine home directory.)" in caplog.text


def no_home(path):
    raise RuntimeError("Could not determine home directory.")


def test_cache_entries_of_a_killed_writer_are_removed(tmp_path):
    for name in ("a-cache", "a-atime", "b-cache"):
        (tmp_path / name).write_bytes(b"program")
    compilation._remove_incomplete(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*-*")) == ["a-atime", "a-cache"]


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_sighup_is_handled_unless_it_is_ignored(before):
    earlier = signal.signal(signal.SIGHUP, before)
    try:
        with signals.StopSignal() as stop_signal:
            stop_signal.begin()
            assert (signal.getsignal(signal.SIGHUP) == stop_signal._note) is (before == signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, earlier)


@pytest.mark.parametrize("window, ends", [(0.0, True), (60.0, False)])
def test_a_second_and_different_signal_ends_the_process_unless_it_is_passed_on_from_the_first(window, ends):
    code = f"""
import time
from gan.train import signals
signals.RELAY_SECONDS = {window}
with signals.StopSignal() as stop_signal:
    stop_signal.begin()
    for _ in range(2):
        print(stop_signal.signal, flush=True)
        input()
    print(stop_signal.signal, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=runs.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    seen = []
    for number in (signal.SIGINT, signal.SIGTERM):
        seen.append(process.stdout.readline().strip())
        process.send_signal(number)
        time.sleep(0.2)
        if process.poll() is None:
            print(file=process.stdin, flush=True)
    out, _ = process.communicate(timeout=30)
    assert seen == ["0", "2"]
    assert (process.returncode, out.strip()) == ((-signal.SIGTERM, "") if ends else (0, "2"))
