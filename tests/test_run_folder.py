"""The folder of a run: its default name, resuming by it alone, and what a rejected launch leaves: nothing."""

import json
import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import runs

from gan.cli import flags, folders, recorded
from gan.config import loading
from gan.errors import UserError
from gan.io import workdir
from gan.train import summary

DCGAN = "configs/dcgan.py"


def folder_of(name, *changes):
    """The default folder of `--config=name` with these overrides."""
    fields = [change.partition("=")[0] for change in changes]
    return str(folders.default_folder(name, loading.load(name, changes), fields))


@pytest.mark.parametrize(
    "changes, name",
    [
        ([], "dcgan"),
        (["loss=hinge"], "dcgan-loss=hinge"),
        (["seed=3", "loss=hinge"], "dcgan-loss=hinge,seed=3"),  # in any order
        (["generator.learning_rate=3e-3"], "dcgan-generator.learning_rate=0.003"),
        (["data.image_size=(64, 48)"], "dcgan-data.image_size=64x48"),
        # What a run may be resumed with is the same run, and so is the file's own value.
        (["steps=5", "log_every=1", "data.on_device=never", "microbatches=2", "evaluation.extractor=pixels"], "dcgan"),
        (["loss=non_saturating", "data.dir=/data/tfds"], "dcgan"),
        (["data.name=folder", "data.dir=/data/cats/"], "dcgan-data.dir=cats,data.name=folder"),
    ],
)
def test_the_folder_tells_overrides_apart(changes, name):
    assert folder_of(DCGAN, *changes) == f"runs/{name}"
    assert shlex.quote(name) == name


def test_a_folder_name_is_short_and_needs_no_quotes():
    schedule = "schedules.generator.learning_rate=cosine({},2e5)"
    one, other = (folder_of(f"{DCGAN}:mnist", schedule.format(end)) for end in ("1e-5", "1e-6"))
    assert one.startswith("runs/dcgan-mnist-schedules.generator.learning_rate=cosine_1e-5_2e5-") and one != other
    assert folder_of(DCGAN, "data.split=train[:50%]") != folder_of(DCGAN, "data.split=train[50%:]")
    many = [f"{player}.{field}=0.25" for player in ("generator", "discriminator") for field in ("beta1", "beta2")]
    many += ["loss=hinge", "latent.size=64", "seed=1"]
    long = [folder_of(DCGAN, *many, f"penalties.r1={weight}") for weight in (0.5, 0.25)]
    assert len(set(long)) == 2
    for name in (one, *long):
        assert len(name) < 130 and shlex.quote(name) == name
    assert long[0].startswith("runs/dcgan-discriminator.beta1=0.25,discriminator.beta2=0.25,generator.beta1=0.25,")


@pytest.mark.parametrize("page", ["README.md", "docs/options.md", "docs/toys.md", "docs/networks.md"])
def test_the_commands_of_a_page_have_folders_of_their_own(page):
    found = []
    for line in re.findall(r"^python -m gan\.main .*--config=.*", (runs.ROOT / page).read_text(), re.MULTILINE):
        given = dict(word[2:].split("=", 1) for word in shlex.split(line, comments=True)[3:] if "=" in word)
        if "mode" in given:
            continue  # it trains nothing
        changes = [f"{name.removeprefix('config.')}={text}" for name, text in given.items() if name[:7] == "config."]
        found.append(given.get("workdir") or folder_of(given["config"], *changes))
    assert len(set(found)) == len(found) >= 3


def test_a_folder_alone_resumes_its_run(tmp_path):
    folder = tmp_path / "my run"
    runs.begin(folder)
    command = shlex.split(summary.train_longer(4, folder))
    assert command == ["python", "-m", "gan.main", f"--workdir={folder}", "--config.steps=8"]
    flags_of_it = ["--config.generator.learning_rate", "1e-3", "--config.microbatches=2"]
    process = runs.command(*command[3:], *flags_of_it)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0 and "resumed from step 4 of 8" in error, error
    assert shlex.join(["python", "-m", "gan.main", f"--workdir={folder}", "--config.steps=16"]) in error
    left = json.loads((folder / "config.json").read_text())
    assert left["config"]["generator"]["learning_rate"] == 1e-3 and left["config"]["discriminator"]["width"] == 4
    assert [change["field"] for change in left["changes"]] == ["generator.learning_rate", "microbatches"]
    words = flags._with_recorded_config(["", f"--workdir={folder}"])
    assert words == ["", f"--config={recorded.FILE}:{folder}", f"--workdir={folder}"]
    with pytest.raises(UserError, match=rf"--config\.stepz is no field of {folder}/config\.json; nearest: --config.st"):
        flags.parse(["", f"--workdir={folder}", "--config.stepz=3"])
    with pytest.raises(UserError, match="--config is missing; expected: .*; --workdir alone resumes a run, and no"):
        flags.parse(["", "--workdir=nowhere", "--config.steps=3"])


def test_only_runs_are_listed_as_configs():
    assert "dcgan" in loading.shipped() and "default" not in loading.shipped()


def test_a_rejected_launch_leaves_nothing_where_nothing_was(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    (there / "mine.txt").write_text("")
    for folder in (tmp_path / "new" / "deep", there):
        with pytest.raises(UserError, match="is unknown"):
            runs.train(folder, data__name="nothing")
        with pytest.raises(UserError, match="does not divide"):
            runs.train(folder, microbatches=3)
    assert sorted(tmp_path.rglob("*")) == [there, there / "mine.txt"]


def test_a_lock_that_its_holder_removes_is_taken_anew(tmp_path):
    """Between the opening and the locking of the file by another process."""
    folder = tmp_path / "new"
    code = f"""
import fcntl, sys
from pathlib import Path
from gan.io import workdir
flock = fcntl.flock
def later(*arguments):
    fcntl.flock = flock
    print("opened", flush=True)
    sys.stdin.readline()
    flock(*arguments)
fcntl.flock = later
with workdir.lock(Path({str(folder)!r})):
    print(sorted(path.name for path in Path({str(folder)!r}).iterdir()), flush=True)
    sys.stdin.readline()
"""
    with workdir.lock(folder):
        other = subprocess.Popen(
            [sys.executable, "-c", code], cwd=runs.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert other.stdout.readline() == "opened\n"
    assert not folder.exists()
    print(file=other.stdin, flush=True)
    assert other.stdout.readline() == "['.lock']\n"
    with pytest.raises(workdir.InUse, match=f"in use by process {other.pid}"), workdir.lock(folder):
        pass
    other.communicate("\n")
    assert not folder.exists()


def test_the_end_of_a_run_lists_what_is_there(tmp_path, caplog):
    for name in ("samples/1.png", "best/4/state", "training.gif", "losses.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    os.mkdir(tmp_path / "checkpoints")
    with caplog.at_level(logging.INFO, "gan"):
        summary.log_end(4, Path(tmp_path))
    listed = re.findall(r"^  (\S+) {2,}", "\n".join(record.message for record in caplog.records), re.MULTILINE)
    assert listed == ["samples/", "training.gif", "losses.png", "best/"]
