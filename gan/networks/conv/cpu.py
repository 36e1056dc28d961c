"""Networks, lowest floor: convolutions as XLA's CPU runs them best. primitives.py calls `canonical`."""

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
)

FEW = 4
"""Channels of an image: grey, with alpha, color, both."""

EXAMPLES_AS_CHANNELS = range(8, 17)
"""How many XLA's convolution takes at once as channels of a weight gradient, where that divides the batch."""


def canonical(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form, without groups: by tiles where they pay, else as convolutions of undilated NHWC images, HWIO kernels.

    What XLA's CPU convolutions are ruinous at is a dilated image, and any other layout inside a loop or as the
    weight gradient of a transpose: 16x16, 64 to 128 channels, batch 64 is 240 ms there for 15, 1,290 ms inside
    `scan` for 12 (second order: 320 for 54). In this layout each blank is as fast in `scan` as outside, and
    outside about as fast as `native` or faster. Matrix products take over where they are faster: for 1x1 taps, small
    images, many channels, few channels.
    """
    if all(axis == Axis(axis.inputs, 1, axis.inputs, 0, 1) for axis in geometry):
        # 1x1, 32x32, 16 to 32 channels, batch 32: 4 ms for 26 with gradients, 12 for 100 with second ones.
        return products(blank, a[None], b[None], geometry)[0]
    if tiles.pays(blank, a, b, geometry):
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
        few = outputs <= 36 or sizes["c"] <= FEW and sizes["o"] >= 8
        return inputs_by_one_product(a, b, geometry) if few else inputs_by_phases(a[None], b[None], geometry)[0]
    few = stride == 1 and sizes["c"] <= FEW and rows.taps * columns.taps * sizes["c"] <= 2 * sizes["o"]
    if few or outputs <= 4 and sizes["c"] >= 64:
        return weights_by_one_product(a, b, geometry)
    edges = [(axis.before, max(axis.after, 0)) for axis in geometry]
    x = a[:, : rows.inputs + min(rows.after, 0), : columns.inputs + min(columns.after, 0)]
    if min(sizes["c"], sizes["o"]) >= 64:
        return weights_tap_by_tap(jnp.pad(x, ((0, 0), *edges, (0, 0))), b, geometry)
    if stride > 1:
        return weights_by_phases(a, b, geometry)
    return weights_by_convolutions(x, b, edges)


def mirrored(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form without stride with image and outputs in each other's place, and so few input channels for few outputs.

    T(x, w, y) is T(y, w', x) for the kernel w' turned by half a turn, its channels changed over.
    """
    names = {"x": "y", "w": "w", "y": "x"}
    swapped = tuple(Axis(axis.outputs, axis.taps, axis.inputs, axis.taps - 1 - axis.before, 1) for axis in geometry)

    def turned(name: str, array: jax.Array) -> jax.Array:
        return array[::-1, ::-1].swapaxes(2, 3) if name == "w" else array

    given = {names[name]: turned(name, array) for name, array in zip(OPERANDS[blank], (a, b), strict=True)}
    made = canonical(names[blank], *(given[name] for name in OPERANDS[names[blank]]), swapped)
    return turned(blank, made)


def patches(x: jax.Array, geometry: Geometry) -> jax.Array:
    """What each output reads: [B, H, W, C] to [B H' W', kh kw C]."""
    reads = jnp.stack(reads_of_taps(x, geometry), axis=3)
    return reads.reshape(math.prod(reads.shape[:3]), -1)


def outputs_by_one_product(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution as one matrix product: 6x6 to 3x3, 128 to 256 channels, 5x5, batch 16 3.2 ms for XLA's 4.0."""
    product = multiply("pk,ko->po", patches(x, geometry), w.reshape(-1, w.shape[-1]))
    return product.reshape(shape_of("y", x, w, geometry))


def weights_by_one_product(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The weight gradient as one matrix product.

    3x3 to 2x2, 256 to 25 channels, 5x5, batch 16 0.8 ms for 2.3 of XLA's convolution; 32x32, 3 to 64, 3x3, batch 64 6.8
    for 23.
    """
    product = multiply("pk,po->ko", patches(x, geometry), y.reshape(-1, y.shape[-1]))
    return product.reshape(shape_of("w", x, y, geometry))


def outputs_by_phases(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution as one matrix product for each tap of cells.

    8x8, 128 to 256 channels, 4x4 at stride 2, batch 64 takes 9.4 ms where XLA's convolution takes 11.3; 8x8, 32 to 64
    0.8 for 1.2. Where the image is larger the copies cost more than is won. One channel without stride is one sweep:
    28x28, 1 to 8, 5x5, batch 32 0.3 for 2.5.
    """
    rows, columns = geometry
    x, w = phases_of_image(x, geometry), phases_of_kernel(w, rows.stride)
    taps_h, taps_w, *_, channels = w.shape
    w = w.reshape(taps_h, taps_w, -1, channels)

    def product(i: int, j: int) -> jax.Array:
        return multiply("bhwc,co->bhwo", x[:, i : i + rows.outputs, j : j + columns.outputs], w[i, j])

    return sum(product(i, j) for i in range(taps_h) for j in range(taps_w))


def inputs_by_one_product(w: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The transposed convolution as one matrix product for all taps, laid out and added up tap by tap.

    A small image is mostly border to a convolution that pads it, and small to a product per tap: 4x4 to 8x8, 256 to
    128 channels, 4x4 at stride 2, batch 64 takes 8.2 ms where either takes 11.6; 3x3 to 6x6, 5x5, batch 16 2.2 for 5.9.
    With few input channels all taps together are what one product is worth: 28x28, 64 to 1, 5x5, batch 64 3.5 for 17.
    """
    taps_h, taps_w, channels, _ = w.shape
    parts = multiply("bhwo,ijco->bhwijc", y, w)

    def spread(i: int, j: int) -> jax.Array:
        edges = spread_edges(geometry, (i, j))
        return lax.pad(parts[:, :, :, i, j], jnp.zeros((), parts.dtype), [(0, 0, 0), *edges, (0, 0, 0)])

    return sum(spread(i, j) for i in range(taps_h) for j in range(taps_w))


def weights_by_phases(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The weight gradient as a loop over taps of cells, of one matrix product each.

    32x32, 3 to 64 channels, 4x4 at stride 2, batch 64 takes 1.4 ms where XLA's convolution takes 4.5; 1 to 64 0.8 for
    2.9. With 64 channels or more on both sides the cells are too much to copy.
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
    """The weight gradient without stride as XLA's convolution, in which examples are channels: some after others.

    The kernel is then as large as the outputs, and more than 16 examples leave the caches: 32x32, 16 to 16 channels,
    3x3 takes 2.9 ms in two parts of 16 and 6.7 in one; of 64 examples 5.6 and 13.7; 16x16 1.7 and 3.4.
    """
    batch = len(x)
    examples = max((n for n in EXAMPLES_AS_CHANNELS if batch % n == 0), default=batch)
    parts = batch // examples

    def part(i: jax.Array) -> jax.Array:
        image, kernel = (part_of_batch(array, i, parts) for array in (x, y))
        return convolve(image.transpose(3, 1, 2, 0), kernel.transpose(1, 2, 0, 3), (1, 1), edges)

    w = lax.map(part, jnp.arange(parts)).sum(0) if parts > 1 else part(0)
    return w.transpose(1, 2, 0, 3)


def weights_tap_by_tap(padded: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The weight gradient as a loop over taps of one matrix product each, [C, B H W] by [B H W, O].

    Where both sides have 64 channels or more the product runs at the machine's rate, and only one tap's copy of the
    image is alive: 32x32, 128 to 128 channels, 3x3, batch 64 takes 153 ms where XLA's convolution takes 498; 64x64,
    128 to 64, 5x5, batch 32 takes 658 for 1,249; 8x8, 256 to 512, 4x4 at stride 2 19 for 26. With 32 channels they
    are equal, with fewer the convolution wins.
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
