"""The kernel distance between two sets of features; with Inception features, the KID.

Unlike the Frechet distance's, its estimate is unbiased for any number of samples.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gan.errors import UserError
from gan.io.progress import progress
from gan.metrics.frechet import check_pair

MAX_PAIRS = 2**26
"""The most kernel values of pairs that are kept: 512 MiB."""
TILE = 1024
"""Rows and columns of kernel values that are computed at once where all are summed: 8 MiB."""


class KernelDistance(NamedTuple):
    """The mean over subsets, and the standard deviation over subsets (not the standard error of the mean)."""

    mean: float
    std: float


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """k(x, y) = (x . y / D + 1)^3 for every pair of rows of x [M, D] and y [N, D]: float64 [M, N]."""
    product = x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1.0
    return product * product * product  # NumPy's ** 3 is tens of times slower


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy of samples x [M, D] and y [N, D], M, N >= 2.

    The mean of k(x_i, x_j) over i != j, plus the same for y, minus 2 times the mean of k(x_i, y_j). If both sets are of
    the same distribution, its expectation is 0, and it is negative about half the time.

    Reference: Gretton et al. 2012, A Kernel Two-Sample Test, JMLR 13, equation 3.
    """
    return _from_kernels(polynomial_kernel(x, x), polynomial_kernel(y, y), polynomial_kernel(x, y))


def _from_kernels(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> float:
    """`squared_mmd` from the kernels of all pairs."""
    return _within(xx) + _within(yy) - 2.0 * float(xy.mean())


def _within(kernel: np.ndarray) -> float:
    """The mean of k(x_i, x_j) [M, M] over i != j."""
    return float(kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1))


def _distance_of_rows(real: np.ndarray, fake: np.ndarray, pairs: int) -> Callable[[np.ndarray, np.ndarray], float]:
    """(rows of real, rows of fake) to `squared_mmd`, where `pairs` kernel values are needed in all.

    Small sets are drawn from again and again: the kernels of all their pairs are computed once if they are fewer.
    """
    total = len(real) ** 2 + len(fake) ** 2 + len(real) * len(fake)
    if total > min(pairs, MAX_PAIRS):
        return lambda i, j: squared_mmd(real[i], fake[j])
    xx, yy, xy = polynomial_kernel(real, real), polynomial_kernel(fake, fake), polynomial_kernel(real, fake)
    return lambda i, j: _from_kernels(xx[np.ix_(i, i)], yy[np.ix_(j, j)], xy[np.ix_(i, j)])


def kernel_distance(
    real: np.ndarray, fake: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """The kernel distance of features real [M, D] and fake [N, D], as the mean of `squared_mmd` over random subsets.

    Each subset is drawn from each set without replacement, independently of the other subsets, with `seed`. Everything
    is computed in float64.

    Args:
      subsets: number of subsets.
      subset_size: samples per subset and set, at most min(M, N).

    Reference: Binkowski et al. 2018, Demystifying MMD GANs, arXiv:1801.01401, section 4.
    """
    real, fake = check_pair(real=real, fake=fake)
    max_size = min(len(real), len(fake))
    if subsets < 1 or not 2 <= subset_size <= max_size:
        raise UserError(
            f"subsets={subsets}, subset_size={subset_size}; expected: at least 1 subset of 2 to {max_size} samples each"
        )
    rng = np.random.default_rng(seed)
    distance_of = _distance_of_rows(real, fake, subsets * 3 * subset_size**2)
    draws = (
        [rng.choice(len(features), subset_size, replace=False) for features in (real, fake)] for _ in range(subsets)
    )
    distances = [distance_of(*rows) for rows in progress(draws, total=subsets, what="Computing the kernel distance")]
    return KernelDistance(float(np.mean(distances)), float(np.std(distances)))


def squared_mmd_of_halves(real: np.ndarray, fake: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """`squared_mmd` of each of the parts of `fake` that the rows of `kept` bool [R, N] mark, less a constant: [R].

    The constant is the mean of k(y_i, y_j) over real images i != j, which all parts share. Every kernel value is
    computed once, whatever the number R of parts: N (N / 2 + M) (2 D + 2 R) operations, in tiles of TILE x TILE.
    """
    real, fake = check_pair(real=real, fake=fake)
    marks = kept.astype(np.float64)
    counts = marks.sum(axis=1)
    within, between = np.zeros(len(kept)), np.zeros(len(kept))
    tiles = [slice(start, start + TILE) for start in range(0, len(fake), TILE)]
    for index, rows in enumerate(progress(tiles, total=len(tiles), what="Computing the kernel distance of halves")):
        for columns in tiles[: index + 1]:
            kernel = polynomial_kernel(fake[rows], fake[columns])
            if columns == rows:
                np.fill_diagonal(kernel, 0.0)  # i != j
            share = np.einsum("ri,ir->r", marks[:, rows], kernel @ marks[:, columns].T)
            within += share if columns == rows else 2 * share
        for start in range(0, len(real), TILE):
            between += marks[:, rows] @ polynomial_kernel(fake[rows], real[start : start + TILE]).sum(axis=1)
    return within / (counts * (counts - 1)) - 2 * between / (counts * len(real))
