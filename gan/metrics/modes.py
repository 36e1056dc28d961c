"""Mode coverage: how many known modes a generator serves, how cleanly, and in what shares. A leaf: plain arrays.

For points, modes are the centres of Gaussians; for images, the labels that a classifier gives (StackedMNIST's 1,000).
"""

import numpy as np
from numpy.typing import ArrayLike

from gan.errors import UserError

HIGH_QUALITY = 3.0
"""Standard deviations from the nearest centre within which a sample is of high quality."""


def mode_coverage(
    points: ArrayLike, centers: ArrayLike, sd: float, shares: ArrayLike | None = None
) -> dict[str, float]:
    """Figures of a sample from a mixture of Gaussians whose modes are known.

    A sample belongs to the nearest centre, and is of high quality within 3 sd of it (in the plane a share of
    1 - exp(-9 / 2) = 0.989 of the true distribution is).

    Args:
      points: [N, D]; the published figures take N = 2,500.
      centers: [K, D].
      sd: the standard deviation of every mode, in each direction.
      shares: the true share of each mode [K]; None: equal ones.

    Returns:
      modes: how many have a sample of high quality, at least one; 0..K.
      high_quality: the share of samples that are; 0..1.
      reverse_kl: see `reverse_kl`, over all samples, each at its nearest centre.

    Reference: Srivastava et al. 2017, VEEGAN, arXiv:1705.07761, section 4.1 (modes, high quality); Lin et al. 2018,
    PacGAN, arXiv:1712.04086, section 4.1 (nearest centre, reverse KL).
    """
    points, centers = np.asarray(points, np.float64), np.asarray(centers, np.float64)
    if points.ndim != 2 or points.shape[1:] != centers.shape[1:]:
        raise UserError(f"points {points.shape} and centers {centers.shape} are not [N, D] and [K, D]")
    squared = np.sum(np.square(points[:, None] - centers[None]), axis=-1)
    nearest = np.argmin(squared, axis=1)
    good = np.min(squared, axis=1) <= (HIGH_QUALITY * sd) ** 2
    return {
        "modes": int(np.count_nonzero(label_counts(nearest[good], len(centers)))),
        "high_quality": float(np.mean(good)),
        "reverse_kl": reverse_kl(label_counts(nearest, len(centers)), shares),
    }


def label_coverage(labels: ArrayLike, modes: int, shares: ArrayLike | None = None) -> dict[str, float]:
    """Figures of samples whose mode is told by a label, int [N] in 0..modes - 1: `modes` served at all, `reverse_kl`.

    Reference: Metz et al. 2017, Unrolled GAN, arXiv:1611.02163, section 3.3 (StackedMNIST).
    """
    counts = label_counts(labels, modes)
    return {"modes": int(np.count_nonzero(counts)), "reverse_kl": reverse_kl(counts, shares)}


def label_counts(labels: ArrayLike, modes: int) -> np.ndarray:
    """How often each of 0..modes - 1 occurs in int labels [N]: int [modes]."""
    labels = np.asarray(labels)
    if labels.size and not 0 <= labels.min() <= labels.max() < modes:
        raise UserError(f"labels from {labels.min()} to {labels.max()}; expected: 0 to {modes - 1}")
    return np.bincount(labels, minlength=modes)


def reverse_kl(counts: ArrayLike, shares: ArrayLike | None = None) -> float:
    """KL(generated || true) = sum over modes of g log(g / p), in nats, with g = counts / N and 0 log 0 = 0.

    0 for the true shares, log K for one mode of K equal ones. N samples of the truth itself have (K - 1) / (2 N) on
    average, to first order. Infinite where samples are in a mode that the truth has not.

    Args:
      counts: samples in each mode [K].
      shares: true shares of the modes, or numbers proportional to them [K]; None: equal ones.
    """
    counts = np.asarray(counts, np.float64)
    shares = np.ones(len(counts)) if shares is None else np.asarray(shares, np.float64)
    if shares.shape != counts.shape or counts.ndim != 1:
        raise UserError(f"counts {counts.shape} and shares {shares.shape} are not both [K]")
    if not counts.sum() > 0:
        raise UserError("counts are all zero: there are no samples")
    served = counts > 0
    generated, true = counts / counts.sum(), shares / shares.sum()
    with np.errstate(divide="ignore"):
        return float(np.sum(generated[served] * (np.log(generated[served]) - np.log(true[served]))))
