"""Trains R3GAN's StackedMNIST preset for the remaining time: images per second, and device memory.

The run is trained in this process, so that JAX can report the memory that it used.
"""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.benchmarks import systems
from experiments.on_gpu import runs
from experiments.on_gpu.stage import Stage, StageFailed
from gan.config import schema
from gan.errors import UserError

CONFIG = "configs/r3gan.py:stacked_mnist"
OVERRIDES = ("log_every=5", "sample_every=50", "checkpoint_every=0")
MICROBATCHES = ("auto", "16")
"""The first value that the config allows is used: what fits the device, or 16 of 32 images each, for 80 GB."""

TINY_CONFIG = "configs/r3gan.py"
TINY = ("steps=8", "batch_size=8", "log_every=1", "sample_every=4", "data.image_size=(16, 16)",
        *(f"{field}={value}" for field, value in runs.ON_DIGITS.items()),
        *(f"{player}.{field}" for player in ("generator", "discriminator")
          for field in ("widths=(8, 8)", "blocks=1", "group_width=4")))  # fmt: skip
SAVING_SECONDS = 10.0
"""Time reserved for the checkpoint that a stopped run saves."""

SAMPLING_SECONDS = 2.0
"""How often the record is updated."""


def run(stage: Stage) -> None:
    """Trains until the time is over, and records speed and memory meanwhile."""
    # This process does not share the device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    import jax

    from gan import data
    from gan.cli.logging import set_up_logging
    from gan.parallel import compilation
    from gan.train import loop

    compilation.enable_compilation_cache(data.cache.cache_folder() / "programs")
    set_up_logging()
    config, microbatches = configured(tiny=stage.tiny)
    folder = stage.out / "runs" / stage.name
    runs.remove(folder)
    device = jax.devices()[0]
    stage.note(config=TINY_CONFIG if stage.tiny else CONFIG, device=device.device_kind, batch_size=config.batch_size,
               microbatches=microbatches, jax=jax.__version__)  # fmt: skip
    stage.add(what="training", steps=0)
    signal.signal(signal.SIGTERM, _too_early)  # the run installs its own handler
    is_done = threading.Event()
    watch = threading.Thread(target=_watch, args=(stage, folder, device, config.steps, is_done), daemon=True)
    watch.start()
    try:
        status = loop.train(config, folder, time.monotonic())
    finally:
        is_done.set()
        watch.join()
    row = progress_of(folder, device, config.steps)
    stage.replace_last(**row, status=status, **runs.copy_images(folder, stage.out, stage.name))
    stage.headline(describe(row, config.batch_size, microbatches))
    if status not in (0, runs.STOPPED):
        raise StageFailed(f"training ended with status {status}")
    if row["steps"] < config.steps:
        stage.note(stopped=f"step {row['steps']} of {config.steps}, when the time was over")


def configured(*, tiny: bool) -> tuple[ConfigDict, str]:
    """The preset's config, and its number of microbatches."""
    for microbatches in MICROBATCHES:
        given = ("2" if microbatches.isdecimal() else microbatches) if tiny else microbatches
        try:
            config = systems.load(TINY_CONFIG if tiny else CONFIG, [*OVERRIDES, *(TINY if tiny else ()),
                                                                     f"microbatches={given}"])  # fmt: skip
            schema.check(config)
        except UserError:
            if microbatches == MICROBATCHES[-1]:
                raise
        else:
            return config, given
    raise AssertionError("the last value is returned or raised")


def progress_of(folder: Path, device: Any, steps: int) -> dict[str, Any]:
    """The step of the run, its speed and its device memory."""
    memory = device.memory_stats() or {}  # a CPU has none
    kept = {name: memory[name] for name in ("peak_bytes_in_use", "bytes_in_use", "bytes_limit") if name in memory}
    return {"what": "training", "steps_wanted": steps, **runs.progress(folder), **kept}


def describe(row: dict[str, Any], batch_size: int, microbatches: str) -> str:
    """The line of the summary."""
    peak = f"{row['peak_bytes_in_use'] / 2**30:.1f} GiB at peak" if "peak_bytes_in_use" in row else "memory unknown"
    speed = f"{row['images_per_second']:.0f} images/s" if "images_per_second" in row else "no speed yet"
    return f"batch {batch_size}, microbatches {microbatches}: {row['steps']} steps, {speed}, {peak}"


def _too_early(*_: object) -> None:
    raise StageFailed("the time was over before the first step")


def _watch(stage: Stage, folder: Path, device: Any, steps: int, is_done: threading.Event) -> None:
    """Updates the record until the time is over, then stops the run."""
    reserve = min(SAVING_SECONDS, stage.record["seconds_given"] / 4)
    while not is_done.wait(min(SAMPLING_SECONDS, max(0.1, stage.left() - reserve))):
        stage.replace_last(**progress_of(folder, device, steps))
        if stage.left() < reserve:
            os.kill(os.getpid(), signal.SIGTERM)
            return
