"""The kernel distance (KID) between two sets of features. A leaf: plain arrays in, floats out.

Its estimate has no bias at any number of samples, which the Frechet distance's has.
"""

from typing import NamedTuple

import numpy as np

from gan.errors import UserError
from gan.metrics.frechet import check_pair


class KernelDistance(NamedTuple):
    """The mean over subsets, and the standard deviation from subset to subset: not that of the mean."""

    mean: float
    std: float


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x . y / D + 1)^3 for every pair of rows of x [M, D] and y [N, D]: float64 [M, N]."""
    product = x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1.0
    return product * product * product  # numpy's ** 3 is tens of times slower


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy of samples x [M, D] and y [N, D], M, N >= 2.

    mean of k(x_i, x_j) over i != j, plus the same of y, minus 2 mean of k(x_i, y_j): below 0 about as often as above
    where both come from one distribution.

    Reference: Gretton et al. 2012, A Kernel Two-Sample Test, JMLR 13, equation 3.
    """
    return _within(x) + _within(y) - 2.0 * float(polynomial_kernel(x, y).mean())


def _within(x: np.ndarray) -> float:
    """The mean of k(x_i, x_j) over i != j."""
    kernel = polynomial_kernel(x, x)
    return float(kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))


def kernel_distance(
    real: np.ndarray, fake: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """The kernel distance of features real [M, D] and fake [N, D], as the mean of `squared_mmd` over random subsets.

    Each subset is drawn without replacement from each side, afresh. All is computed in float64, so that what is left of
    the noise is that of the draw, which `seed` fixes.

    Reference: Binkowski et al. 2018, Demystifying MMD GANs, arXiv:1801.01401, section 4.
    """
    real, fake = check_pair(real=real, fake=fake)
    most = min(len(real), len(fake))
    if subsets < 1 or not 2 <= subset_size <= most:
        raise UserError(
            f"subsets={subsets}, subset_size={subset_size}; expected: at least 1 subset of 2 to {most} samples each"
        )
    draw = np.random.default_rng(seed)
    distances = [
        squared_mmd(*(side[draw.choice(len(side), subset_size, replace=False)] for side in (real, fake)))
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(distances)), float(np.std(distances)))
