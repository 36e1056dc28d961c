"""R3GAN's StackedMNIST preset for the time that is left: images a second, and the memory of the device.

The run is trained in this process, so that JAX can be asked for the memory that it used.
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
"""The first that a config takes: what fits the device, or parts of 32 of its 512 images, for 80 GB."""

TINY_CONFIG = "configs/r3gan.py"
TINY = ("steps=8", "batch_size=8", "log_every=1", "sample_every=4", "data.image_size=(16, 16)",
        *(f"{field}={value}" for field, value in runs.ON_DIGITS.items()),
        *(f"{player}.{field}" for player in ("generator", "discriminator")
          for field in ("widths=(8, 8)", "blocks=1", "group_width=4")))  # fmt: skip
SAVING_SECONDS = 10.0
"""Kept for the checkpoint that a stopped run saves."""

SAMPLING_SECONDS = 2.0
"""How often the record is brought up to date."""


def run(stage: Stage) -> None:
    """Trains until the time is over, and records speed and memory while it does."""
    # This process has the device for itself.
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
    signal.signal(signal.SIGTERM, _too_early)  # the run itself takes over once it can be stopped
    is_done = threading.Event()
    watch = threading.Thread(target=_watch, args=(stage, folder, device, config.steps, is_done), daemon=True)
    watch.start()
    try:
        status = loop.train(config, folder, time.monotonic())
    finally:
        is_done.set()
        watch.join()
    row = reached(folder, device, config.steps)
    stage.replace_last(**row, status=status, **runs.copy_pictures(folder, stage.out, stage.name))
    stage.headline(describe(row, config.batch_size, microbatches))
    if status not in (0, runs.STOPPED):
        raise StageFailed(f"training ended with status {status}")
    if row["steps"] < config.steps:
        stage.note(stopped=f"step {row['steps']} of {config.steps}, when the time was over")


def configured(*, tiny: bool) -> tuple[ConfigDict, str]:
    """The preset's config, and the microbatches that it was given."""
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
    raise AssertionError("the last is returned or raised")


def reached(folder: Path, device: Any, steps: int) -> dict[str, Any]:
    """How far the run is, how fast, and what it holds of the device's memory."""
    memory = device.memory_stats() or {}  # a CPU has none
    kept = {name: memory[name] for name in ("peak_bytes_in_use", "bytes_in_use", "bytes_limit") if name in memory}
    return {"what": "training", "steps_wanted": steps, **runs.progress(folder), **kept}


def describe(row: dict[str, Any], batch_size: int, microbatches: str) -> str:
    """The line of the summary."""
    peak = f"{row['peak_bytes_in_use'] / 2**30:.1f} GiB at most" if "peak_bytes_in_use" in row else "memory unknown"
    speed = f"{row['images_per_second']:.0f} images/s" if "images_per_second" in row else "no speed yet"
    return f"batch {batch_size}, microbatches {microbatches}: {row['steps']} steps, {speed}, {peak}"


def _too_early(*_: object) -> None:
    raise StageFailed("the time was over before the first step")


def _watch(stage: Stage, folder: Path, device: Any, steps: int, is_done: threading.Event) -> None:
    """Brings the record up to date until the time is over, then asks the run to stop."""
    reserve = min(SAVING_SECONDS, stage.record["seconds_given"] / 4)
    while not is_done.wait(min(SAMPLING_SECONDS, max(0.1, stage.left() - reserve))):
        stage.replace_last(**reached(folder, device, steps))
        if stage.left() < reserve:
            os.kill(os.getpid(), signal.SIGTERM)
            return
