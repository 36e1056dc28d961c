"""gan.main and gan.cli: a mistake is one line and exit status 2; help is fast and lists only this package's flags."""

import json
import logging
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import command_line
import meshes
import numpy as np
import pytest
import runs
from PIL import Image

from gan.config import loading
from gan.config.flattening import flatten
from gan.errors import UserError
from gan.inference import command
from gan.io import progress, workdir
from gan.parallel import sharding
from gan.penalties import PENALTIES

CONFIG = "--config=configs/dcgan.py:digits"


def output(*arguments, status=2):
    """What the command prints, as a process of its own: on stdout if it is done, else the last line on stderr."""
    process = runs.command(*arguments)
    out, error = process.communicate(timeout=120)
    return checked(process.returncode, out, error, status)


def checked(found, out, error, status=2):
    assert found == status, error
    assert "Traceback" not in error
    lines = error.strip().splitlines()
    assert status != 2 or len(lines) == 1, error
    return out if status == 0 else lines[-1]


@pytest.fixture
def mistake(at_the_root):
    """The one line with which the command rejects its flags, in this process."""
    return lambda *arguments: checked(*command_line.end_of(*arguments))


def test_help_loads_no_numpy_and_lists_only_flags_of_this_package():
    command = [sys.executable, "-X", "importtime", "-m", "gan.main", "--help"]
    found = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, check=True)
    shown, loaded = found.stdout, {line.rpartition("|")[2].strip() for line in found.stderr.splitlines()}
    assert "absl.flags" in loaded and not loaded & {"jax", "flax", "numpy", "orbax"}  # seconds of imports
    flags = re.findall(r"^\s+--(?:\[no\])?(\w+)", shown, re.MULTILINE)
    assert sorted(flags) == [
        "classes", "config", "coordinator", "direction", "directions", "dtype", "error_bars", "extractor",
        "format", "image", "layers", "method", "metrics", "mode", "multihost", "num_processes", "num_samples",
        "out", "path", "port", "process_id", "same_latents", "samples", "seed", "step", "truncation", "view", "workdir",
    ]  # fmt: skip


def test_help_ends_quietly_where_its_reader_has_gone():
    command = f"{sys.executable} -m gan.main --help-config | head -1; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", command], cwd=runs.ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "0" and found.stderr == ""


def test_help_of_the_config_has_every_field_with_its_default_and_meaning():
    shown = output("--help-config", status=0)
    config = flatten(loading.load("configs/default.py"))
    for name, value in config.items():
        assert f"\n{name}={value!r}" in shown
    assert re.search(r"^batch_size=64 +\w+", shown, re.MULTILINE)
    assert re.search(r"^discriminator.penalty_interval=1 +lazy regularization", shown, re.MULTILINE)
    assert re.search(r"^generator.width=64 +\w+", shown, re.MULTILINE)
    assert "\npenalties: " in shown
    for name in PENALTIES:
        assert re.search(rf"^penalties\.{name}=0\.0 +of [DG]", shown, re.MULTILINE), name
    names = [line.partition("=")[0] for line in shown.splitlines() if re.match(r"[a-z]\S*=", line)]
    assert sorted(names) == sorted(config)
    assert names[:3] == ["seed", "steps", "batch_size"]  # as in the file
    assert max(map(len, shown.splitlines())) <= 120


MISTAKES = [
    ([], "--config is missing"),
    (
        ["--config=configs/dcgam.py"],
        r"--config=configs/dcgam.py is not a file; nearest: 'dcgan'; expected: FILE.py, afm, biggan",
    ),
    (["--config=dcgam:mnist"], "--config=dcgam is not a file; nearest: 'dcgan'"),
    ([CONFIG, "--config.batchsize=3"], "--config.batchsize is no field of .* nearest: --config.batch_size"),
    ([CONFIG, "--config.generator.widht=3"], "nearest: --config.generator.width"),
    ([CONFIG, "--config.batch_size=3.5"], "--config.batch_size=3.5"),
    ([CONFIG, "--config.generator.learning_rate=fast"], "--config.generator.learning_rate=fast"),
    ([CONFIG, "--cofnig=1"], "cofnig"),
    ([CONFIG, "--mode=trian"], "--mode=trian.*train"),
    ([CONFIG, "extra"], "'extra' is no flag"),
    (["--mode=sample"], "--workdir is missing"),
    (["--config", "configs/dcgan.py:digits", "--config.generator.widht", "3"], "nearest: --config.generator.width"),
    ([CONFIG, "--mode=sample", "--config.seed=3"], "--config.seed has no meaning with --mode=sample"),
    (["--mode=sample", "--workdir=nowhere"], "nowhere holds no run"),
    (
        [CONFIG, "--truncation=0.5"],
        "--truncation has no meaning with --mode=train; expected with: sample, evaluate, explore",
    ),
    ([CONFIG, "--process_id=1", "--num_processes=2"], "--coordinator is missing; expected: --coordinator, --num"),
    ([CONFIG, "--coordinator=here", "--num_processes=2", "--process_id=0"], "--coordinator=here.*HOST:PORT"),
    ([CONFIG, "--coordinator=a:99999", "--num_processes=2", "--process_id=0"], "--coordinator=a:99999.*HOST:PORT"),
    ([CONFIG, "--coordinator=a:1", "--num_processes=2", "--process_id=2"], "--process_id=2.*expected: 0 .. 1"),
    (["--mode=sample", "--workdir=x", "--multihost"], "--multihost has no meaning with --mode=sample"),
    (["--mode=evaluate", "--classes=7", "--workdir=x"], "--classes has no meaning with --mode=evaluate"),
    (["--mode=export", "--workdir=x"], "--out is missing; expected: the folder to write"),
    (["--mode=sample", "--workdir=x", "--config.steps=3"], "--config.steps has no meaning with --mode=sample"),
    (["--mode=sample", "--workdir=x", "--truncation=abc"], "--truncation=abc: expected: a number"),
    ([CONFIG, "--config.data.mirror=maybe"], "--config.data.mirror=maybe: expected: True or False"),
    ([CONFIG, "--config.save_every=5"], "nearest: --config.checkpoint_every"),
    (
        [CONFIG, "--config.loggers=a", "--config.loggers=b"],
        "--config.loggers is given more than once; expected: once",
    ),
    (["--mode=evaluate", "--samples=x"], "--config is missing"),
    (["--mode=evaluate", "--samples=x", CONFIG], "--samples='x' does not exist"),
    (["--mode=evaluate", "--samples=x", CONFIG, "--workdir=y"], "--workdir has no meaning with --samples and"),
    (["--mode=evaluate", "--samples=x", CONFIG, "--step=3"], "--step has no meaning with --samples"),
    (["--mode=evaluate", "--workdir=x", "--out=y.json"], "--out has no meaning with --mode=evaluate of a run"),
    ([CONFIG, "--samples=x"], "--samples has no meaning with --mode=train; expected with: evaluate"),
    ([CONFIG, "--format=onnx"], "--format has no meaning with --mode=train; expected with: explore, export"),
]


@pytest.mark.parametrize("arguments, line", MISTAKES)
def test_a_mistake_in_the_flags_is_one_line(arguments, line, mistake):
    assert re.search(line, mistake(*arguments))


# One that is found when the flags are parsed, and one after it.
IN_PROCESSES = [MISTAKES[4], MISTAKES[13]]


@pytest.mark.parametrize(
    "arguments, line",
    [*IN_PROCESSES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MISTAKES if case not in IN_PROCESSES)],
)
def test_a_mistake_ends_a_process_with_one_line(arguments, line):
    assert re.search(line, output(*arguments))


@pytest.mark.parametrize(
    "text, line",
    [
        ("def get_config(:", "SyntaxError"),
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("x = 1", "get_config"),
        ("def get_config(): return 3", "ConfigDict"),
        ("def get_config(): raise ValueError('no such variant')", "no such variant"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_one_line(tmp_path, text, line, mistake):
    path = tmp_path / "broken.py"
    path.write_text(text)
    assert line in mistake(f"--config={path}")


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path, mistake):
    (tmp_path / "file").write_text("")
    assert "is not writable" in mistake(CONFIG, f"--workdir={tmp_path / 'file'}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of an unconditional run of 4 steps."""
    folder = tmp_path_factory.mktemp("trained")
    runs.begin(folder)
    return folder


def test_a_run_of_another_format_is_rejected_in_one_line(trained, tmp_path, mistake):
    path = tmp_path / "config.json"
    record = json.loads((trained / "config.json").read_text())
    assert record.pop("format") == workdir.FORMAT
    for version, line in ((0, "has format 0"), ("1", "has format 1"), (None, "has no format number")):
        path.write_text(json.dumps(record if version is None else record | {"format": version}))
        for use in (lambda: runs.train(tmp_path, steps=8), lambda: command.sample(tmp_path, count=1, seed=0)):
            with pytest.raises(UserError, match=f"{line}.*expected: format 1. Use a new --workdir"):
                use()
    assert "has no format number" in mistake("--mode=sample", f"--workdir={tmp_path}")


def test_divergence_is_exit_3_with_the_step_and_the_term(tmp_path):
    flags = [f"--config.{name}={value}" for name, value in runs.SMALL.items()]
    line = output(CONFIG, *flags, "--config.discriminator.learning_rate=1e38", f"--workdir={tmp_path}", status=3)
    assert re.search(r"diverged: step \d+: \w+ is (nan|inf)", line)


def test_a_trained_run_gives_samples(trained, tmp_path, mistake):
    files = [tmp_path / f"{name}.npz" for name in ("a", "b")]
    sampled = ["--mode=sample", f"--workdir={trained}", "--num_samples=130", "--seed=7"]
    output(*sampled, f"--out={files[0]}", status=0)
    with meshes.on(1):
        checked(*command_line.end_of(*sampled, f"--out={files[1]}"), status=0)
    first, second = (np.load(path) for path in files)
    assert first["images"].shape == (130, 8, 8, 1)
    assert first["images"].dtype == np.uint8
    np.testing.assert_array_equal(first["images"], second["images"])
    assert first.files == ["images"]  # an unconditional generator was not asked for labels
    assert zipfile.is_zipfile(files[0])
    line = mistake("--mode=sample", f"--workdir={trained}", "--truncation=-1")
    assert line == "error: --truncation=-1.0; expected: a number above 0, for a network without styles"
    assert Image.open(tmp_path / "a.png").mode == "L"


def test_many_samples_are_announced_and_more_than_the_memory_are_one_line(trained, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(command, "LARGE_BYTES", 200 * 64)  # a sample is 8 x 8 bytes
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0)
    with caplog.at_level(logging.INFO):
        command.sample(trained, count=200, seed=0, out=tmp_path / "many.npz")
    lines = [record.getMessage() for record in caplog.records]
    assert "Drawing 200 samples of 8x8x1: 0.0 GB in memory" in lines
    assert any(line.startswith("Drawing samples, in batches: 1 of 2 done") for line in lines)
    monkeypatch.setattr(sharding, "machine_memory_bytes", lambda: 10_000)
    with pytest.raises(UserError, match="--num_samples=200 of 8x8x1 are 0.0 GB, .* expected: at most 156, or"):
        command.sample(trained, count=200, seed=0)


def test_classes_are_sampled_by_name_in_turn_and_a_latent_in_each(tmp_path):
    runs.train(tmp_path, steps=4, generator__conditioning="concat")

    command.sample(tmp_path, count=20, seed=0, out=tmp_path / "sevens.npz", classes=["7"])
    flags = ["--classes=7,2", "--num_samples=40", "--same_latents", f"--out={tmp_path / 'pairs.npz'}"]
    checked(*command_line.end_of("--mode=sample", f"--workdir={tmp_path}", *flags), status=0)
    sevens, pairs = (np.load(tmp_path / f"{name}.npz") for name in ("sevens", "pairs"))
    np.testing.assert_array_equal(sevens["labels"], [7] * 20)
    np.testing.assert_array_equal(pairs["labels"], [7, 2] * 20)
    assert list(pairs["class_names"]) == list("0123456789")
    # Every second one is a seven, of latents 0 to 19; its neighbor is another image of the same latent.
    np.testing.assert_allclose(pairs["images"][::2].astype(int), sevens["images"], atol=1)
    assert np.ptp(pairs["images"][1::2].astype(int) - pairs["images"][::2]) > 1
    # The first 10 rows of two columns of 8 pixels with lines between them: 91 x 19, enlarged 1024 // 91 = 11 times.
    assert Image.open(tmp_path / "pairs.png").size == (11 * 19, 11 * 91)
    with pytest.raises(UserError, match="'seven' is not a class"):
        command.sample(tmp_path, count=1, seed=0, classes=["seven"])


def test_a_generator_without_labels_has_no_classes_to_sample(trained):
    with pytest.raises(UserError, match="classes needs a conditional generator"):
        command.sample(trained, count=1, seed=0, classes=["7"])


def test_sampling_a_run_without_a_checkpoint_is_one_line(trained, tmp_path, mistake):
    (tmp_path / "config.json").write_text((trained / "config.json").read_text())
    assert "holds no checkpoint yet" in mistake("--mode=sample", f"--workdir={tmp_path}")
    for asked, line in (({"out": Path("x.png")}, "--out=x.png must end in .npz"), ({"count": 0}, "--num_samples=0")):
        with pytest.raises(UserError, match=line):
            command.sample(tmp_path, **{"count": 1, "seed": 0} | asked)
