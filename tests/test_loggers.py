"""gan.io.loggers: every logger gets the same numbers and images, and a missing package is one line at the start."""

import subprocess
import sys

import pytest
import runs

from gan.errors import UserError
from gan.io import loggers, writer

METRICS = {"discriminator_loss": 1.0, "generator_loss": 2.0, "images_per_second": 3.0, "seconds_per_step": 0.1,
           "share_waiting_for_data": 0.0}  # fmt: skip


class Recording:
    package = "json"

    def __init__(self, folder, step, config):
        self.calls = [("init", folder, step, config)]
        Recording.last = self

    def scalars(self, step, metrics):
        self.calls.append((step, metrics))

    def image(self, step, name, image):
        self.calls.append((step, name, image.shape))

    def close(self):
        self.calls.append("closed")


def test_a_logger_of_ones_own_gets_everything_that_the_run_writes(tmp_path, monkeypatch):
    monkeypatch.setitem(loggers.LOGGERS, "recording", Recording)
    runs.train(tmp_path, steps=8, sample_every=8, loggers=("recording",))
    calls = Recording.last.calls
    name, folder, step, config = calls[0]
    assert (name, folder, step, config["batch_size"]) == ("init", tmp_path, 0, 8)
    lines = {line.pop("step"): line for line in runs.logged(tmp_path)}
    assert dict(call for call in calls if len(call) == 2) == lines
    # 64 samples of 8x8 pixels, eight a row, with lines of one pixel between them: 8 * 9 + 1 = 73.
    assert [call for call in calls if len(call) == 3] == [(0, "samples", (73, 73, 1)), (8, "samples", (73, 73, 1))]
    assert calls[-1] == "closed"
    assert not (tmp_path / "tensorboard").exists()


def test_loggers_are_checked_before_anything_is_done(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="config.loggers='wandbb' is unknown; nearest: 'wandb'"):
        runs.train(tmp_path / "run", loggers=("wandbb",))
    monkeypatch.setattr(loggers.Wandb, "package", "no_such_package")
    with pytest.raises(UserError, match=r"needs the package no_such_package: pip install no_such_package"):
        runs.train(tmp_path / "run", loggers=("tensorboard", "wandb"))
    assert not (tmp_path / "run").exists()


def test_every_logger_is_closed_where_one_fails(tmp_path, monkeypatch):
    class Failing(Recording):
        def close(self):
            raise OSError("full")

    monkeypatch.setitem(loggers.LOGGERS, "recording", Recording)
    monkeypatch.setitem(loggers.LOGGERS, "failing", Failing)
    report = writer.RunWriter(tmp_path, step=0, total=4, loggers=("recording", "failing"))
    (recording,) = [each for each in report._loggers if type(each) is Recording]
    report.metrics(4, METRICS)
    with pytest.raises(OSError, match="full"):
        report.close()
    assert recording.calls[-1] == "closed"


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path):
    pytest.importorskip("wandb")
    program = (
        "import sys, json, numpy as np; from pathlib import Path; from gan.io import loggers\n"
        "for step in (0, 4):\n"
        "    log = loggers.Wandb(Path(sys.argv[1]), step, {'seed': 3})\n"
        "    log.scalars(step + 2, {'loss': 0.25 + step})\n"
        "    log.image(step + 4, 'samples', np.zeros((9, 9, 1), np.uint8))\n"
        "    log.close()\n"
    )
    environment = {"WANDB_MODE": "offline", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, cwd=runs.ROOT, check=True)
    launches = sorted((tmp_path / "wandb").glob("offline-run-*"))
    identity = (tmp_path / "wandb" / "run_id").read_text()
    assert len(launches) == 2 and all(folder.name.endswith(identity) for folder in launches)
    assert list(tmp_path.rglob("media/images/samples*.png"))
    first, second = (next(folder.glob("*.wandb")).read_bytes() for folder in launches)  # protocol buffers, as text
    assert b"loss" in first and b"0.25" in first and b"4.25" not in first
    assert b"4.25" in second
