"""Where a run's metrics and sample images go besides its own files: `config.loggers` names any number of these."""

import importlib.util
import os
import platform
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from gan.errors import UserError, lookup


class Logger(Protocol):
    """A class with these methods; it need not inherit from this one. `LOGGERS` has it by name."""

    package: str
    """The name of the package that it needs."""

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]):
        """The folder of the run, the step that it starts from, and its config as a dictionary."""

    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """Logs the metrics of a step."""

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Logs an image uint8 [H, W, C] of a step."""

    def close(self) -> None:
        """Ends the launch."""


class TensorBoard:
    """One event file in `tensorboard/`. Every call writes at once, so that its errors are raised by the call.

    tensorboardX's own writer uses a thread; after a full disk has ended the thread, the run would wait for it forever.
    The records have the TFRecord format: length uint64, CRC of the length, content, CRC of the content.
    """

    package = "tensorboardX"

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]):
        folder = folder / "tensorboard"
        folder.mkdir(exist_ok=True)
        is_resumed = any(folder.iterdir())
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}"
        self._file = open(folder / name, "wb")  # noqa: SIM115 (open for the length of the run)
        self._write(0, file_version="brain.Event:2")
        if step or is_resumed:  # TensorBoard drops what an earlier launch wrote from this step on
            self._write(step + 1 if step else 0, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the metrics of a step."""
        for name, value in metrics.items():
            self._write(step, summary=summary.scalar(name, value))
        self._file.flush()

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes an image uint8 [H, W, C] of a step."""
        self._write(step, summary=summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, step: int, **content: object) -> None:
        record = Event(step=step, wall_time=time.time(), **content).SerializeToString()
        length = struct.pack("<Q", len(record))
        for part in (length, record):
            self._file.write(part + struct.pack("<I", masked_crc32c(part)))


class Wandb:
    """A run of Weights & Biases, in `wandb/`. Its own environment variables apply, such as WANDB_MODE=offline.

    A resumed run continues the same W&B run. `step` is a metric of its own and the axis of all others: a step that is
    trained again after a crash is logged again, which W&B's own counter does not allow.
    """

    package = "wandb"

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]):
        import wandb  # an extra

        folder.joinpath("wandb").mkdir(exist_ok=True)
        identity = folder / "wandb" / "run_id"
        if not identity.exists():
            identity.write_text(os.urandom(8).hex())
        self._wandb = wandb
        self._run = wandb.init(
            dir=str(folder), id=identity.read_text(), name=folder.name, config=dict(config), resume="allow",
            project=os.environ.get("WANDB_PROJECT", "gan"), settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """Logs the metrics of a step."""
        self._run.log({"step": step} | metrics)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Logs an image uint8 [H, W, C] of a step."""
        self._run.log({"step": step, name: self._wandb.Image(image[..., 0] if image.shape[-1] == 1 else image)})

    def close(self) -> None:
        """Ends the W&B run of this launch."""
        self._run.finish()


LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "wandb": Wandb}
"""The loggers by name."""


def check(names: Iterable[str]) -> None:
    """Raises `UserError` for a logger that there is not, or whose package is not installed."""
    names = list(names)
    if len(set(names)) < len(names):
        raise UserError(f"config.loggers={tuple(names)} names one twice; expected: each once")
    for name in names:
        needed = lookup(LOGGERS, name, "config.loggers").package
        if importlib.util.find_spec(needed) is None:
            raise UserError(f"config.loggers: {name} needs the package {needed}: pip install {needed}")
