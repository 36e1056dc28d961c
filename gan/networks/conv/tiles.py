"""Winograd's algorithm: convolutions with fewer products, for CPU. cpu.py uses it where it is faster.

Two neighboring outputs of t taps are 2 t products, but t + 1 are sufficient. As a trilinear form:

    sum over n < 2, m < t of  x[n + m] w[m] y[n]  =  sum over k <= t of  (X x)[k] (W w)[k] (Y y)[k]

with small matrices X, W, Y. As in forms.py one array is left out, and its matrix is then transposed. So the same three
matrices serve a convolution and both of its gradients. On two axes a tile of 2x2 outputs takes (t + 1)^2 products
instead of 4 t^2. A stride s is removed first (`phases_of_kernel`): 4x4 taps at stride 2 are 2x2 taps of cells of 2x2
pixels.

Winograd, Arithmetic Complexity of Computations, 1980; Lavin and Gray, 2015, arXiv:1509.09308, for t = 3 without stride.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gan.networks.conv.forms import (
    OPERANDS,
    Axis,
    Geometry,
    multiply,
    part_of_batch,
    phases_of_kernel,
    shape_of,
    sizes_of,
)

Matrix = tuple[tuple[float, ...], ...]

POINTS = {2: (0, 1), 3: (0, 1, -1), 5: (0, 1, -1, 2, -0.5)}
"""The t interpolation points for t taps, besides infinity.

The root mean square error in float32 relative to the result's standard deviation, for 128 to 64 channels, is 8e-7 for
XLA's convolution and for two and three taps here, 1.7e-6 for five taps, and 2.6e-6 for five with -2 instead of -1/2.
"""


def factors(points: Sequence[float]) -> dict[str, Matrix]:
    """The matrices X, W and Y for as many taps as points, with a row for each product.

    The product of the polynomials w(z) = w[0] + w[1] z + ... and y(z) = y[0] + y[1] z, of degree t, is determined by
    its values at t points a and its leading coefficient (its value "at infinity"):

        w y = sum over a of  w(a) y(a) N_a(z) / N_a(a)  +  w[t - 1] y[1] M(z),    N_a = product of z - a', a' not a

    with M the product of all z - a. A row of X holds the coefficients of N_a, or of M: z^r is the weight of x[r].
    """
    taps = len(points)
    x: list[np.ndarray] = []
    w: list[np.ndarray] = []
    y: list[np.ndarray] = []
    for a in points:
        others = np.poly([b for b in points if b != a])
        x.append(np.append(others[::-1], 0.0))
        w.append(np.power(float(a), range(taps)) / np.polyval(others, a))
        y.append(np.array((1.0, a)))
    x.append(np.poly(points)[::-1])
    w.append(np.eye(taps)[-1])
    y.append(np.array((0.0, 1.0)))
    return {name: tuple(tuple(map(float, row)) for row in rows) for name, rows in (("x", x), ("w", w), ("y", y))}


FACTORS = {taps: factors(points) for taps, points in POINTS.items()}

PRODUCTS = {"y": "pc,co->po", "x": "co,po->pc", "w": "pc,po->co"}
"""The matrix product for each k that makes the blank: p is the tile, c the channel of a cell, o the output channel."""

TILES_AT_ONCE = 1024
"""More tiles do not fit the caches.

32x32, 64 to 128 channels, 4x4 at stride 2, batch 64 takes 30 ms in parts of 1,024 tiles and 50 ms in one; 64x64, 32 to
64 channels 46 and 98 ms.
"""

EXAMPLES_AT_ONCE = 4
"""The least examples of a part, so that each of this many devices holds a share of every part."""


def tiles(axis: Axis) -> int:
    """The number of tiles along an axis: pairs of outputs."""
    return -(-axis.outputs // 2)


def cell_taps(axis: Axis) -> int:
    """The number of cells of `stride` positions that the taps cover."""
    return -(-axis.taps // axis.stride)


def is_faster(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> bool:
    """Whether tiles are faster than the other programs of cpu.py, by measurements of about 40 layers on two cores.

    Milliseconds for a convolution, its input gradient and its weight gradient, with tiles and without:

    - batch 64, 4x4 at stride 2, 16x16, 64 to 128 channels: 6, 6, 9 and 10, 10, 13;
    - batch 64, 4x4 at stride 2, 64x64, 32 to 64 channels: 46, 54, 57 and 98, 62, 116;
    - batch 64, 3x3 at stride 1, 32x32, 64 to 64 channels: 34, 45, 58 and 75, 75, 119;
    - batch 32, 5x5 at stride 1, 64x64, 128 to 64 channels: 336, 340, 514 and 878, 480, 1,045.

    With few channels on a side the additions dominate, and with few tiles the transform of the kernel does.
    """
    if not all(cell_taps(axis) in FACTORS for axis in geometry):
        return False
    sizes = sizes_of(blank, a, b)
    direct = math.prod(axis.outputs * axis.taps for axis in geometry)
    tiled = math.prod(tiles(axis) * (cell_taps(axis) + 1) * axis.stride for axis in geometry)
    kernel = math.prod((cell_taps(axis) + 1) * axis.stride for axis in geometry)  # entries for each pair of channels
    has_few_tiles = sizes["b"] * math.prod(map(tiles, geometry)) <= 2 * kernel
    return direct >= 1.5 * tiled and min(sizes["c"], sizes["o"]) >= 32 and not has_few_tiles


def combined(matrix: Matrix, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """The matrix times a vector of arrays, without multiplications by 1 and without terms of factor 0."""

    def entry(row: tuple[float, ...]) -> jax.Array:
        terms = [part if factor == 1 else factor * part for factor, part in zip(row, parts, strict=True) if factor]
        return sum(terms[1:], start=terms[0])

    return [entry(row) for row in matrix]


def reach(array: jax.Array, axis: int, count: int, reads: int) -> list[jax.Array]:
    """The inputs 0 .. reads - 1 of `count` tiles that start at every second position.

    `axis` holds pairs of positions, and the next axis the two positions of a pair.
    """
    halves = lax.split(array, (1, 1), axis + 1)  # its transpose is one concatenation; that of indexing is two paddings
    return [lax.slice_in_dim(halves[n % 2], n // 2, n // 2 + count, axis=axis) for n in range(reads)]


def parts_of_image(x: jax.Array, geometry: Geometry) -> list[jax.Array]:
    """X x on both axes: for each product a matrix [tiles, s s C]. Rows are combined once for all columns."""
    (of_rows, of_columns), s = (FACTORS[cell_taps(axis)]["x"] for axis in geometry), geometry[0].stride
    height, width = map(tiles, geometry)
    pairs = [count + cell_taps(axis) // 2 for axis, count in zip(geometry, (height, width), strict=True)]
    edges = [
        (axis.before, 2 * s * count - axis.inputs - axis.before, 0) for axis, count in zip(geometry, pairs, strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    batch, channels = x.shape[0], x.shape[-1]
    x = x.reshape(batch, pairs[0], 2, s, pairs[1], 2, s, channels)
    return [
        part.transpose(0, 1, 2, 4, 3, 5, 6, 7).reshape(-1, s * s * channels)
        for row in lax.optimization_barrier(combined(of_rows, reach(x, 1, height, len(of_rows))))
        for part in combined(of_columns, reach(row, 4, width, len(of_columns)))
    ]


def parts_of_kernel(w: jax.Array, geometry: Geometry) -> list[jax.Array]:
    """W w on both axes: for each product a matrix [s s C, O]."""
    of_rows, of_columns = (FACTORS[cell_taps(axis)]["w"] for axis in geometry)
    w = phases_of_kernel(w, geometry[0].stride)
    w = w.reshape(*w.shape[:2], -1, w.shape[-1])
    return [part for row in combined(of_rows, list(w)) for part in combined(of_columns, list(row))]


def parts_of_outputs(y: jax.Array, geometry: Geometry) -> list[jax.Array]:
    """Y y on both axes: for each product a matrix [tiles, O]."""
    of_rows, of_columns = (FACTORS[cell_taps(axis)]["y"] for axis in geometry)
    height, width = map(tiles, geometry)
    edges = [(0, 2 * tiles(axis) - axis.outputs) for axis in geometry]
    y = jnp.pad(y, ((0, 0), *edges, (0, 0)))
    batch, channels = y.shape[0], y.shape[-1]
    y = y.reshape(batch, height, 2, width, 2, channels)
    return [
        part.reshape(-1, channels)
        for row in combined(of_rows, reach(y, 1, height, 2))
        for part in combined(of_columns, reach(row, 3, width, 2))
    ]


PARTS = {"x": parts_of_image, "w": parts_of_kernel, "y": parts_of_outputs}


def at_once(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form without groups, for all examples at once."""
    first, second = (PARTS[name](array, geometry) for name, array in zip(OPERANDS[blank], (a, b), strict=True))
    products = [multiply(PRODUCTS[blank], p, q) for p, q in zip(first, second, strict=True)]
    result = jax.ShapeDtypeStruct(shape_of(blank, a, b, geometry), products[0].dtype)
    return jax.linear_transpose(partial(PARTS[blank], geometry=geometry), result)(products)[0]


def tiled(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form without groups, for one part of the batch after another."""
    operands = dict(zip(OPERANDS[blank], (a, b), strict=True))
    batch = sizes_of(blank, a, b)["b"]
    limit = max(EXAMPLES_AT_ONCE, TILES_AT_ONCE // math.prod(map(tiles, geometry)))
    examples = max(n for n in range(1, batch + 1) if batch % n == 0 and n <= limit)
    parts = batch // examples
    if parts == 1:
        return at_once(blank, a, b, geometry)

    def part(i: jax.Array) -> jax.Array:
        def read(name: str, array: jax.Array) -> jax.Array:
            return array if name == "w" else part_of_batch(array, i, parts)

        first, second = (read(name, array) for name, array in operands.items())
        return at_once(blank, first, second, geometry)

    shape = shape_of(blank, a, b, geometry)
    if blank == "w":
        return lax.fori_loop(0, parts, lambda i, total: total + part(i), jnp.zeros(shape, a.dtype))

    def put(i: jax.Array, whole: jax.Array) -> jax.Array:
        return lax.dynamic_update_index_in_dim(whole, part(i), i, 1)

    return lax.fori_loop(0, parts, put, jnp.zeros((examples, parts, *shape[1:]), a.dtype)).reshape(shape)
