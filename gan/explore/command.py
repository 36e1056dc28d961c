"""The command `--mode=explore`: show what a trained generator does, in one of several views."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gan.data import is_point
from gan.errors import UserError, lookup
from gan.explore import animations, app, comparison, grids, projecting
from gan.explore.options import Options
from gan.inference.model import Model, load

logger = logging.getLogger(__name__)

VIEWS: Mapping[str, Callable[[Options, Model], list[Path]]] = {
    "interpolation": animations.interpolation,
    "truncation": grids.truncation,
    "classes": grids.classes,
    "seeds": grids.seeds,
    "mixing": grids.mixing,
    "directions": grids.directions,
    "projection": projecting.projection,
    "neighbors": comparison.neighbors,
    "spectrum": comparison.spectrum,
}
"""The views of a generator by name. `timelapse` needs no generator, only the images of the run."""


def explore(options: Options) -> list[Path]:
    """Writes the files of a view and returns their paths: see docs/explore.md.

    Raises:
      UserError: no run or checkpoint, a view that the generator has not, or an option that the view cannot use.
    """
    if options.view == "timelapse":
        return _log(animations.timelapse(options))
    view: Any = lookup({**VIEWS, "timelapse": None, "app": None}, options.view, "--view")
    model = load(options.folder, checkpoint=options.checkpoint, step=options.step)
    if is_point(model.game.image_shape):
        raise UserError(
            f"--view={options.view} shows images, and {options.folder} generates points in the plane; expected: "
            "--view=timelapse, or --mode=sample"
        )
    if options.view == "app":
        app.serve(model, found=options.directions, method=options.method, port=options.port)
        return []
    if options.truncation is not None:
        model = model.truncated(options.truncation)
    try:
        return _log(view(options, model))
    except OSError as error:
        if error.filename is None:
            raise
        raise UserError(f"{error.filename} cannot be written: {error.strerror}") from error


def _log(paths: list[Path]) -> list[Path]:
    logger.info("%s", "\n".join(map(str, paths)))
    return paths
