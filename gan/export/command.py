"""The command `--mode=export`: write the generator of a run as a folder to be shared."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from gan.data import is_point
from gan.errors import UserError
from gan.export import card, onnx, program, web
from gan.inference import exported, sampling
from gan.inference.model import Model, load
from gan.io import atomic, plots, weights, workdir

logger = logging.getLogger(__name__)

FORMATS = ("safetensors", "stablehlo", "onnx", "web")
"""What `--format` selects from. The weights are always written, and the page of "web" needs the graph of "onnx"."""

DEFAULT = ("safetensors", "stablehlo")
"""The formats that need no other package."""

GRID_SAMPLES = 64
"""Samples in the image grid of a generator that is not conditional."""


def export(
    folder: Path,
    out: Path,
    *,
    formats: Sequence[str] = DEFAULT,
    dtype: str | None = None,
    truncation: float | None = None,
    checkpoint: str | None = None,
    step: int | None = None,
) -> None:
    """Writes the EMA generator of a run, with its standing statistics, to the folder `out`, with a model card.

    `config.json`, without which the folder is no export, is written last.

    Args:
      folder: of the run, or of an earlier export; if that is `out`, its formats are kept and these are added.
      out: a new or empty folder, or that of an earlier export, whose files are replaced.
      formats: of `FORMATS`.
      dtype: the type of the stored weights, "float32" or "bfloat16"; None: as in `folder`, float32 in a run. All
        formats have the same weights.
      truncation: of all samples from the export, see `Game.truncated`; None: as in `folder`, none in a run.
      checkpoint: see `load`.
      step: see `load`.

    Raises:
      UserError: no run or checkpoint, an invalid argument, a package that is missing, or a folder that cannot be
        written.
    """
    chosen(formats)
    _check_out(out)
    model = load(folder, checkpoint=checkpoint, step=step)
    source = exported.folder_of(folder)
    earlier = exported.record_of(source)
    if truncation is not None:
        model = model.truncated(truncation)
    elif earlier is not None:
        truncation = earlier.truncation
    dtype = dtype or (earlier.dtype if earlier is not None else "float32")
    model = stored_as(model, dtype)
    kept = earlier.formats if earlier is not None and source.resolve() == out.resolve() else ()
    entry = exported.Export(model.step, dtype, truncation, chosen({*formats, *kept}))
    if "web" in entry.formats:
        web.check(model)
    content = record(source, entry)
    evaluation = card.evaluation_of(_evaluation(source), model.step, truncation)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").unlink(missing_ok=True)
        _write(out, model, entry)
        _remove_stale(out, entry, keep_evaluation=evaluation is not None)
        if evaluation is not None:
            atomic.write_json(out / "evaluation.json", evaluation)
        atomic.write_text(out / "README.md", card.card(model, content, entry, evaluation))
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error
    workdir.write(out, content)
    logger.info("the generator of step %d as %s: %s", model.step, ", ".join(entry.formats), out)


def _remove_stale(out: Path, entry: exported.Export, *, keep_evaluation: bool) -> None:
    """Removes what an earlier export into the folder wrote of another generator, and this one did not replace."""
    for name, path in (("stablehlo", out / program.PROGRAM), ("onnx", out / onnx.FILE)):
        if name not in entry.formats:
            path.unlink(missing_ok=True)
    if "web" not in entry.formats:
        shutil.rmtree(out / "web", ignore_errors=True)
    if not keep_evaluation:
        (out / "evaluation.json").unlink(missing_ok=True)


def chosen(formats: Collection[str]) -> tuple[str, ...]:
    """The formats with those that they need, in order. Raises `UserError` for one that there is not."""
    if unknown := next((name for name in formats if name not in FORMATS), None):
        raise UserError(f"--format={unknown} is unknown; expected: {', '.join(FORMATS)}")
    needed = {*formats, "safetensors", *(("onnx",) if "web" in formats else ())}
    return tuple(name for name in FORMATS if name in needed)


def record(source: Path, entry: exported.Export) -> dict:
    """The `config.json` of an export: that of the run, with the export's entry.

    The folder of the data is left out, a path of the machine that trained the run.
    """
    found = workdir.read(source)
    if found is None:
        raise UserError(f"{source} holds no run")
    config = found["config"] | {"data": found["config"]["data"] | {"dir": ""}}
    return found | {"config": config, "export": dataclasses.asdict(entry)}


def stored_as(model: Model, dtype: str) -> Model:
    """The model with its weights rounded to `dtype`: what is read of weights that were stored in it."""
    if dtype == "float32":
        return model
    return dataclasses.replace(model, ema=jax.tree.map(lambda leaf: leaf.astype(dtype).astype(jnp.float32), model.ema))


def _write(out: Path, model: Model, entry: exported.Export) -> None:
    """Writes the files of the formats, and the image grid."""
    weights.save(out / exported.WEIGHTS, {exported.GENERATOR: model.ema}, dtype=entry.dtype)
    if "stablehlo" in entry.formats:
        program.save(model, out / program.PROGRAM)
    if "onnx" in entry.formats:
        onnx.save(model, out / onnx.FILE)
    if "web" in entry.formats:
        web.save(model, out / onnx.FILE, out / "web", entry.truncation)
    columns = sampling.class_columns(model.game)
    samples = model.sample(8 * columns or GRID_SAMPLES)
    image = (
        plots.draw_points(samples.reshape(-1, 2)) if is_point(model.game.image_shape) else plots.grid(samples, columns)
    )
    plots.save_png(out / card.GRID, image)


def _evaluation(folder: Path) -> dict | None:
    """The content of `evaluation.json`; None where there is none that can be read."""
    try:
        found = json.loads((folder / "evaluation.json").read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _check_out(out: Path) -> None:
    """Raises `UserError` where files that are no export's would be mixed with those of one, or replaced."""
    expected = "expected: a new folder, or that of an earlier export"
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is no folder; {expected}")
    if out.is_dir() and any(out.iterdir()) and exported.record_of(out) is None:
        raise UserError(f"--out={out} is not empty and holds no export; {expected}")
