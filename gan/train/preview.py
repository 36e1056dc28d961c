"""What a run shows of its generator while it trains: a grid of images, or points in the plane. Chosen once, by `of`."""

import numpy as np

from gan import data, state
from gan.build import Setup
from gan.inference import sampling
from gan.io import plots, writer
from gan.parallel import processes, sharding

GRID = 64
"""Samples in a grid of images."""

CLOUD = 1000
"""Samples in a plot of points."""


class ImagePreview:
    """The same latents at every step, as a grid of images."""

    def __init__(self, setup: Setup):
        self._setup = setup
        columns = sampling.class_columns(setup.game)
        self._columns, self._count = columns, GRID // max(columns, 1) * max(columns, 1)

    def draw(self, step: int, state: state.TrainState, report: writer.RunWriter | None) -> np.ndarray | None:
        """Writes the grid of a step; the samples, or None where another process draws them."""
        ema = sharding.gather_to_process(state.ema)
        if report is None or not processes.is_primary():
            return None
        images = sampling.preview(self._setup, ema, self._count)
        report.samples(step, images, self._columns)
        return images


class PointPreview:
    """Generated points beside real ones, on a map of the discriminator's logits and of the generator's gradients."""

    def __init__(self, setup: Setup, real: np.ndarray):
        self._setup, self._real = setup, real
        self._plane = plots.plane(real.reshape(-1, 2))

    def draw(self, step: int, state: state.TrainState, report: writer.RunWriter | None) -> np.ndarray | None:
        """Writes the plot of a step; the samples, or None where another process draws them."""
        ema, discriminator = sharding.gather_to_process((state.ema, state.discriminator))
        if report is None or not processes.is_primary():
            return None
        game, plane, shape = self._setup.game, self._plane, self._plane.shape
        samples = sampling.preview(self._setup, ema, CLOUD)
        points = plane.reshape(-1, *game.image_shape)
        logits, descent = sampling.landscape(game, discriminator, points, self._real)
        landscape = plots.Landscape(plane, np.reshape(logits, shape[:2]), np.reshape(descent, shape))
        report.points(step, samples.reshape(-1, 2), self._real.reshape(-1, 2), landscape)
        return samples


def of(setup: Setup, real: np.ndarray) -> ImagePreview | PointPreview:
    """The preview of a run, beside these real images or points: see `real_examples`."""
    return PointPreview(setup, real) if data.is_point(setup.game.image_shape) else ImagePreview(setup)


def real_examples(dataset: data.AnyDataset) -> np.ndarray:
    """The first images or points of a dataset, as many as a preview shows."""
    count = CLOUD if data.is_point(dataset.image_shape) else GRID
    return dataset.read(np.arange(min(count, len(dataset))))[0]
