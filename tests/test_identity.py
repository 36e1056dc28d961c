"""gan.io.identity: a checkpoint says which run it is of, and no run goes on from another one's."""

import json
import shutil

import pytest
import runs

import gan
from gan.errors import UserError
from gan.io import identity, workdir


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 8 steps that went on to 12 with another learning rate."""
    folder = tmp_path_factory.mktemp("whole")
    runs.train(folder, steps=8)
    runs.train(folder, steps=12, generator__learning_rate=1e-4)
    return folder


@pytest.fixture
def copied(whole, tmp_path):
    """Its checkpoints alone, without its config.json."""
    shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


def record(folder):
    return json.loads((folder / "config.json").read_text())


def steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def without_identity(folder):
    """As checkpoints were before they had it."""
    for path in (folder / "checkpoints").glob(f"*/{identity.ITEM}"):
        shutil.rmtree(path)


def test_a_checkpoint_holds_the_record_of_its_run(whole):
    checkpoints = whole / "checkpoints"
    assert identity.steps(checkpoints) == [12, 8, 4]
    assert identity.read(checkpoints, 12) == record(whole)
    assert identity.read(checkpoints, 8)["config"]["generator"]["learning_rate"] == 2e-4


def test_only_the_records_of_the_checkpoints_that_are_read_are_read(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    read, found = identity.read, []
    monkeypatch.setattr(identity, "read", lambda checkpoints, step: found.append(step) or read(checkpoints, step))
    assert gan.load(tmp_path).step == 12
    assert gan.load(tmp_path, step=8).step == 8
    assert found == [12, 8]
    shutil.rmtree(tmp_path / "checkpoints/12/ema")  # the next newest is taken
    assert gan.load(tmp_path).step == 8
    assert found == [12, 8, 12, 8]


def test_checkpoints_without_their_config_are_taken_up_as_the_run_that_they_are(copied, whole, caplog):
    assert gan.load(copied).step == 12
    assert runs.train(copied, steps=16, generator__learning_rate=1e-4) == 0
    assert "is missing: the run is taken up from the record in its checkpoints" in caplog.text
    assert record(copied)["changes"] == record(whole)["changes"]
    shutil.copytree(whole, copied / "undisturbed")
    runs.train(copied / "undisturbed", steps=16, generator__learning_rate=1e-4)
    assert runs.final_digests(copied) == runs.final_digests(copied / "undisturbed")


@pytest.mark.parametrize(
    "other, line",
    [
        ({"seed": 1}, r"config\.seed: 0 -> 1"),
        ({"data__image_size": (16, 16)}, r"config\.data\.image_size: \[8, 8\] -> \[16, 16\]"),
        ({"data__split": "train[:900]"}, r"config\.data\.split: 'train' -> 'train\[:900\]'"),
        ({"loss": "hinge"}, r"config\.loss"),
    ],
)
def test_checkpoints_without_their_config_are_no_other_run(copied, other, line, caplog):
    with pytest.raises(UserError, match=line):
        runs.train(copied, **{"steps": 16, "generator__learning_rate": 1e-4} | other)
    assert not (copied / "config.json").exists()
    assert "changed" not in caplog.text  # what is rejected is not announced as done


def test_checkpoints_of_another_run_beside_a_config_are_rejected(whole, tmp_path):
    runs.train(tmp_path, steps=4, seed=1)
    shutil.copytree(whole / "checkpoints/8", tmp_path / "checkpoints/8")
    for use in (lambda: runs.train(tmp_path, steps=16, seed=1), lambda: gan.load(tmp_path)):
        with pytest.raises(UserError, match=r"checkpoints/8 is of another run than .*: config\.seed: 0, not 1\. Move"):
            use()
    # A run that differs in a learning rate alone is another run, too: this one never had the other's.
    other = tmp_path / "other"
    runs.begin(other)
    shutil.copytree(whole / "checkpoints/12", other / "checkpoints/12")
    with pytest.raises(UserError, match=r"checkpoints/12 is of another run .*learning_rate: 0\.0001, not 0\.0002"):
        runs.train(other, steps=16)
    shutil.copytree(whole / "checkpoints/8", other / "checkpoints/8")
    shutil.rmtree(other / "checkpoints/12")
    runs.train(other, steps=12)  # before its change the run was the same


def test_checkpoints_of_before_are_read_beside_their_config_and_not_without(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    without_identity(tmp_path)
    assert runs.train(tmp_path, steps=16, generator__learning_rate=1e-4) == 0
    (tmp_path / "config.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints/16")
    for use in (lambda: runs.train(tmp_path, steps=20), lambda: gan.load(tmp_path)):
        with pytest.raises(UserError, match=r"config\.json is missing, and the checkpoints beside it do not say"):
            use()


def test_a_damaged_identity_is_a_damaged_checkpoint(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "checkpoints/12" / identity.ITEM / "metadata"
    text = path.read_text()
    assert '"seed": 0' in text
    path.write_text(text.replace('"seed": 0', '"seed": 1'))
    assert gan.load(tmp_path).step == 8
    runs.train(tmp_path, steps=16, generator__learning_rate=1e-4)
    assert (tmp_path / "damaged_checkpoints/12").is_dir()
    assert steps(tmp_path) == [8, 12, 16]


def test_what_changes_memory_alone_may_change_and_what_is_rejected_is_not_logged(caplog):
    found = {"config": {"microbatches": 1, "generator": {"remat": False}, "seed": 0, "steps": 4}, "dataset": DATASET}
    changed = {"microbatches": 2, "generator": {"remat": True}, "seed": 0, "steps": 8}
    with caplog.at_level("INFO", "gan"):
        changes = workdir.continue_with("x", found, changed, DATASET)
        assert [change["field"] for change in changes] == ["generator.remat", "microbatches"]
        assert "changed: config.steps: 4 -> 8" in caplog.text
        caplog.clear()
        for rejected, data in ((changed | {"seed": 1}, DATASET), (changed, DATASET | {"fingerprint": "2"})):
            with pytest.raises(UserError):
                workdir.continue_with("x", found, rejected, data)
    assert not caplog.text


DATASET = {"name": "digits", "fingerprint": "1"}
