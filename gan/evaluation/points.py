"""Metrics of 2-D points, the samples of a generator that is trained on a toy of `gan.data.toys`."""

from typing import Any

import numpy as np

from gan import data
from gan.evaluation import reference, warnings
from gan.evaluation.options import EvaluationOptions
from gan.evaluation.reference import RealData, evenly_spaced
from gan.evaluation.samples import draw_samples
from gan.evaluation.warnings import Metrics
from gan.game import Game
from gan.metrics import frechet, modes, wasserstein
from gan.state import GeneratorEMA


class PointEvaluator:
    """Computes the sliced Wasserstein distance and, for mixtures of Gaussians, the mode coverage."""

    selection_metric = "sliced_wasserstein"
    """The metric whose smallest value determines the best checkpoint."""

    def __init__(self, options: EvaluationOptions, seed: int, real: RealData):
        self._options, self._seed, self._real = options, seed, real

    def protocol(self) -> dict[str, Any]:
        """How the metrics are computed."""
        return reference.protocol(self._options, self._seed, self._real) | {
            "sliced_wasserstein": "order 1, 256 projections"
        }

    def real_baseline(self) -> Metrics:
        """The metrics of real training points, as many as samples: what a perfect generator would have."""
        rows = evenly_spaced(len(self._real.training), self._options.num_samples)
        return self.compute_from_images(*self._real.training.read(rows))

    def compute(self, game: Game, ema: GeneratorEMA) -> Metrics:
        """The metrics of samples from the EMA generator."""
        batches = list(draw_samples(game, ema, self._real.training, seed=self._seed, count=self._options.num_samples))
        return self.compute_from_images(*(np.concatenate([batch[k] for batch in batches]) for k in ("image", "label")))

    def compute_from_images(self, images: np.ndarray, labels: np.ndarray) -> Metrics:
        """The metrics of any points, given as images float32 [N, 1, 1, 2]. Their labels int32 [N] are not used."""
        points = images.reshape(len(images), -1)
        rows = evenly_spaced(len(self._real.reference), len(points))
        real = self._real.reference.read(rows)[0].reshape(-1, points.shape[1])
        metrics = {self.selection_metric: wasserstein.sliced_wasserstein(points[: len(real)], real, seed=self._seed)}
        warned: tuple[str, ...] = ()
        if mixture := data.MIXTURES.get(self._real.training.name):
            metrics |= modes.mode_coverage(points, mixture.centers, mixture.std, mixture.shares)
            warned = tuple(warnings.of_modes(len(points), len(mixture.shares)))
        spread = warnings.of_spread(frechet.moments(points), frechet.moments(real))
        return Metrics(metrics, (*warnings.of_sets(points, real), *spread, *warned))

    def nearest_training_images(self, game: Game, ema: GeneratorEMA, pairs: None) -> None:
        """None: the points themselves are plotted during training."""
