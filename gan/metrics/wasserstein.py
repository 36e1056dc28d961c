"""Wasserstein distances between two samples of the same size: exact in one dimension, sliced in more."""

import numpy as np
from numpy.typing import ArrayLike

from gan.errors import UserError


def wasserstein(a: ArrayLike, b: ArrayLike, order: float = 1.0) -> np.ndarray:
    """(mean over i of |a_(i) - b_(i)|^order)^(1 / order), sorted along the last axis: [..., N], [..., N] to [...].

    In one dimension, matching the sorted values is the optimal transport for every order >= 1.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or not a.size:
        raise UserError(f"samples {a.shape} and {b.shape} differ in size or are empty")
    if not order >= 1:
        raise UserError(f"order={order}; expected: 1 or more")
    distance = np.abs(np.sort(a, axis=-1) - np.sort(b, axis=-1))
    return np.mean(distance**order, axis=-1) ** (1 / order)


def sliced_wasserstein(
    a: ArrayLike, b: ArrayLike, order: float = 1.0, *, projections: int = 256, seed: int = 0
) -> float:
    """(mean over directions u of W_order(a u, b u)^order)^(1 / order), u uniform on the unit sphere.

    In 2-D, a shift by v gives 2 |v| / pi for order 1 and |v| / sqrt(2) for order 2, in the limit of many directions.

    Args:
      a, b: samples [N, D] of the same size.
      order: 1 or 2, or any number >= 1.
      projections: number of random directions. They are drawn from `seed`, so they are equal for every pair of samples.

    Reference: Rabin et al. 2011, Wasserstein Barycenter and its Application to Texture Mixing; Bonneel et al. 2015,
    Sliced and Radon Wasserstein Barycenters of Measures, definition 1.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or a.shape != b.shape:
        raise UserError(f"samples {a.shape} and {b.shape} are not both [N, D] of the same size")
    directions = np.random.default_rng(seed).standard_normal((projections, a.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    distances = wasserstein(directions @ a.T, directions @ b.T, order)
    return float(np.mean(distances**order) ** (1 / order))
