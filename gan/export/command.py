"""The command `--mode=export`: write the generator of a run as a folder to be shared."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from gan.errors import UserError
from gan.inference import exported
from gan.inference.model import Model, load
from gan.io import weights, workdir

logger = logging.getLogger(__name__)

FORMATS = ("safetensors",)
"""What `--format` selects from. The weights are always written."""


def export(
    folder: Path,
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    dtype: str = "float32",
    truncation: float | None = None,
    checkpoint: str | None = None,
    step: int | None = None,
) -> None:
    """Writes the EMA generator of a run, with its standing statistics, to the folder `out`.

    `config.json`, without which the folder is no export, is written last.

    Args:
      folder: of the run, or of an earlier export.
      out: a new or empty folder, or that of an earlier export, whose files are replaced.
      formats: of `FORMATS`.
      dtype: the type of the stored weights, "float32" or "bfloat16". All formats have the same weights.
      truncation: of all samples from the export, see `Game.truncated`.
      checkpoint: see `load`.
      step: see `load`.

    Raises:
      UserError: no run or checkpoint, an invalid argument, or a folder that cannot be written.
    """
    _check_out(out)
    model = stored_as(load(folder, checkpoint=checkpoint, step=step), dtype)
    if truncation is not None:
        model = model.truncated(truncation)
    elif (earlier := exported.record_of(exported.folder_of(folder))) is not None:
        truncation = earlier.truncation
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").unlink(missing_ok=True)
        weights.save(out / exported.WEIGHTS, {exported.GENERATOR: model.ema}, dtype=dtype)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error
    entry = exported.Export(model.step, dtype, truncation, tuple(formats))
    workdir.write(out, record(folder, entry))
    logger.info("the generator of step %d: %s", model.step, out)


def record(folder: Path, entry: exported.Export) -> dict:
    """The `config.json` of an export: that of the run, with the export's entry.

    The folder of the data is left out, a path of the machine that trained the run.
    """
    found = workdir.read(exported.folder_of(folder))
    config = found["config"] | {"data": found["config"]["data"] | {"dir": ""}}
    return found | {"config": config, "export": dataclasses.asdict(entry)}


def stored_as(model: Model, dtype: str) -> Model:
    """The model with its weights rounded to `dtype`: what is read of weights that were stored in it."""
    if dtype == "float32":
        return model
    return dataclasses.replace(model, ema=jax.tree.map(lambda leaf: leaf.astype(dtype).astype(jnp.float32), model.ema))


def _check_out(out: Path) -> None:
    """Raises `UserError` where files that are no export's would be mixed with those of one, or replaced."""
    expected = "expected: a new folder, or that of an earlier export"
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is no folder; {expected}")
    if out.is_dir() and any(out.iterdir()) and exported.record_of(out) is None:
        raise UserError(f"--out={out} is not empty and holds no export; {expected}")
