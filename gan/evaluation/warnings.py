"""What makes the metrics of a set of samples meaningless: too few samples, copies, no variation."""

import math
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from gan.evaluation.memorization import Pairs
from gan.metrics import frechet, frechet_infinity
from gan.metrics.frechet import Moments, Vectors

FEW = 100
"""Below so many samples the balls around neighbors span most of the data, and a split of ten has less than ten."""
SPLITS = 10
"""Parts of the inception score."""
SMALLEST_SPREAD = 0.05
"""The least variance of samples, as a part of that of real images, of which precision says something."""
MOST_COPIES = 0.1
"""The largest share of samples that may equal others."""
WITHOUT_DIVERSITY = 0.05
"""Recall and coverage below which a high precision is that of a collapsed generator."""

TIMES_EXPECTED = 3
"""A share of near copies this many times that of held-out images is one that new images do not have. Samples that avoid
rare kinds of images are nearer to training images than held-out ones without being copies, which no metric of distances
tells from copying (Stein et al. 2023, arXiv:2306.04675)."""
DEVIATIONS = 4
"""Standard deviations of a share that may be chance: both shares are of a finite number of images."""


class Metrics(dict[str, float]):
    """{name: value} of each metric, one line for each reason why values have no meaning, and the nearest pairs."""

    def __init__(self, values: Mapping[str, float], warnings: Collection[str] = (), pairs: Pairs | None = None):
        super().__init__({name: float(value) for name, value in values.items()})
        self.warnings = tuple(warnings)
        self.pairs = pairs


def of_sets(samples: np.ndarray, real: np.ndarray) -> Iterator[str]:
    """Warnings on samples [N, D] and real examples [M, D]: few, copies, or without variation."""
    for name, vectors in (("samples", samples), ("reference examples", real)):
        if len(vectors) < FEW:
            yield (
                f"{len(vectors)} {name} are too few: metrics of neighbors (recall above all), scores and modes depend "
                f"on their number; expected: {FEW} or more"
            )
        distinct = len({hash(row.tobytes()) for row in vectors})  # not the bytes, a second copy of all vectors
        if distinct < (1 - MOST_COPIES) * len(vectors):
            yield f"{len(vectors)} {name}, {distinct} of them distinct: metrics of neighbors have no meaning for copies"


def of_spread(samples: Moments | Vectors, real: Moments | Vectors) -> Iterator[str]:
    """A warning where samples hardly vary."""
    variances = [side.variation / max(side.count, 1) for side in (samples, real)]
    if variances[0] < SMALLEST_SPREAD * variances[1]:
        yield (
            f"the samples hardly vary ({100 * variances[0] / variances[1]:.2g}% of the variance of real examples): a "
            f"collapsed generator, of which precision and density have no meaning"
        )


def of_moments(samples: Moments | Vectors, real: Moments | Vectors) -> Iterator[str]:
    """A warning where a covariance of the Frechet distance is singular."""
    if warning := frechet.rank_warning(min(samples.count, real.count), samples.dimension):
        yield f"Frechet distance: {warning}"


def of_infinity(count: int, dimension: int) -> Iterator[str]:
    """A warning where the samples are too few for the distance of their parts to be linear in 1 / N."""
    if count < frechet_infinity.LEAST_PER_DIMENSION * dimension:
        yield (
            f"infinity_fd: {count} samples for {dimension} features, of whose bias more than 3% is left; expected: "
            f"{frechet_infinity.LEAST_PER_DIMENSION * dimension} or more"
        )


def of_halves(count: int) -> Iterator[str]:
    """A warning where samples are too few for error bars."""
    if count < FEW:
        yield f"error bars: left out, since halves of {count} samples say little; expected: {FEW} or more"


def of_classes(labels: np.ndarray, dimension: int) -> Iterator[str]:
    """A warning where the samples of a class, of labels int [N], have a singular covariance."""
    if warning := frechet.rank_warning(int(np.unique(labels, return_counts=True)[1].min()), dimension):
        yield f"intra-class distance, of the smallest class: {warning}"


def of_score(count: int, num_classes: int) -> Iterator[str]:
    """A warning where the splits of an inception score have too few samples for the classes."""
    per_split = count // SPLITS
    if per_split < min(num_classes, FEW):
        yield (
            f"inception score: {SPLITS} splits of {per_split} samples, which is also the largest score there can be; "
            f"expected: {SPLITS * num_classes} samples or more"
        )


def of_modes(count: int, num_modes: int) -> Iterator[str]:
    """A warning where the samples are too few to cover the modes."""
    if count < 10 * num_modes:
        yield f"mode coverage: {count} samples for {num_modes} modes; expected: {10 * num_modes} or more"


def of_precision(metrics: Mapping[str, float]) -> Iterator[str]:
    """A warning where a high precision or density is that of a generator without diversity."""
    if not {"precision", "density", "recall", "coverage"} <= set(metrics):
        return
    fidelity, diversity = metrics["precision"], max(metrics["recall"], metrics["coverage"])
    if fidelity > 0.5 and diversity < WITHOUT_DIVERSITY:
        yield (
            f"precision {fidelity:.4g} with recall {metrics['recall']:.4g} and coverage {metrics['coverage']:.4g}: a "
            f"collapsed generator, and precision alone says nothing of it"
        )


def of_copies(share: float, count: int, expected: float, held_out: int) -> Iterator[str]:
    """A warning where the share of near copies of `count` samples is well above that of the held-out images."""
    deviation = math.sqrt(expected * (1 - expected) * (1 / count + 1 / held_out))
    if share > TIMES_EXPECTED * expected + DEVIATIONS * deviation:
        yield (
            f"{share:.1%} of the samples are near copies of training images, and {expected:.1%} of {held_out:,} "
            f"held-out images are: the generator copies them, or makes only the most common images (nearest_*.png)"
        )
