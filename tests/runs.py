"""Small real runs: a DCGAN on 8x8 digits, in this process or as a process of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from gan import checkpoint, loop

ROOT = Path(__file__).parent.parent
SMALL = {
    "generator.width": 4,
    "discriminator.width": 4,
    "generator.learning_rate": 2e-4,
    "discriminator.learning_rate": 2e-4,
    "data.image_size": (8, 8),
    "batch_size": 8,
    "steps": 12,
    "log_every": 4,
    "sample_every": 0,
    "checkpoint_every": 4,
    "average_halflife": 100.0,
}


def config(**overrides):
    """The small run's config; `data__name` stands for data.name."""
    from configs import dcgan

    changed = dcgan.get_config()
    changes = SMALL | {name.replace("__", "."): value for name, value in overrides.items()}
    changed.update_from_flattened_dict(changes)
    return changed


def train(folder, **overrides):
    """Trains the small run in this process."""
    return loop.train(config(**overrides), Path(folder), time.monotonic())


def start(folder, **overrides):
    """Starts the small run as a process of its own, on one device."""
    changes = SMALL | {name.replace("__", "."): value for name, value in overrides.items()}
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    return command("--config=configs/dcgan.py", f"--workdir={folder}", *flags)


def command(*arguments):
    """Starts `python -m gan.main` with these flags."""
    environment = os.environ | {"XLA_FLAGS": os.environ["GAN_TEST_XLA_FLAGS"], "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "gan.main", *map(str, arguments)],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def final_digests(folder):
    """The step of a run's newest checkpoint and the CRC-32 of every array in it: equal only for equal bits."""
    with checkpoint.open_manager(Path(folder) / "checkpoints", read_only=True) as manager:
        step = manager.latest_step()
    return step, json.loads((Path(folder) / "checkpoints" / str(step) / "digests" / "metadata").read_text())


def logged(folder):
    """The lines of `metrics.jsonl`."""
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
