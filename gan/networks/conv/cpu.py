"""The lowering of convolutions on CPU: the fastest of several programs, chosen by the shapes.

Times were measured on two busy cores. "4 for 26 ms" means 4 ms with the chosen program, 26 ms with XLA's own.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from gan.networks.conv import tiles
from gan.networks.conv.forms import (
    OPERANDS,
    Axis,
    Geometry,
    convolve,
    inputs_by_phases,
    multiply,
    native,
    part_of_batch,
    phases_of_image,
    phases_of_kernel,
    products,
    reads_of_taps,
    shape_of,
    sizes_of,
    spread_edges,
    total,
)

FEW = 4
"""The most channels that an image has: color with alpha."""

EXAMPLES_AS_CHANNELS = range(8, 17)
"""How many examples at once XLA's convolution takes as channels of a weight gradient, where that divides the batch."""


def canonical(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form without groups: by tiles where they are faster, else as convolutions of undilated NHWC images.

    XLA's CPU convolutions are very slow for a dilated image, and for any layout but NHWC and HWIO inside a loop or as
    the weight gradient of a transposed convolution. For 16x16, 64 to 128 channels, batch 64 these take 240 ms where
    this layout takes 15, and inside `scan` 1,290 ms where this layout takes 12 (second order: 320 and 54). In this
    layout each blank is as fast in `scan` as outside, and outside about as fast as `native` or faster. Matrix products
    are used where they are faster: for 1x1 taps, small images, many channels and few channels.
    """
    if all(axis == Axis(axis.inputs, 1, axis.inputs, 0, 1) for axis in geometry):
        # 1x1, 32x32, 16 to 32 channels, batch 32: 4 for 26 ms with gradients, 12 for 100 with second gradients.
        return products(blank, a[None], b[None], geometry)[0]
    if tiles.is_faster(blank, a, b, geometry):
        return tiles.tiled(blank, a, b, geometry)
    rows, columns = geometry
    sizes, stride = sizes_of(blank, a, b), rows.stride
    if stride == 1 and sizes["o"] <= FEW and sizes["c"] >= 8 and all(axis.before < axis.taps for axis in geometry):
        return mirrored(blank, a, b, geometry)
    outputs = rows.outputs * columns.outputs
    if blank == "y":
        if outputs <= 9 and sizes["c"] >= 64:
            return outputs_by_one_product(a, b, geometry)
        is_divided = rows.taps % stride == columns.taps % stride == 0
        is_small = outputs <= 64 and stride > 1 and is_divided
        is_grey = sizes["c"] == 1 and stride == 1
        return outputs_by_phases(a, b, geometry) if is_small or is_grey else native("y", a, b, geometry)
    if blank == "x":
        is_small = outputs <= 36 or sizes["c"] <= FEW and sizes["o"] >= 8
        return inputs_by_one_product(a, b, geometry) if is_small else inputs_by_phases(a[None], b[None], geometry)[0]
    has_few_inputs = stride == 1 and sizes["c"] <= FEW and rows.taps * columns.taps * sizes["c"] <= 2 * sizes["o"]
    if has_few_inputs or outputs <= 4 and sizes["c"] >= 64:
        return weights_by_one_product(a, b, geometry)
    edges = [(axis.before, max(axis.after, 0)) for axis in geometry]
    x = a[:, : rows.inputs + min(rows.after, 0), : columns.inputs + min(columns.after, 0)]
    if min(sizes["c"], sizes["o"]) >= 64:
        return weights_tap_by_tap(jnp.pad(x, ((0, 0), *edges, (0, 0))), b, geometry)
    if stride > 1:
        return weights_by_phases(a, b, geometry)
    return weights_by_convolutions(x, b, edges)


def mirrored(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form of stride 1 with x and y swapped, so that few output channels become few input channels.

    T(x, w, y) is T(y, w', x) for the kernel w' rotated by 180 degrees, with input and output channels swapped.
    """
    names = {"x": "y", "w": "w", "y": "x"}
    swapped = tuple(Axis(axis.outputs, axis.taps, axis.inputs, axis.taps - 1 - axis.before, 1) for axis in geometry)

    def mirror(name: str, array: jax.Array) -> jax.Array:
        return array[::-1, ::-1].swapaxes(2, 3) if name == "w" else array

    given = {names[name]: mirror(name, array) for name, array in zip(OPERANDS[blank], (a, b), strict=True)}
    first, second = (given[name] for name in OPERANDS[names[blank]])
    result = canonical(names[blank], first, second, swapped)
    return mirror(blank, result)


def patches(x: jax.Array, geometry: Geometry) -> jax.Array:
    """The inputs that each output reads: [B, H, W, C] to [B H' W', kh kw C]."""
    reads = jnp.stack(reads_of_taps(x, geometry), axis=3)
    return reads.reshape(math.prod(reads.shape[:3]), -1)


def outputs_by_one_product(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution as one matrix product: for 6x6 to 3x3, 128 to 256 channels, 5x5, batch 16 3.2 for 4.0 ms."""
    product = multiply("pk,ko->po", patches(x, geometry), w.reshape(-1, w.shape[-1]))
    return product.reshape(shape_of("y", x, w, geometry))


def weights_by_one_product(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The weight gradient as one matrix product.

    For 3x3 to 2x2, 256 to 25 channels, 5x5, batch 16 it takes 0.8 ms and XLA's convolution 2.3 ms; for 32x32, 3 to 64
    channels, 3x3, batch 64 these are 6.8 and 23 ms.
    """
    product = multiply("pk,po->ko", patches(x, geometry), y.reshape(-1, y.shape[-1]))
    return product.reshape(shape_of("w", x, y, geometry))


def outputs_by_phases(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution as one matrix product for each tap of the cells of `phases_of_image`.

    For 8x8, 128 to 256 channels, 4x4 at stride 2, batch 64 it takes 9.4 ms and XLA's convolution 11.3 ms; for 8x8, 32
    to 64 channels 0.8 and 1.2 ms. For larger images the copies cost more than the products save. One channel without
    stride is one pass over the image: for 28x28, 1 to 8 channels, 5x5, batch 32 it takes 0.3 and XLA's 2.5 ms.
    """
    rows, columns = geometry
    x, w = phases_of_image(x, geometry), phases_of_kernel(w, rows.stride)
    taps_h, taps_w, *_, channels = w.shape
    w = w.reshape(taps_h, taps_w, -1, channels)

    def product(i: int, j: int) -> jax.Array:
        return multiply("bhwc,co->bhwo", x[:, i : i + rows.outputs, j : j + columns.outputs], w[i, j])

    return total(product(i, j) for i in range(taps_h) for j in range(taps_w))


def inputs_by_one_product(w: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The transposed convolution as one matrix product for all taps, whose results are padded and added tap by tap.

    For small images a convolution works mostly on padding, and a product per tap is small. For 4x4 to 8x8, 256 to 128
    channels, 4x4 at stride 2, batch 64 this takes 8.2 ms and either of those 11.6 ms; for 3x3 to 6x6, 5x5, batch 16 2.2
    and 5.9 ms. With few input channels only the product of all taps together is large: for 28x28, 64 to 1 channels,
    5x5, batch 64 these are 3.5 and 17 ms.
    """
    taps_h, taps_w, channels, _ = w.shape
    parts = multiply("bhwo,ijco->bhwijc", y, w)

    def spread(i: int, j: int) -> jax.Array:
        edges = spread_edges(geometry, (i, j))
        return lax.pad(parts[:, :, :, i, j], jnp.zeros((), parts.dtype), [(0, 0, 0), *edges, (0, 0, 0)])

    return total(spread(i, j) for i in range(taps_h) for j in range(taps_w))


def weights_by_phases(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The weight gradient as a loop over the taps of cells, with one matrix product for each.

    For 32x32, 3 to 64 channels, 4x4 at stride 2, batch 64 it takes 1.4 ms and XLA's convolution 4.5 ms; for 1 to 64
    channels 0.8 and 2.9 ms. With 64 channels or more on both sides the copy of the cells is too expensive.
    """
    rows, columns = geometry
    s, channels, outputs = rows.stride, x.shape[3], y.reshape(-1, y.shape[-1])
    taps_h, taps_w = (-(-axis.taps // s) for axis in geometry)
    x = phases_of_image(x, geometry)

    def product(tap: jax.Array) -> jax.Array:
        start = (0, tap // taps_w, tap % taps_w, 0)
        window = lax.dynamic_slice(x, start, (x.shape[0], rows.outputs, columns.outputs, x.shape[3]))
        return multiply("pc,po->co", window.reshape(-1, x.shape[3]), outputs)

    w = lax.map(product, jnp.arange(taps_h * taps_w)).reshape(taps_h, taps_w, s, s, channels, -1)
    return w.transpose(0, 2, 1, 3, 4, 5).reshape(taps_h * s, taps_w * s, channels, -1)[: rows.taps, : columns.taps]


def weights_by_convolutions(x: jax.Array, y: jax.Array, edges: list[tuple[int, int]]) -> jax.Array:
    """The weight gradient of stride 1 as XLA's convolution, in which examples are channels, for parts of the batch.

    The kernel of this convolution is as large as the outputs; with more than 16 examples it does not fit the caches.
    For 32x32, 16 to 16 channels, 3x3 it takes 2.9 ms in two parts of 16 examples and 6.7 ms in one; for 64 examples 5.6
    and 13.7 ms; for 16x16 1.7 and 3.4 ms.
    """
    batch = len(x)
    examples = max((n for n in EXAMPLES_AS_CHANNELS if batch % n == 0), default=batch)
    parts = batch // examples

    def part(i: jax.Array | int) -> jax.Array:
        image, kernel = (part_of_batch(array, i, parts) for array in (x, y))
        return convolve(image.transpose(3, 1, 2, 0), kernel.transpose(1, 2, 0, 3), (1, 1), edges)

    w = lax.map(part, jnp.arange(parts)).sum(0) if parts > 1 else part(0)
    return w.transpose(1, 2, 0, 3)


def weights_tap_by_tap(padded: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The weight gradient as a loop over taps with one matrix product each, [C, B H W] by [B H W, O].

    Where both sides have 64 channels or more the product runs at the machine's peak rate. Only one tap's copy of the
    image is in memory. For 32x32, 128 to 128 channels, 3x3, batch 64 it takes 153 ms and XLA's convolution 498 ms; for
    64x64, 128 to 64 channels, 5x5, batch 32 658 and 1,249 ms; for 8x8, 256 to 512 channels, 4x4 at stride 2 19 and 26
    ms. With 32 channels they are equal, and with fewer the convolution is faster.
    """
    rows, columns = geometry
    height, width = (axis.stride * (axis.outputs - 1) + 1 for axis in geometry)
    outputs = y.reshape(-1, y.shape[-1])

    def product(tap: jax.Array) -> jax.Array:
        start = (0, tap // columns.taps, tap % columns.taps, 0)
        window = lax.dynamic_slice(padded, start, (padded.shape[0], height, width, padded.shape[3]))
        read = window[:, :: rows.stride, :: columns.stride].reshape(-1, padded.shape[3])
        return multiply("pc,po->co", read, outputs)

    return lax.map(product, jnp.arange(rows.taps * columns.taps)).reshape(rows.taps, columns.taps, padded.shape[3], -1)
