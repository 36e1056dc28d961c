"""Wasserstein distances between two samples of the same size: exact in one dimension, sliced in more. A leaf."""

import numpy as np
from numpy.typing import ArrayLike

from gan.errors import UserError


def wasserstein(a: ArrayLike, b: ArrayLike, order: float = 1.0) -> np.ndarray:
    """(mean |a_(i) - b_(i)|^order)^(1 / order) of the sorted values along the last axis: [..., N], [..., N] to [...].

    In one dimension the i-th smallest goes to the i-th smallest, and that is optimal for every order >= 1.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or not a.size:
        raise UserError(f"samples {a.shape} and {b.shape} are not of one size")
    if not order >= 1:
        raise UserError(f"order={order}; expected: 1 or more")
    distance = np.abs(np.sort(a, axis=-1) - np.sort(b, axis=-1))
    return np.mean(distance**order, axis=-1) ** (1 / order)


def sliced_wasserstein(
    a: ArrayLike, b: ArrayLike, order: float = 1.0, *, projections: int = 256, seed: int = 0
) -> float:
    """(mean over directions u of W_order(a u, b u)^order)^(1 / order), u uniform on the unit sphere.

    A shift by a vector v of the plane gives |v| 2 / pi at order 1, |v| / sqrt(2) at order 2, as directions become many.

    Args:
      a, b: samples [N, D] of the same size.
      order: 1 or 2, or any number >= 1.
      projections: how many directions are drawn, from `seed`: the same for every pair of samples.

    Reference: Rabin et al. 2011, Wasserstein Barycenter and its Application to Texture Mixing; Bonneel et al. 2015,
    Sliced and Radon Wasserstein Barycenters of Measures, definition 1.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or a.shape != b.shape:
        raise UserError(f"samples {a.shape} and {b.shape} are not both [N, D] of one size")
    directions = np.random.default_rng(seed).standard_normal((projections, a.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    distances = wasserstein(directions @ a.T, directions @ b.T, order)
    return float(np.mean(distances**order) ** (1 / order))
