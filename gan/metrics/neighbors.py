"""Nearest-neighbor metrics: precision, recall, density, coverage, and the nearest training image.

Distances are exact and computed in blocks, so that memory is bounded for any number of samples. Products are float64
because of the cancellation in |x|^2 + |y|^2 - 2 x.y. Results are rounded to float32, so that a pair has the same
distance in every block, and ties remain ties.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.errors import UserError
from gan.io.progress import progress
from gan.metrics import images as image_ops
from gan.metrics.frechet import check_features, check_pair

TILE = 1024
"""Rows and columns of one matrix product: large enough for full speed, 8 MiB in float64."""
VALUES = 2**24
"""The maximal number of values of features in a tile, 128 MiB in float64: tiles of long vectors have fewer rows."""
BLOCK = 2**26
"""The maximal number of distances in memory at once: 256 MiB in float32."""
LISTED = 32
"""Nearest neighbors of each sample that are kept for the radii in halves of the samples."""
ROWS = 2048
"""Queries that are compared on the device at once with a batch of references: see `nearest_on_device`."""


class Prdc(NamedTuple):
    """Precision and density measure generated samples, recall and coverage real ones. Density may exceed 1.

    A number each, or float64 [P] of P parts of the generated samples.
    """

    precision: float | np.ndarray
    recall: float | np.ndarray
    density: float | np.ndarray
    coverage: float | np.ndarray


class Neighbors(NamedTuple):
    """The nearest references of each query in increasing distance: indices int [N, k], distances float64 [N, k]."""

    indices: np.ndarray
    distances: np.ndarray


def prdc(real: np.ndarray, fake: np.ndarray, *, manifold_k: int = 3, density_k: int = 5) -> Prdc:
    """Precision and recall, density and coverage of features real [M, D] and fake [N, D].

    The manifold of a set is the union of balls around its samples x with radius r_k(x), the distance from x to the k-th
    nearest other sample of the set.

    precision  share of fake samples in some ball of real, k = `manifold_k`: fidelity
    recall     share of real samples in some ball of fake, k = `manifold_k`: diversity
    density    mean over fake samples of (number of balls of real that contain it) / k, k = `density_k`. Its expectation
               is 1 for equal distributions. Unlike precision, it is robust to the large ball of an outlier.
    coverage   share of real samples whose own ball contains a fake sample, k = `density_k`. Its expectation is
               1 - 1/2^k for equally many samples of equal distributions.

    Balls are closed for precision and recall and open for density and coverage, as in the authors' definitions and
    code; so the density of a set with respect to itself is exactly 1.

    Reference: Kynkaanniemi et al. 2019, arXiv:1904.06991, equations 1 and 2; Naeem et al. 2020, arXiv:2002.09797,
    section 3.
    """
    real, fake = check_pair(real=real, fake=fake)
    real_manifold, real_density = radii(real, (manifold_k, density_k))
    (fake_manifold,) = radii(fake, (manifold_k,))
    in_real_manifold = np.zeros(len(fake), bool)
    in_fake_manifold = contained = covered = 0
    for rows, distances in _blocks(real, fake, what="Computing precision, recall, density, coverage"):
        in_real_manifold |= (distances <= real_manifold[rows, None]).any(axis=0)
        in_fake_manifold += int(np.count_nonzero((distances <= fake_manifold[None]).any(axis=1)))
        inside = distances < real_density[rows, None]
        contained += int(np.count_nonzero(inside))
        covered += int(np.count_nonzero(inside.any(axis=1)))
    return Prdc(
        precision=float(in_real_manifold.mean()),
        recall=float(in_fake_manifold / len(real)),
        density=float(contained / (density_k * len(fake))),
        coverage=float(covered / len(real)),
    )


def radii(features: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """The distance of each of features [N, D] to its k-th nearest neighbor, for each k in ks: float32 [len(ks), N]."""
    if min(ks) < 1 or max(ks) >= len(features):
        raise UserError(f"k of {tuple(ks)} neighbors among {len(features)} samples; expected: 1 to {len(features) - 1}")
    result = np.empty((len(ks), len(features)), np.float32)
    for rows, distances in _blocks(features, features, what="Computing distances to neighbors"):
        own = np.arange(rows.start, rows.stop)
        distances[own - rows.start, own] = np.inf  # no sample is its own neighbor
        order = [k - 1 for k in ks]
        result[:, rows] = np.partition(distances, order, axis=1)[:, order].T
    return result


def prdc_of_halves(
    real: np.ndarray, fake: np.ndarray, kept: np.ndarray, *, manifold_k: int = 3, density_k: int = 5
) -> Prdc:
    """`prdc` of each of the parts of `fake` that the rows of `kept` bool [R, N] mark: the fields are float64 [R].

    Every distance is computed once, whatever the number of parts. The radius of a sample in a part is found among its
    LISTED nearest samples of the whole: a half has fewer than three of 32 once in eight million. In pairs of which the
    distance is within the radius in each part, or in none, the parts are one matrix product.
    """
    real, fake = check_pair(real=real, fake=fake)
    real_manifold, real_density = radii(real, (manifold_k, density_k))
    of_parts = _radii_of_parts(fake, kept, manifold_k)
    smallest, largest = np.where(kept, of_parts, np.inf).min(axis=0), of_parts.max(axis=0)
    marks = kept.T.astype(np.float32)
    in_real_manifold, contained = np.zeros(len(fake), bool), np.zeros(len(fake), np.int64)
    recalled, covered = np.zeros(len(kept), np.int64), np.zeros(len(kept), np.int64)
    for rows, distances in _blocks(real, fake, what="Computing precision, recall, density, coverage of halves"):
        in_real_manifold |= (distances <= real_manifold[rows, None]).any(axis=0)
        inside = distances < real_density[rows, None]
        contained += np.count_nonzero(inside, axis=0)
        covered += np.count_nonzero(inside.astype(np.float32) @ marks, axis=0)
        found = (distances <= smallest[None]).astype(np.float32) @ marks > 0
        left, right = np.nonzero((distances > smallest[None]) & (distances <= largest[None]))
        pairs = distances[left, right]
        for part, radius in enumerate(of_parts):
            found[left[pairs <= radius[right]], part] = True
        recalled += np.count_nonzero(found, axis=0)
    counts = np.count_nonzero(kept, axis=1)
    return Prdc(
        precision=kept @ in_real_manifold.astype(np.float64) / counts,
        recall=recalled / len(real),
        density=kept @ contained.astype(np.float64) / (density_k * counts),
        coverage=covered / len(real),
    )


def _radii_of_parts(features: np.ndarray, kept: np.ndarray, k: int) -> np.ndarray:
    """The distance of each sample to its k-th nearest other one of its part: float32 [R, N]; -1 where it is in none."""
    listed = min(LISTED, len(features) - 1)
    indices, distances = np.empty((len(features), listed), np.int32), np.empty((len(features), listed), np.float32)
    for rows, block in _blocks(features, features, what="Computing distances to neighbors"):
        own = np.arange(rows.start, rows.stop)
        block[own - rows.start, own] = np.inf
        found = np.argpartition(block, listed - 1, axis=1)[:, :listed]
        order = np.argsort(np.take_along_axis(block, found, axis=1), axis=1)
        indices[rows] = np.take_along_axis(found, order, axis=1)
        distances[rows] = np.take_along_axis(block, indices[rows], axis=1)
    result = np.full(kept.shape, -1.0, np.float32)
    for radius, marks in zip(result, kept, strict=True):
        numbers = np.cumsum(marks[indices[marks]], axis=1)
        place = np.where(numbers[:, -1] >= k, (numbers >= k).argmax(axis=1), listed - 1)
        radius[marks] = distances[marks, place]
    return result


def nearest(queries: np.ndarray, references: np.ndarray, k: int = 1) -> Neighbors:
    """The k nearest of references [M, D] to each of queries [N, D], for example to detect memorized training images.

    Their distances are recomputed from the differences, so that the distance of an exact copy is exactly 0.
    """
    queries, references = check_pair(queries=queries, references=references)
    if not 1 <= k <= len(references):
        raise UserError(f"k={k}; expected: 1 to {len(references)}, the number of references")
    indices = np.empty((len(queries), k), np.int64)
    distances = np.empty((len(queries), k))
    for rows, block in _blocks(queries, references, what="Searching for nearest neighbors"):
        found = np.sort(np.argpartition(block, k - 1, axis=1)[:, :k], axis=1)
        x = queries[rows].astype(np.float64)
        exact = np.stack([np.linalg.norm(x - references[column], axis=1) for column in found.T], axis=1)
        order = np.argsort(exact, axis=1, kind="stable")
        indices[rows] = np.take_along_axis(found, order, axis=1)
        distances[rows] = np.take_along_axis(exact, order, axis=1)
    return Neighbors(indices, distances)


def nearest_on_device(queries: np.ndarray, batches: Iterable[np.ndarray], own: np.ndarray | None = None) -> Neighbors:
    """The nearest of references [M, D], which come in batches [m, D], to each of queries [N, D]: indices int [N, 1].

    As `nearest`, for many references: the products are float32 on the device, and no more than a batch of references
    is in memory. The nearest of each batch are compared by exact distances, so that of a copy is exactly 0. Between
    other references whose distances are equal up to about 1e-6, any may be chosen.

    Args:
      batches: all of one size, but for the last, which may be smaller.
      own: the index int [N] of each query among the references, which is not its own neighbor; None: none is there.
    """
    center = check_features(queries, "queries").mean(axis=0, dtype=np.float64)[None]
    indices, distances = np.full(len(queries), -1), np.full(len(queries), np.inf)
    centered, first, size = (queries - center).astype(np.float32), 0, None
    for batch in batches:
        size = size or len(batch)
        padded = np.zeros((size, batch.shape[1]), np.float32)
        padded[: len(batch)] = batch - center
        others = np.full(len(queries), -1) if own is None else own - first
        found, squares = _search(centered, others, padded, len(batch))
        is_nearer = np.sqrt(np.maximum(squares, 0.0)) <= 1.01 * distances  # all of the first batch
        (rows,) = np.nonzero(is_nearer & np.isfinite(squares))
        exact = np.linalg.norm(np.float64(queries[rows]) - batch[found[rows]], axis=1)
        nearer = exact < distances[rows]
        indices[rows[nearer]], distances[rows[nearer]] = first + found[rows[nearer]], exact[nearer]
        first += len(batch)
    return Neighbors(indices[:, None], distances[:, None])


def _search(queries: np.ndarray, own: np.ndarray, references: np.ndarray, count: int) -> list[np.ndarray]:
    """`_nearest_in_batch` for all queries [N, D], ROWS at a time."""
    on_device = jnp.asarray(references)
    return image_ops.in_batches(
        lambda rows: _nearest_in_batch(on_device, count, queries[rows], own[rows]),
        np.arange(len(queries)), min(ROWS, len(queries)),
    )  # fmt: skip


@jax.jit
def _nearest_in_batch(references: Array, count: int, queries: Array, own: Array) -> tuple[Array, Array]:
    """The index of the nearest of the first `count` references [m, D] to each query, and its squared distance: [N].

    The reference of index `own` int [N] is left out.
    """
    products = jnp.matmul(queries, references.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(jnp.square(references), axis=1)[None] - 2.0 * products
    index = jnp.arange(len(references))[None]
    squares = jnp.where((index < count) & (index != own[:, None]), squares, jnp.inf)
    return jnp.argmin(squares, axis=1), jnp.min(squares, axis=1) + jnp.sum(jnp.square(queries), axis=1)


def _blocks(x: np.ndarray, y: np.ndarray, *, what: str) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows of x, their distances to all of y: float32 [rows, len(y)], which the caller may overwrite)."""
    center = y.mean(axis=0, dtype=np.float64)[None]  # centering avoids cancellation far from the origin
    tile = max(1, min(TILE, VALUES // y.shape[1]))
    height = max(1, min(tile, BLOCK // len(y)))
    starts = range(0, len(x), height)
    for start in progress(starts, total=len(starts), what=what):
        rows = slice(start, min(start + height, len(x)))
        a = x[rows] - center
        block = np.empty((len(a), len(y)), np.float32)
        for left in range(0, len(y), tile):
            b = y[left : left + tile] - center
            squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None]
            block[:, left : left + tile] = squares - 2.0 * (a @ b.T)
        yield rows, np.sqrt(np.maximum(block, 0.0, out=block), out=block)
