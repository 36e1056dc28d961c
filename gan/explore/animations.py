"""Views that move: a path through the codes, and the run's own samples through training."""

import math
from pathlib import Path

import numpy as np

from gan.errors import UserError
from gan.explore.options import Options, default_name, shown_labels
from gan.game import Uniform
from gan.inference import codes
from gan.inference import interpolation as paths
from gan.inference.model import Model, recorded
from gan.io import animation, plots, sheets
from gan.io.progress import progress

TILES = 9
"""Paths that are shown side by side of a generator without classes; others show one in each class."""
STEPS = 16
"""Frames from one key of a path to the next."""
COLUMNS = 12
"""Images of a path in the strip."""


def interpolation(options: Options, model: Model) -> list[Path]:
    """Closed paths through samples: a strip with one path in each row, and an animation of all of them.

    A path goes through styles where there are any, and else through latents. In each class it is the same.
    """
    form, labels, keys = options.animation(), shown_labels(options, model), options.number(4, lowest=2, highest=100)
    is_conditional = model.game.is_conditional
    tiles = len(labels) if is_conditional else TILES
    latents = model.latents(keys if is_conditional else keys * tiles, seed=options.seed)
    given = options.path or _default_path(model)
    tracks = []
    for tile in range(tiles):
        chosen = latents if is_conditional else latents[tile * keys : (tile + 1) * keys]
        of_keys = np.full(keys, labels[tile] if is_conditional else 0, np.int32)
        points = codes.encode(model, chosen, of_keys)
        tracks.append(np.asarray(paths.path(points, STEPS, kind=given, is_closed=True)))
    frames = np.stack(tracks, axis=1)  # [F, tiles, ...]
    frame_labels = np.tile(np.resize(labels, tiles), len(frames))
    images = codes.draw(model, frames.reshape(-1, *frames.shape[2:]), frame_labels, track=progress)
    images = images.reshape(len(frames), tiles, *images.shape[1:])
    stem = options.stem(default_name(options, model))
    strip, film = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.{form}")
    shown = images[np.arange(COLUMNS) * len(frames) // COLUMNS].swapaxes(0, 1)
    names = [model.class_names[label] for label in labels] if is_conditional else ()
    plots.save_png(strip, sheets.sheet(shown, names), enlarge=False)
    columns = next(count for count in range(math.isqrt(tiles - 1) + 1, tiles + 1) if tiles % count == 0)
    animation.save(film, [plots.grid(frame, columns) for frame in images])
    return [strip, film]


def timelapse(options: Options) -> list[Path]:
    """The samples of the same latents through training, from the image grids that the run has written."""
    recorded(options.folder)  # raises where there is no run
    form = options.animation()
    images = sorted((options.folder / "samples").glob("*.png"))
    stem = options.stem("timelapse")
    path = stem.with_name(f"{stem.name}.{form}")
    if not images or not plots.animate(images, path):
        raise UserError(
            f"{options.folder / 'samples'} holds no image grids that can be read; expected: a run with "
            "config.sample_every above 0"
        )
    return [path]


def _default_path(model: Model) -> str:
    """Cubic in styles; spherical in normal latents; linear in uniform ones, whose cube a spherical path leaves."""
    if model.game.has_styles:
        return "cubic"
    return "linear" if isinstance(model.game.prior, Uniform) else "slerp"
