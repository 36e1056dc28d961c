"""Small real runs: a DCGAN on 8x8 digits, in this process or as a process of its own."""

import dataclasses
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from gan import build
from gan.io import checkpoint, workdir
from gan.parallel import compilation
from gan.train import loop

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
    "ema_halflife": 100.0,
}


def config(**overrides):
    """The small run's config; `data__name` stands for data.name."""
    from configs import dcgan

    changed = dcgan.get_config("digits")
    changes = SMALL | {name.replace("__", "."): value for name, value in overrides.items()}
    changed.update_from_flattened_dict(changes)
    return changed


def train(folder, **overrides):
    """Trains the small run in this process, by the program of an earlier run in it that has the same step."""
    with mock.patch.object(loop, "compile_setup", _compiled_once):
        return loop.train(config(**overrides), Path(folder), time.monotonic())


COMPILE_SETUP = loop.compile_setup
PROGRAMS = {}
"""Tracing and lowering take most of the time of a small run, and most of them have the same step."""


def _compiled_once(setup, shapes, source, mesh):
    made, options = COMPILE_SETUP(setup, shapes, source, mesh), setup.options
    if not isinstance(made, compilation.Dispatch):
        return made
    schedules = tuple((field, schedule.args) for field, schedule in setup.schedules.schedules.items())
    step = (setup.game, schedules, type(source), options.batch_size, options.mirror, options.shard_state, mesh)
    return dataclasses.replace(made, function=PROGRAMS.setdefault(step, made.function))


def begin(folder):
    """Four steps of the small run, as `train(folder, steps=4)` leaves them: trained once in a process, and copied."""
    shutil.copytree(_four_steps(), folder, dirs_exist_ok=True)


@functools.cache
def _four_steps():
    folder = tempfile.mkdtemp(dir=os.environ["GAN_TEST_FOLDER"])
    assert train(folder, steps=4) == 0
    return folder


def save(folder, config, *, image_shape, class_names=(), step=2):
    """Writes the folder of a run whose networks have random weights: what `gan.load` reads, without the training.

    Noise is added to every parameter and statistic, so that none has the effect of its initial value.
    """
    setup = build.setup(config, image_shape=image_shape, num_classes=len(class_names))
    leaves, structure = jax.tree.flatten(setup.initial_state())
    noise = np.random.default_rng(0)

    def changed(leaf):
        return leaf + 0.05 * noise.random(leaf.shape, np.float32) if leaf.dtype == np.float32 else leaf

    state = jax.tree.unflatten(structure, [changed(leaf) for leaf in leaves]).replace(step=jnp.int32(step))
    dataset = {"name": "made", "split": "train", "fingerprint": "0", "examples": 0}
    dataset |= {"image_shape": list(image_shape), "class_names": list(class_names)}
    Path(folder).mkdir(parents=True, exist_ok=True)
    workdir.write(Path(folder), {"config": config.to_dict(), "dataset": dataset})
    with checkpoint.open_manager(Path(folder) / "checkpoints") as manager:
        checkpoint.save(manager, step, state)
        manager.wait_until_finished()


def start(folder, **overrides):
    """Starts the small run as a process of its own, on one device."""
    return command(*flags(folder, overrides))


def start_together(folder, processes, *, devices=1, **overrides):
    """Starts the small run as several processes that each have so many devices."""
    meet = [f"--coordinator=localhost:{free_port()}", f"--num_processes={processes}"]
    return [
        command(*flags(folder, overrides), *meet, f"--process_id={index}", devices=devices)
        for index in range(processes)
    ]


def free_port():
    """A port of this machine that nothing listens on."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def flags(folder, overrides):
    """Of the small run."""
    changes = SMALL | {name.replace("__", "."): value for name, value in overrides.items()}
    changes = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value for name, value in changes.items()
    }
    return ["--config=configs/dcgan.py:digits", f"--workdir={folder}"] + [
        f"--config.{name}={value}" for name, value in changes.items()
    ]


def command(*arguments, devices=1, **variables):
    """Starts `python -m gan.main` with these flags, and these variables in its environment."""
    xla = f"{os.environ['GAN_TEST_XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": xla, "PYTHONUNBUFFERED": "1"} | variables
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
