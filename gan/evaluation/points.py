"""Metrics of 2-D points, the samples of a generator that is trained on a toy of `gan.data.toys`."""

from typing import Any

import numpy as np

from gan import data
from gan.evaluation import reference, warnings
from gan.evaluation.measures import DEVIATION
from gan.evaluation.options import EvaluationOptions
from gan.evaluation.reference import RealData, evenly_spaced
from gan.evaluation.samples import draw_samples
from gan.evaluation.warnings import Metrics
from gan.game import Game
from gan.metrics import frechet, halves, modes, wasserstein
from gan.state import GeneratorEMA


class PointEvaluator:
    """Computes the sliced Wasserstein distance and, for mixtures of Gaussians, the mode coverage."""

    selection_metric = "sliced_wasserstein"
    """The metric whose smallest value determines the best checkpoint."""

    def __init__(self, options: EvaluationOptions, seed: int, real: RealData):
        self._options, self._seed, self._real = options, seed, real

    def protocol(self) -> dict[str, Any]:
        """How the metrics are computed."""
        protocol = reference.protocol(self._options, self._seed, self._real)
        protocol["sliced_wasserstein"] = "order 1, 256 projections"
        if self._options.error_bars:
            protocol["error_bars"] = halves.described(self._options.error_bars)
        return protocol

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
        mixture = data.MIXTURES.get(self._real.training.name)
        metrics = self._metrics(points, real)
        if self._options.error_bars and len(points) >= warnings.FEW:
            kept = halves.draw(len(points), self._options.error_bars, self._seed)
            values = [self._metrics(points[marks], real[evenly_spaced(len(real), marks.sum())]) for marks in kept]
            for name in list(metrics):
                deviation = halves.deviation(np.array([found[name] for found in values]), len(points))
                metrics[name + DEVIATION] = float(deviation)
        warned = [
            *warnings.of_sets(points, real),
            *warnings.of_spread(frechet.moments(points), frechet.moments(real)),
            *(warnings.of_modes(len(points), len(mixture.shares)) if mixture else ()),
            *(warnings.of_halves(len(points)) if self._options.error_bars else ()),
        ]
        return Metrics(metrics, warned)

    def _metrics(self, points: np.ndarray, real: np.ndarray) -> dict[str, float]:
        distance = wasserstein.sliced_wasserstein(points[: len(real)], real[: len(points)], seed=self._seed)
        metrics = {self.selection_metric: distance}
        if mixture := data.MIXTURES.get(self._real.training.name):
            metrics |= modes.mode_coverage(points, mixture.centers, mixture.std, mixture.shares)
        return metrics

    def nearest_training_images(self, game: Game, ema: GeneratorEMA, pairs: object) -> None:
        """None: the points themselves are plotted during training."""
