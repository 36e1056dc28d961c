"""Paths between codes: spherical, linear, and cubic; open or closed.

`slerp` suits latents from a normal distribution, whose norms are all nearly the same: the middle of a straight line
would be shorter than any latent that was trained on. `linear` and `cubic` suit styles.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import Array

from gan.errors import lookup


def slerp(start: Array, end: Array, t: Array) -> Array:
    """Spherical interpolation from start [..., N] at t = 0 to end [..., N] at t = 1; t broadcasts against [...].

    The direction turns with constant angular speed in the plane of both vectors, by the angle W between them:

      sin((1 - t) W) / sin(W) start / |start| + sin(t W) / sin(W) end / |end|

    The norm goes linearly from |start| to |end|. Vectors of the same direction are interpolated linearly; those of
    opposite directions have no plane and their path is not defined.

    Reference: Shoemake 1985, section 3.3; for latents: White 2016, arXiv:1609.04468, section 2.1.
    """
    t = jnp.asarray(t)[..., None]
    norms = [jnp.linalg.norm(vector, axis=-1, keepdims=True) for vector in (start, end)]
    a, b = (vector / jnp.maximum(norm, 1e-12) for vector, norm in zip((start, end), norms, strict=True))
    # atan2 is exact where arccos of the product is not: for nearly parallel vectors.
    angle = 2 * jnp.arctan2(jnp.linalg.norm(a - b, axis=-1), jnp.linalg.norm(a + b, axis=-1))[..., None]
    sine = jnp.maximum(jnp.sin(angle), 1e-12)
    is_parallel = angle < 1e-4
    weights = [jnp.where(is_parallel, part, jnp.sin(part * angle) / sine) for part in (1 - t, t)]
    return (weights[0] * a + weights[1] * b) * ((1 - t) * norms[0] + t * norms[1])


def spherical(keys: Array, steps: int, is_closed: bool) -> Array:
    """`slerp` between consecutive keys [K, ...], over all axes but the first: see `path`."""
    flat = keys.reshape(len(keys), -1)
    ends = jnp.roll(flat, -1, axis=0)
    segments = slerp(flat[:, None], ends[:, None], jnp.arange(steps)[None] / steps)
    return _frames(segments, keys, is_closed)


def linear(keys: Array, steps: int, is_closed: bool) -> Array:
    """Straight lines between consecutive keys [K, ...]: see `path`."""
    flat = keys.reshape(len(keys), -1)
    t = (jnp.arange(steps) / steps)[None, :, None]
    segments = (1 - t) * flat[:, None] + t * jnp.roll(flat, -1, axis=0)[:, None]
    return _frames(segments, keys, is_closed)


def cubic(keys: Array, steps: int, is_closed: bool) -> Array:
    """A Catmull-Rom spline through the keys [K, ...], whose velocity is continuous: see `path`.

    Between p1 and p2, with the keys p0 before and p3 after them,

      ((2 p1) + (p2 - p0) t + (2 p0 - 5 p1 + 4 p2 - p3) t^2 + (3 p1 - p0 - 3 p2 + p3) t^3) / 2

    Beyond the ends of an open path the keys continue in a straight line: p0 = 2 p1 - p2.

    Reference: Catmull and Rom 1974, A class of local interpolating splines.
    """
    flat = keys.reshape(len(keys), -1)
    if is_closed:
        padded = jnp.concatenate([flat[-1:], flat, flat[:2]])
    else:
        padded = jnp.concatenate([2 * flat[:1] - flat[1:2], flat, 2 * flat[-1:] - flat[-2:-1], flat[-1:]])
    p0, p1, p2, p3 = (padded[offset : offset + len(flat), None] for offset in range(4))
    t = (jnp.arange(steps) / steps)[None, :, None]
    segments = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return _frames(segments / 2, keys, is_closed)


PATHS: Mapping[str, Callable[[Array, int, bool], Array]] = {"slerp": spherical, "linear": linear, "cubic": cubic}
"""The kinds of `path` by name."""


def path(keys: Array, steps: int, *, kind: str = "slerp", is_closed: bool = False) -> Array:
    """Points [F, ...] on a path through the keys [K, ...], `steps` from each key to the next.

    A closed path returns from the last key to the first and does not repeat it: F = K steps. An open one ends with the
    last key: F = (K - 1) steps + 1. Raises `UserError` for an unknown kind.
    """
    return lookup(PATHS, kind, "path")(keys, steps, is_closed)


def _frames(segments: Array, keys: Array, is_closed: bool) -> Array:
    """Segments [K, steps, N], the last from the last key to the first, as points of a path [F, ...]."""
    count, steps = segments.shape[:2]
    points = segments.reshape(count * steps, *keys.shape[1:])
    return points if is_closed else jnp.concatenate([points[: (count - 1) * steps], keys[-1:]])
