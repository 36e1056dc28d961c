"""The Frechet distance between two sets of features, from moments that can be accumulated batch by batch.

With the pool features of the 2015 Inception network it is the FID; with other features it is named after them.

No matrix is larger than the smaller of the number of samples and the dimension D: a set of fewer than D samples is kept
as it is (`Vectors`), a larger one as its mean and its scatter matrix [D, D] (`Moments`).
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gan.errors import UserError
from gan.io.progress import progress

logger = logging.getLogger(__name__)

COLUMNS = 512
"""Dimensions of all vectors that are in memory in float64 at once."""

LARGE = 4096
"""From this rank on, singular values are computed by eigenvalues, in a third of the time."""


class Moments(NamedTuple):
    """The first two moments of a set of features, in float64: all that the Frechet distance needs."""

    count: int  # type: ignore[assignment]  # a tuple has a method of this name
    mean: np.ndarray
    """[D]"""
    scatter: np.ndarray
    """[D, D]: the sum of (x - mean)(x - mean)^T over the samples."""

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.mean)

    @property
    def covariance(self) -> np.ndarray:
        """scatter / (count - 1): the unbiased covariance [D, D]. Needs at least two samples."""
        return self.scatter / (self.count - 1)

    @property
    def variation(self) -> float:
        """The trace of the scatter."""
        return float(np.trace(self.scatter))

    def merge(self, other: "Moments | Vectors") -> "Moments":
        """The moments of the union of both sets. Means are subtracted before squaring, so there is no cancellation.

        Reference: Chan, Golub and LeVeque 1983, Algorithms for Computing the Sample Variance.
        """
        _same_dimension(self.dimension, other.dimension)
        count = self.count + other.count
        share = other.count / max(count, 1)
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(shift, shift) * (self.count * share)
        return Moments(count, self.mean + shift * share, scatter)

    def update(self, features: np.ndarray) -> "Moments":
        """The moments after one more batch of features [N, D]."""
        return self.merge(moments(features))

    def factor(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the mean and the rows of a matrix F [D, D] with F F^T = covariance, for each of `_columns`."""
        factor = _factor(self.covariance)
        for columns in _columns(self.dimension):
            yield self.mean[columns], factor[columns]


class Vectors(NamedTuple):
    """A set of fewer features than dimensions, with the interface of `Moments`."""

    dimension: int
    parts: tuple[np.ndarray, ...] = ()
    """Batches of features [n, D]."""

    @property
    def count(self) -> int:  # type: ignore[override]  # as above
        """The number of samples."""
        return sum(map(len, self.parts))

    @property
    def mean(self) -> np.ndarray:
        """float64 [D]; zeros of the empty set."""
        sums = (part.sum(axis=0, dtype=np.float64) for part in self.parts)
        return sum(sums, np.zeros(self.dimension)) / max(self.count, 1)

    @property
    def scatter(self) -> np.ndarray:
        """[D, D], as in `Moments`: for small D."""
        scatter = np.zeros((self.dimension, self.dimension))
        if self.parts:
            centered = np.concatenate(self.parts).astype(np.float64) - self.mean
            scatter += centered.T @ centered
        return scatter

    @property
    def covariance(self) -> np.ndarray:
        """[D, D], as in `Moments`: for small D."""
        return self.scatter / (self.count - 1)

    @property
    def variation(self) -> float:
        """The trace of the scatter."""
        return sum(float(np.square(centered).sum()) for _, centered in self._centered())

    def merge(self, other: "Moments | Vectors") -> "Moments | Vectors":
        """The moments of the union of both sets: vectors as long as they are fewer than dimensions."""
        _same_dimension(self.dimension, other.dimension)
        if isinstance(other, Vectors) and self.count + other.count < self.dimension:
            return Vectors(self.dimension, (*self.parts, *other.parts))
        return Moments(self.count, self.mean, self.scatter).merge(other)

    def update(self, features: np.ndarray) -> "Moments | Vectors":
        """The moments after one more batch of features [N, D]."""
        return self.merge(moments(features))

    def factor(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the mean and the rows of a matrix F [D, N] with F F^T = covariance, for each of `_columns`."""
        for mean, centered in self._centered():
            yield mean, centered.T / np.sqrt(self.count - 1)

    def _centered(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the mean and the centered features [N, d], for d of the dimensions at a time."""
        for columns in _columns(self.dimension):
            values = np.concatenate([part[:, columns] for part in self.parts]).astype(np.float64)
            mean = values.mean(axis=0)
            yield mean, values - mean


def empty(dimension: int) -> Vectors:
    """The moments of the empty set, to start accumulating from."""
    return Vectors(dimension)


def moments(features: np.ndarray) -> Moments | Vectors:
    """The moments of one batch of features [N, D], N >= 1."""
    features = check_features(features)
    if len(features) < features.shape[1]:
        return Vectors(features.shape[1], (features,))
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    centered = features - mean
    return Moments(len(features), mean, centered.T @ centered)


def moments_by_class(features: np.ndarray, labels: np.ndarray) -> dict[int, Moments | Vectors]:
    """{class: moments} of features [N, D] with labels int [N]."""
    features, labels = check_features(features), np.asarray(labels)
    return {label: moments(features[labels == label]) for label in np.unique(labels).tolist()}


def rank_warning(count: int, dimension: int) -> str | None:
    """A warning about a distance from `count` samples in `dimension` dimensions, or None if they are enough.

    A sample covariance has rank at most count - 1. Below full rank the distance is still computed as defined, but most
    of it is estimation error: compare it only with distances from equally many samples.
    """
    if count > dimension:
        return None
    return f"{count} samples for {dimension} features: the covariance is singular; expected: more than {dimension}"


def frechet_distance(a: Moments | Vectors, b: Moments | Vectors) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) for covariances A and B, at least 0.

    For any factors A = F F^T and B = G G^T, tr (A^1/2 B A^1/2)^1/2 is the sum of the singular values of F^T G. It is
    computed this way because square roots of the eigenvalues of A^1/2 B A^1/2 or of AB turn a rounding error e in a
    zero eigenvalue into sqrt(e), which costs seven digits if the covariances are singular. The centered samples of a
    set, divided by sqrt(N - 1), are such a factor with N columns.

    Raises:
      UserError: fewer than two samples, or different dimensions.

    Reference: Heusel et al. 2017, arXiv:1706.08500, equation 6; Dowson and Landau 1982 for the distance itself.
    """
    _same_dimension(a.dimension, b.dimension)
    if min(a.count, b.count) < 2:
        raise UserError(f"fd_distance of {a.count} and {b.count} samples; expected: at least 2 of each")
    shift = spread = 0.0
    product: Any = 0.0  # a matrix from the first part on
    pairs = zip(a.factor(), b.factor(), strict=True)
    factors = progress(pairs, total=len(_columns(a.dimension)), what="Computing the Frechet distance")
    for (mean_a, factor_a), (mean_b, factor_b) in factors:
        shift += float(np.square(mean_a - mean_b).sum())
        spread += float(np.square(factor_a).sum() + np.square(factor_b).sum())
        product += factor_a.T @ factor_b
    return max(shift + spread - 2 * _nuclear_norm(product), 0.0)  # rounding gives -1e-13 for equal moments


class IntraClass(NamedTuple):
    """The distance for each class, and their mean."""

    mean: float
    by_class: dict[int, float]


def intra_class_distance(real: Mapping[int, Moments | Vectors], fake: Mapping[int, Moments | Vectors]) -> IntraClass:
    """The mean over classes of the Frechet distance between real and generated images of that class.

    Every class has the same weight, regardless of its number of samples.

    Raises:
      UserError: a class that only one of the two sides has.

    Reference: Miyato and Koyama 2018, cGANs with Projection Discriminator, arXiv:1802.05637, section 6 (intra FID).
    """
    if unmatched := sorted(set(real) ^ set(fake)):
        raise UserError(
            f"intra_class_distance: class {unmatched[0]} is on one side only; expected: the same classes on both"
        )
    by_class = {label: frechet_distance(real[label], fake[label]) for label in sorted(real)}
    return IntraClass(float(np.mean(list(by_class.values()))), by_class)


def check_features(features: np.ndarray, name: str = "features") -> np.ndarray:
    """`features` as an array. Raises `UserError` if they are not finite numbers [N, D] with N >= 1."""
    features = np.asarray(features)
    if features.ndim != 2 or not len(features):
        raise UserError(f"{name} has shape {features.shape}; expected: [N, D] with N >= 1")
    if not np.isfinite(features).all():
        raise UserError(f"{name} contain NaN or infinity; expected: finite numbers")
    return features


def check_pair(**sides: np.ndarray) -> list[np.ndarray]:
    """Two named sets of features as arrays. Raises `UserError` if one is invalid or their dimensions differ."""
    a, b = pair = [check_features(features, name) for name, features in sides.items()]
    _same_dimension(a.shape[1], b.shape[1])
    return pair


def _same_dimension(a: int, b: int) -> None:
    if a != b:
        raise UserError(f"features of {a} and of {b} dimensions; expected: the same for both sets")


def _factor(covariance: np.ndarray) -> np.ndarray:
    """A matrix F with F F^T = covariance: by Cholesky, or by eigenvalues if the covariance is singular.

    Cholesky takes a tenth of the time. Negative eigenvalues of a covariance are rounding errors and are set to 0.
    """
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return vectors * np.sqrt(np.maximum(values, 0.0))


def _columns(dimension: int) -> list[slice]:
    return [slice(first, first + COLUMNS) for first in range(0, dimension, COLUMNS)]


def _nuclear_norm(matrix: np.ndarray) -> float:
    """The sum of the singular values.

    A large matrix M takes the roots of the eigenvalues of M M^T: a third of the time, and an error of up to 1e-8 of the
    largest singular value in each of those that are smaller than this.
    """
    if min(matrix.shape) < LARGE:
        return float(np.linalg.svd(matrix, compute_uv=False).sum())
    logger.info(
        "Computing the singular values of %s x %s numbers, which takes minutes.", *map("{:,}".format, matrix.shape)
    )
    matrix = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(matrix @ matrix.T), 0.0)).sum())
