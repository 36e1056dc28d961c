"""The command `--mode=sample`: write samples of a run as an NPZ file, and an image grid beside it."""

import logging
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gan.data import is_point
from gan.errors import UserError
from gan.game import Game
from gan.inference import directions, sampling
from gan.inference.model import load
from gan.io import atomic, plots
from gan.io.progress import progress
from gan.parallel import sharding

logger = logging.getLogger(__name__)

LARGE_BYTES = 10**8
"""Samples of this size are announced before they are drawn."""


def sample(
    folder: Path,
    *,
    count: int,
    seed: int,
    out: Path | None = None,
    classes: Sequence[str] = (),
    same_latents: bool = False,
    truncation: float | None = None,
    moves: Sequence[str] = (),
    checkpoint: str | None = None,
    step: int | None = None,
) -> None:
    """Writes samples of a trained generator to an NPZ file, and the first of them to a PNG file beside it.

    The NPZ file contains `images` uint8 [N, H, W, C] and, if the generator is conditional, the `labels` int32 [N] that
    it was asked for and `class_names` str [K]. 2-D points are float32 [N, 1, 1, 2] and are plotted.

    Args:
      folder: of the run, or of an export.
      count: number of samples N.
      seed: of the samples.
      out: path of the NPZ file; None: one in the workdir, named by the step and these arguments, `samples_file`.
      classes: names or indices; consecutive samples cycle through them, by default through all classes. The image grid
        has a column for each.
      same_latents: use the same latent for one cycle, so that a row of the grid shows it in each class.
      truncation: see `Game.truncated`.
      moves: "FILE:INDEX*STRENGTH" each, directions in which every sample is moved: see `directions.offset`.
      checkpoint: see `load`.
      step: see `load`.

    Raises:
      UserError: no run or checkpoint, an invalid argument, or a file that cannot be written.
    """
    if not 1 <= count <= sampling.MAX_SAMPLES:
        raise UserError(f"--num_samples={count}; expected: 1 to {sampling.MAX_SAMPLES}")
    if out is not None and out.suffix != ".npz":
        raise UserError(f"--out={out} must end in .npz")
    model = load(folder, checkpoint=checkpoint, step=step)
    labels = model.class_indices(classes)
    _check_memory(count, model.game)
    offset = directions.offset(model, moves) if moves else None
    images = model.sample(
        count,
        seed=seed,
        classes=labels,
        truncation=truncation,
        same_latents=same_latents,
        offset=offset,
        track=progress,
    )
    arrays: dict[str, Any] = {"images": images}
    if model.game.is_conditional:
        arrays["labels"] = np.resize(np.asarray(labels or range(model.game.num_classes), np.int32), count)
        arrays["class_names"] = np.array(model.class_names)
    out = out or folder / samples_file(model.step, count, seed, truncation, labels, same_latents, moves)
    image_path = out.with_suffix(".png")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(out) as tmp, open(tmp, "wb") as file:
            np.savez_compressed(file, **arrays)
        if is_point(model.game.image_shape):
            plots.save_png(image_path, plots.draw_points(arrays["images"].reshape(-1, 2)))
        else:
            columns = sampling.class_columns(model.game, labels)
            plots.save_png(image_path, plots.grid(arrays["images"][: 10 * columns or 100], columns))
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error
    logger.info("%d samples of step %d: %s and %s", count, model.step, out, image_path)


def _check_memory(count: int, game: Game) -> None:
    """Logs how much memory many samples need. Raises `UserError` where this machine has less."""
    one = math.prod(game.image_shape) * np.dtype(sampling.image_dtype(game)).itemsize
    machine, shape = sharding.machine_memory_bytes(), "x".join(map(str, game.image_shape))
    if count * one > machine:
        raise UserError(
            f"--num_samples={count} of {shape} are {count * one / 1e9:.1f} GB, and this machine has "
            f"{machine / 1e9:.1f} GB of memory; expected: at most {machine // one}, or a --seed for each part"
        )
    if count * one >= LARGE_BYTES:
        logger.info("Drawing %s samples of %s: %.1f GB in memory", f"{count:,}", shape, count * one / 1e9)


def samples_file(
    step: int,
    count: int,
    seed: int,
    truncation: float | None,
    labels: Sequence[int],
    same_latents: bool,
    moves: Sequence[str] = (),
) -> str:
    """The name of the NPZ file of samples: one for each step and each choice, so that none overwrites another."""
    is_short = len(labels) <= sampling.MAX_COLUMNS
    shown = "-".join(map(str, labels)) if is_short else f"{zlib.crc32(repr(labels).encode()):08x}"
    parts = [
        f"samples_step{step}_seed{seed}_n{count}",
        *([] if truncation is None else [f"truncation{truncation:g}"]),
        *([f"classes{shown}"] if labels else []),
        *(["same_latents"] if same_latents else []),
        *([f"moved{zlib.crc32(repr(list(moves)).encode()):08x}"] if moves else []),
    ]
    return f"{'_'.join(parts)}.npz"
