"""Mode coverage: how many of the known modes a generator produces, how precisely, and in which proportions.

For 2-D points, the modes are the centers of Gaussians; for images, the classes of a classifier (StackedMNIST's 1,000).
"""

import numpy as np
from numpy.typing import ArrayLike

from gan.errors import UserError

HIGH_QUALITY = 3.0
"""A sample is of high quality within this many standard deviations of the nearest center."""


def mode_coverage(
    points: ArrayLike, centers: ArrayLike, std: float, shares: ArrayLike | None = None
) -> dict[str, float]:
    """Metrics of samples for a mixture of Gaussians whose modes are known.

    A sample is assigned to the nearest center, and is of high quality within 3 standard deviations of it. In 2-D this
    holds for 1 - exp(-9 / 2) = 0.989 of the true distribution.

    Args:
      points: [N, D]; published results use N = 2,500.
      centers: [K, D].
      std: the standard deviation of every mode, in each direction.
      shares: the true share of each mode [K]; None: equal shares.

    Returns:
      modes: the number of modes with at least one sample of high quality; 0..K.
      high_quality: the share of samples of high quality; 0..1.
      reverse_kl: see `reverse_kl`, over all samples.

    Reference: Srivastava et al. 2017, VEEGAN, arXiv:1705.07761, section 4.1 (modes, high quality); Lin et al. 2018,
    PacGAN, arXiv:1712.04086, section 4.1 (nearest center, reverse KL).
    """
    points, centers = np.asarray(points, np.float64), np.asarray(centers, np.float64)
    if points.ndim != 2 or points.shape[1:] != centers.shape[1:]:
        raise UserError(f"points {points.shape} and centers {centers.shape} are not [N, D] and [K, D]")
    squared = np.sum(np.square(points[:, None] - centers[None]), axis=-1)
    nearest = np.argmin(squared, axis=1)
    high_quality = np.min(squared, axis=1) <= (HIGH_QUALITY * std) ** 2
    return {
        "modes": int(np.count_nonzero(label_counts(nearest[high_quality], len(centers)))),
        "high_quality": float(np.mean(high_quality)),
        "reverse_kl": reverse_kl(label_counts(nearest, len(centers)), shares),
    }


def label_coverage(labels: ArrayLike, modes: int, shares: ArrayLike | None = None) -> dict[str, float]:
    """Metrics of samples whose modes are given by labels, int [N] in 0..modes - 1.

    Returns:
      modes: the number of modes with at least one sample.
      reverse_kl: see `reverse_kl`.

    Reference: Metz et al. 2017, Unrolled GAN, arXiv:1611.02163, section 3.3 (StackedMNIST).
    """
    counts = label_counts(labels, modes)
    return {"modes": int(np.count_nonzero(counts)), "reverse_kl": reverse_kl(counts, shares)}


def label_counts(labels: ArrayLike, modes: int) -> np.ndarray:
    """The number of occurrences of each of 0..modes - 1 in int labels [N]: int [modes]."""
    labels = np.asarray(labels)
    if labels.size and not 0 <= labels.min() <= labels.max() < modes:
        raise UserError(f"labels from {labels.min()} to {labels.max()}; expected: 0 to {modes - 1}")
    return np.bincount(labels, minlength=modes)


def reverse_kl(counts: ArrayLike, shares: ArrayLike | None = None) -> float:
    """KL(generated || true) = sum over modes of g log(g / p), in nats, with g = counts / N and 0 log 0 = 0.

    It is 0 for the true shares, and log K if all samples are in one of K equal modes. N true samples have
    (K - 1) / (2 N) on average, to first order. It is infinite if samples are in a mode with true share 0.

    Args:
      counts: the number of samples in each mode [K].
      shares: the true shares of the modes, or numbers proportional to them [K]; None: equal shares.
    """
    counts = np.asarray(counts, np.float64)
    shares = np.ones(len(counts)) if shares is None else np.asarray(shares, np.float64)
    if shares.shape != counts.shape or counts.ndim != 1:
        raise UserError(f"counts {counts.shape} and shares {shares.shape} are not both [K]")
    if not counts.sum() > 0:
        raise UserError("counts are all zero: there are no samples")
    occupied = counts > 0
    generated, true = counts / counts.sum(), shares / shares.sum()
    with np.errstate(divide="ignore"):
        return float(np.sum(generated[occupied] * (np.log(generated[occupied]) - np.log(true[occupied]))))
