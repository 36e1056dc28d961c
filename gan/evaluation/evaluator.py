"""Evaluators: compute the metrics of a generator's samples against a split of the run's data.

Every metric depends on a protocol: the features, the number of samples, their seed and the reference images. It is
reported by `protocol()` and recorded beside the values.
"""

from gan import data
from gan.evaluation.images import ImageEvaluator
from gan.evaluation.measures import DEVIATION
from gan.evaluation.options import EvaluationOptions
from gan.evaluation.points import PointEvaluator
from gan.evaluation.reference import RealData, open_data
from gan.evaluation.warnings import Metrics

Evaluator = ImageEvaluator | PointEvaluator


def create(options: EvaluationOptions, seed: int, real: RealData | None = None) -> Evaluator:
    """The evaluator for the kind of data that the run is trained on; samples are drawn from `seed`.

    `real` is what `open_data` gives for these options, where it is open already.

    Raises:
      UserError: data that cannot be opened, an unknown extractor, missing weights, or too few reference images.
    """
    real = real or open_data(options)
    kind = PointEvaluator if data.is_point(real.training.image_shape) else ImageEvaluator
    return kind(options, seed, real)


def describe(metrics: Metrics) -> str:
    """The metrics in one line, with their error bars and what makes them meaningless."""
    values = []
    for name, value in metrics.items():
        if not name.endswith(DEVIATION):
            bar = f" ± {metrics[name + DEVIATION]:.2g}" if name + DEVIATION in metrics else ""
            values.append(f"{name} {value:.4g}{bar}")
    return "; WARNING: ".join([", ".join(values), *metrics.warnings])
