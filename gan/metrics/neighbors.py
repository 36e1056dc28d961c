"""Measures by nearest neighbors: precision, recall, density, coverage, and the nearest training image. A leaf.

Distances are exact and taken in blocks, so that memory is bounded at any number of samples. Products are float64,
because |x|^2 + |y|^2 - 2 x.y cancels; each result is rounded to float32, so that a pair has one distance wherever it is
met, and ties are ties.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gan.errors import UserError
from gan.metrics.frechet import check_pair

TILE = 1024
"""The side of one matrix product: large enough for full speed, 8 MiB in float64."""
BLOCK = 2**26
"""Most distances held at once, 256 MiB in float32."""


class Prdc(NamedTuple):
    """Precision and density are of the generated samples, recall and coverage of the real; density may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


class Neighbors(NamedTuple):
    """The nearest references of each query, nearest first: indices int [N, k] and distances float64 [N, k]."""

    indices: np.ndarray
    distances: np.ndarray


def prdc(real: np.ndarray, fake: np.ndarray, *, manifold_k: int = 3, density_k: int = 5) -> Prdc:
    """Precision and recall, density and coverage of features real [M, D] and fake [N, D].

    A set's manifold is the union of balls, one around each of its samples x, of radius r_k(x) = the distance to the
    k-th nearest other sample of that set.

    precision  share of fake within some ball of real, k = `manifold_k`: are they plausible?
    recall     share of real within some ball of fake, k = `manifold_k`: is everything found?
    density    mean over fake of (balls of real that hold it) / k, k = `density_k`: 1 for equal distributions, and not
               deceived by the wide ball of one outlier as precision is
    coverage   share of real whose own ball holds some fake, k = `density_k`; 1 - 1/2^k is expected of equally many
               samples of one distribution

    Balls are closed for precision and recall and open for density and coverage, as in the authors' definitions and
    programs: the density of a set about itself is 1 exactly.

    Reference: Kynkaanniemi et al. 2019, arXiv:1904.06991, equations 1 and 2; Naeem et al. 2020, arXiv:2002.09797,
    section 3.
    """
    real, fake = check_pair(real=real, fake=fake)
    real_manifold, real_density = radii(real, (manifold_k, density_k))
    (fake_manifold,) = radii(fake, (manifold_k,))
    plausible = np.zeros(len(fake), bool)
    found = held = covered = 0
    for rows, distances in _blocks(real, fake):
        plausible |= (distances <= real_manifold[rows, None]).any(axis=0)
        found += np.count_nonzero((distances <= fake_manifold[None]).any(axis=1))
        inside = distances < real_density[rows, None]
        held += np.count_nonzero(inside)
        covered += np.count_nonzero(inside.any(axis=1))
    scores = plausible.mean(), found / len(real), held / (density_k * len(fake)), covered / len(real)
    return Prdc(*map(float, scores))


def radii(features: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """The distance of each of features [N, D] to its k-th nearest other, for each k in `ks`: float32 [len(ks), N]."""
    if min(ks) < 1 or max(ks) >= len(features):
        raise UserError(f"k of {tuple(ks)} neighbors among {len(features)} samples; expected: 1 to {len(features) - 1}")
    result = np.empty((len(ks), len(features)), np.float32)
    for rows, distances in _blocks(features, features):
        here = np.arange(rows.start, rows.stop)
        distances[here - rows.start, here] = np.inf  # no sample is its own neighbor
        order = [k - 1 for k in ks]
        result[:, rows] = np.partition(distances, order, axis=1)[:, order].T
    return result


def nearest(queries: np.ndarray, references: np.ndarray, k: int = 1) -> Neighbors:
    """The k nearest of references [M, D] to each of queries [N, D]: has the generator learned images by heart?

    The distances of those found are summed afresh from the differences: 0 exactly for a copy.
    """
    queries, references = check_pair(queries=queries, references=references)
    if not 1 <= k <= len(references):
        raise UserError(f"k={k}; expected: 1 to {len(references)}, the number of references")
    indices = np.empty((len(queries), k), np.int64)
    distances = np.empty((len(queries), k))
    for rows, block in _blocks(queries, references):
        found = np.sort(np.argpartition(block, k - 1, axis=1)[:, :k], axis=1)
        x = queries[rows].astype(np.float64)
        exact = np.stack([np.linalg.norm(x - references[column], axis=1) for column in found.T], axis=1)
        order = np.argsort(exact, axis=1, kind="stable")
        indices[rows] = np.take_along_axis(found, order, axis=1)
        distances[rows] = np.take_along_axis(exact, order, axis=1)
    return Neighbors(indices, distances)


def _blocks(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows of x, their distances to all of y as float32 [rows, len(y)], the caller's to overwrite)."""
    centre = y.mean(axis=0, dtype=np.float64)[None]  # far from the origin nothing but the offset would be left
    height = max(1, min(TILE, BLOCK // len(y)))
    for start in range(0, len(x), height):
        rows = slice(start, min(start + height, len(x)))
        a = x[rows] - centre
        block = np.empty((len(a), len(y)), np.float32)
        for left in range(0, len(y), TILE):
            b = y[left : left + TILE] - centre
            squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None]
            block[:, left : left + TILE] = squares - 2.0 * (a @ b.T)
        yield rows, np.sqrt(np.maximum(block, 0.0, out=block), out=block)
