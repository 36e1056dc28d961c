"""TensorBoard event files."""

import os
import platform
import struct
import time
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c


class Events:
    """One event file in `folder`. Every call writes at once, so that its errors are raised by the call.

    tensorboardX's own writer uses a thread; after a full disk has ended the thread, the run would wait for it forever.
    The records have the TFRecord format: length uint64, CRC of the length, content, CRC of the content.
    """

    def __init__(self, folder: Path, step: int):
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
