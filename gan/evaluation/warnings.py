"""What makes the metrics of a set of samples meaningless: too few samples, copies, no variation."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from gan.metrics import frechet
from gan.metrics.frechet import Moments

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


class Metrics(dict[str, float]):
    """{name: value} of each metric, and one line for each reason why values have no meaning."""

    def __init__(self, values: Mapping[str, float], warnings: Collection[str] = ()):
        super().__init__({name: float(value) for name, value in values.items()})
        self.warnings = tuple(warnings)


def of_sets(samples: np.ndarray, real: np.ndarray) -> Iterator[str]:
    """Warnings on samples [N, D] and real examples [M, D]: few, copies, or without variation."""
    for name, vectors in (("samples", samples), ("reference examples", real)):
        if len(vectors) < FEW:
            yield (
                f"{len(vectors)} {name} are too few: metrics of neighbors (recall above all), scores and modes depend "
                f"on their number; expected: {FEW} or more"
            )
        distinct = len({row.tobytes() for row in np.ascontiguousarray(vectors)})
        if distinct < (1 - MOST_COPIES) * len(vectors):
            yield f"{len(vectors)} {name}, {distinct} of them distinct: metrics of neighbors have no meaning for copies"


def of_spread(samples: Moments, real: Moments) -> Iterator[str]:
    """A warning where samples hardly vary."""
    variances = [np.trace(side.scatter) / max(side.count, 1) for side in (samples, real)]
    if variances[0] < SMALLEST_SPREAD * variances[1]:
        yield (
            f"the samples hardly vary ({100 * variances[0] / variances[1]:.2g}% of the variance of real examples): a "
            f"collapsed generator, of which precision and density have no meaning"
        )


def of_moments(samples: Moments, real: Moments) -> Iterator[str]:
    """A warning where a covariance of the Frechet distance is singular."""
    if warning := frechet.rank_warning(min(samples.count, real.count), len(samples.mean)):
        yield f"Frechet distance: {warning}"


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
