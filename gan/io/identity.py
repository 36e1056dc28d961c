"""The identity of a run in its checkpoints: each holds the record that `config.json` held when it was saved.

Checkpoints that are copied without `config.json` are taken up as the run that they are, and those of another run are
told apart before an array is read. The record is stored with a checksum, so that a changed byte is found. Checkpoints
of before have none.
"""

import json
import zlib
from pathlib import Path
from typing import Any

ITEM = "run"
"""The item of a checkpoint that holds the record."""


def sealed(record: dict) -> dict[str, Any]:
    """The record with its checksum, as it is stored."""
    return {"record": record, "crc32": _checksum(record)}


def opened(content: Any) -> dict:
    """The record in what `sealed` gave. Raises `ValueError` where it is damaged."""
    if not isinstance(content, dict) or _checksum(content.get("record")) != content.get("crc32"):
        raise ValueError("the checksum of the run's record does not match")
    return content["record"]


def steps(checkpoints: Path) -> list[int]:
    """The steps of the checkpoints in a folder, newest first."""
    return sorted((int(path.name) for path in checkpoints.glob("*") if path.name.isdecimal()), reverse=True)


def read(checkpoints: Path, step: int) -> dict | None:
    """The record in the checkpoint of a step; None where there is none that can be read."""
    try:
        return opened(json.loads((checkpoints / str(step) / ITEM / "metadata").read_text()))
    except (OSError, ValueError, RecursionError):
        return None


def _checksum(record: Any) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())
