"""The view `projection`: the code of an image file."""

import logging
from pathlib import Path

import numpy as np

from gan.data import image_files, pixels
from gan.errors import UserError
from gan.explore import comparison
from gan.explore.options import Options, default_name
from gan.inference import projection as projections
from gan.inference.model import Model
from gan.io import animation, plots, sheets
from gan.io.atomic import replacing
from gan.io.progress import progress

logger = logging.getLogger(__name__)

TILE = 160
"""Pixels of an image in the sheet, at least."""


def projection(options: Options, model: Model) -> list[Path]:
    """The image, the nearest sample and the projection side by side; the code as an NPZ file; the optimization."""
    form, target = options.animation(), read_image(options.image, model)
    features = comparison.differentiable(options, model) if options.extractor else None
    labels = model.class_indices(options.classes)
    if labels and not model.game.is_conditional:
        raise UserError(f"--classes needs a conditional generator; that of {model.source} is unconditional")
    stem = options.stem(default_name(options, model))
    found = projections.project(model, target, labels=labels, seed=options.seed, features=features, track=progress)
    sheet_path, code_path, film = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "npz", form))
    of_class = f", class {model.class_names[found.label]}" if model.game.is_conditional else ""
    logger.info("PSNR %.1f dB of the nearest sample, %.1f dB projected%s", found.start_psnr, found.psnr, of_class)
    names = ["image", f"start {found.start_psnr:.1f} dB", f"found {found.psnr:.1f} dB"]
    tiles = np.stack([target, found.steps[0], found.image])[None]
    plots.save_png(sheet_path, sheets.sheet(tiles, (), names, tile=TILE), enlarge=False)
    with replacing(code_path) as tmp, open(tmp, "wb") as file:
        np.savez_compressed(
            file, code=found.code, label=np.int32(found.label), psnr=found.psnr, start_psnr=found.start_psnr,
            image=found.image, target=target,
        )  # fmt: skip
    animation.save(film, [plots.grid(np.stack([target, image]), 2) for image in found.steps], hold=2.0)
    return [sheet_path, code_path, film]


def read_image(path: Path | None, model: Model) -> np.ndarray:
    """An image file as the model's images are: uint8 [H, W, C], gray or color.

    Raises `UserError` for a file that is no image, or whose size is not that of the run's images.
    """
    if path is None:
        raise UserError("--view=projection needs --image=FILE, the image to project")
    height, width, channels = model.game.image_shape
    try:
        image = pixels.to_array(pixels.to_gray_or_rgb(pixels.open_image(path)), channels)
    except Exception as error:  # PIL raises many kinds
        raise UserError(f"--image={path} cannot be read as an image: {image_files.reason(error)}") from error
    if image.shape[:2] != (height, width):
        raise UserError(
            f"--image={path} has {image.shape[1]}x{image.shape[0]} pixels (width x height), and images of "
            f"{model.source} have {width}x{height}; expected: an image of that size"
        )
    return image
