"""What `gan.load` reads of an export: `config.json`, with an entry `export`, and `model.safetensors`.

The arrays are the EMA generator as samples are drawn from it, with its standing statistics. Nothing here loads Orbax.
"""

import dataclasses
import math
from pathlib import Path

import jax

from gan import build
from gan.errors import UserError
from gan.io import weights, workdir
from gan.parallel import sharding
from gan.state import GeneratorEMA

WEIGHTS = "model.safetensors"
"""The file of an export that holds the arrays, with keys `generator/params/...` and `generator/batch_stats/...`."""

GENERATOR = "generator"
"""The first part of the keys of the generator's arrays."""


@dataclasses.dataclass(frozen=True)
class Export:
    """The entry `export` of the `config.json` of an export."""

    step: int
    """Of the checkpoint."""
    dtype: str
    """The type that the arrays are stored in."""
    truncation: float | None
    """Of the samples: see `Game.truncated`. None: without."""
    formats: tuple[str, ...]
    """What was exported, besides `config.json`."""


def folder_of(path: Path) -> Path:
    """The folder that holds `config.json`: `path`, or a snapshot in it where it is laid out as the Hugging Face cache.

    There, `refs/main` has the name of the folder in `snapshots` that was downloaded last.
    """
    if path.is_file():
        raise UserError(f"{path} is a file; expected: the folder of a run, or of an export")
    snapshots = path / "snapshots"
    if (path / "config.json").exists() or not snapshots.is_dir():
        return path
    found = sorted(entry.name for entry in snapshots.iterdir() if entry.is_dir())
    reference = path / "refs" / "main"
    name = reference.read_text(errors="replace").strip() if reference.is_file() else "".join(found[:1])
    if name not in found or (not reference.is_file() and len(found) > 1):
        raise UserError(f"{path} does not say which snapshot is its newest; expected: a path {snapshots}/NAME")
    return snapshots / name


def record_of(folder: Path) -> Export | None:
    """The record of the export in `folder`; None where there is a run, or nothing. Raises `UserError` for others."""
    record = workdir.read(folder)
    if record is None or "export" not in record:
        return None
    found = record["export"]
    try:
        export = Export(**found | {"formats": tuple(found["formats"])})
        is_valid = type(export.step) is int and export.step >= 0 and export.dtype in weights.DTYPES
        if not is_valid or not (export.truncation is None or math.isfinite(export.truncation)):
            raise ValueError(f"step {export.step!r}, {export.dtype!r}, truncation {export.truncation!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: its export is not described ({error})") from error
    return export


def read_ema(folder: Path, setup: build.Setup) -> GeneratorEMA:
    """The EMA generator of the export in `folder`, on every device. Raises `UserError` where the file does not fit."""
    read = weights.restore(folder / WEIGHTS, {GENERATOR: setup.shapes.ema})
    return jax.device_put(read[GENERATOR], sharding.replicated(sharding.local_mesh()))
