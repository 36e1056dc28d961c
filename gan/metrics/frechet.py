"""The Frechet distance between two sets of features, from streamed moments. A leaf: plain arrays in, floats out.

With the pool features of the 2015 Inception network it is the FID; with any others it is named after them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gan.errors import UserError


class Moments(NamedTuple):
    """The first two moments of features, in float64: all that the distance asks of a set."""

    count: int
    mean: np.ndarray
    """[D]"""
    scatter: np.ndarray
    """[D, D], the sum of (x - mean)(x - mean)^T over the samples."""

    @property
    def covariance(self) -> np.ndarray:
        """scatter / (count - 1), the unbiased covariance [D, D] of at least two samples."""
        return self.scatter / (self.count - 1)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together. Means are subtracted before anything is squared, so nothing cancels.

        Reference: Chan, Golub and LeVeque 1983, Algorithms for Computing the Sample Variance.
        """
        _same_dimension(len(self.mean), len(other.mean))
        count = self.count + other.count
        share = other.count / max(count, 1)
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.count * share)
        return Moments(count, self.mean + step * share, scatter)

    def update(self, features: np.ndarray) -> "Moments":
        """The moments after one more batch of features [N, D]."""
        return self.merge(moments(features))


def empty(dimension: int) -> Moments:
    """The moments of no samples, where a stream begins."""
    return Moments(0, np.zeros(dimension), np.zeros((dimension, dimension)))


def moments(features: np.ndarray) -> Moments:
    """The moments of one batch of features [N, D], N >= 1."""
    features = check_features(features).astype(np.float64)
    mean = features.mean(axis=0)
    centered = features - mean
    return Moments(len(features), mean, centered.T @ centered)


def moments_by_class(features: np.ndarray, labels: np.ndarray) -> dict[int, Moments]:
    """{class: moments} of features [N, D] with labels int [N]."""
    features, labels = check_features(features), np.asarray(labels)
    return {label: moments(features[labels == label]) for label in np.unique(labels).tolist()}


def rank_warning(count: int, dimension: int) -> str | None:
    """What to say of a distance from `count` samples in `dimension` dimensions, or None where they suffice.

    A sample covariance has rank count - 1 at most. Below full rank the distance is still computed as defined, but most
    of it is the noise of estimation: it is to be compared only with distances from equally many samples.
    """
    if count > dimension:
        return None
    return f"{count} samples for {dimension} features: the covariance is singular; wanted: more than {dimension}"


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) for covariances A and B, at least 0.

    For any factors A = F F^T and B = G G^T the last trace is the sum of the singular values of F^T G, in exact
    arithmetic. Squaring them first, to take square roots of the eigenvalues of A^1/2 B A^1/2 or of the matrix AB,
    turns a rounding error e in a zero eigenvalue into sqrt(e): where covariances are singular that costs seven digits.

    Reference: Heusel et al. 2017, arXiv:1706.08500, equation 6; Dowson and Landau 1982 for the distance itself.
    """
    _same_dimension(len(a.mean), len(b.mean))
    if min(a.count, b.count) < 2:
        raise UserError(f"fd_distance of {a.count} and {b.count} samples; expected: at least 2 of each")
    overlap = np.linalg.svd(_factor(a.covariance).T @ _factor(b.covariance), compute_uv=False).sum()
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap
    return float(max(np.sum((a.mean - b.mean) ** 2) + spread, 0.0))  # rounding leaves -1e-13 for equal moments


class IntraClass(NamedTuple):
    """The distance within each class, and the mean over the classes."""

    mean: float
    by_class: dict[int, float]


def intra_class_distance(real: Mapping[int, Moments], fake: Mapping[int, Moments]) -> IntraClass:
    """The mean over classes of the Frechet distance between real and generated images of that class.

    Every class counts alike, however many samples it has; both sides must have the same classes.

    Reference: Miyato and Koyama 2018, cGANs with Projection Discriminator, arXiv:1802.05637, section 6 (intra FID).
    """
    if lonely := sorted(set(real) ^ set(fake)):
        raise UserError(
            f"intra_class_distance: class {lonely[0]} is on one side only; expected: the same classes on both"
        )
    by_class = {label: frechet_distance(real[label], fake[label]) for label in sorted(real)}
    return IntraClass(float(np.mean(list(by_class.values()))), by_class)


def check_features(features: np.ndarray, name: str = "features") -> np.ndarray:
    """`features` as an array, or a `UserError` where they are not finite numbers [N, D] with N >= 1."""
    features = np.asarray(features)
    if features.ndim != 2 or not len(features):
        raise UserError(f"{name} has shape {features.shape}; expected: [N, D] with N >= 1")
    if not np.isfinite(features).all():
        raise UserError(f"{name} holds NaN or infinity; expected: finite numbers")
    return features


def check_pair(**sides: np.ndarray) -> list[np.ndarray]:
    """The two sets of features, given by name, as arrays; or a `UserError` where one is amiss or their D differ."""
    a, b = pair = [check_features(features, name) for name, features in sides.items()]
    _same_dimension(a.shape[1], b.shape[1])
    return pair


def _same_dimension(a: int, b: int) -> None:
    if a != b:
        raise UserError(f"features of {a} and of {b} dimensions; expected: the same on both sides")


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Some F with F F^T = covariance: Cholesky's, and where that stops at a singular matrix, by eigenvalues.

    Cholesky's takes a tenth of the time. An eigenvalue of a covariance is negative only by rounding, and so set to 0.
    """
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return vectors * np.sqrt(np.maximum(values, 0.0))
