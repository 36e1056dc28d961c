"""The arithmetic of convolutions that all lowerings share.

A convolution, its input gradient (the transposed convolution) and its weight gradient are one trilinear form, each with
a different one of the three arrays left out, the blank:

    T(x, w, y) = sum of  x[g, b, s h + i - top, s w + j - left, c]  w[g, i, j, c, o]  y[g, b, h, w, o]

over groups g, examples b, outputs h, w, taps i, j, input channels c and output channels o, with stride s.
"""

import functools
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Axis(NamedTuple):
    """One spatial axis of a convolution: input position = stride * output + tap - before."""

    inputs: int
    taps: int
    outputs: int
    before: int
    stride: int

    @property
    def after(self) -> int:
        """Padding after the last input that the outputs read; negative where the last inputs are never read."""
        return self.stride * (self.outputs - 1) + self.taps - self.before - self.inputs


Geometry = tuple[Axis, ...]
"""The axes of height and width."""

Shaped = jax.Array | jax.core.ShapedArray

# The letters of the axes: g group, b example, c input channel, o output channel, h and w positions, i and j taps. The
# letters b, c and o occur in two of the three arrays.
AXES = {"x": "gbhwc", "w": "gijco", "y": "gbhwo"}
OPERANDS = {"y": ("x", "w"), "x": ("w", "y"), "w": ("x", "y")}


def sizes_of(blank: str, a: Shaped, b: Shaped) -> dict[str, int]:
    """The size of every letter of the operands, which may have an axis of groups or not."""
    first, second = (AXES[name][-array.ndim :] for name, array in zip(OPERANDS[blank], (a, b), strict=True))
    return dict(zip(first + second, a.shape + b.shape, strict=True))


def shape_of(blank: str, a: Shaped, b: Shaped, geometry: Geometry) -> tuple[int, ...]:
    """The shape of the blank, with an axis of groups where the operands have one."""
    sizes = sizes_of(blank, a, b)
    names = {"x": ("inputs", "hw"), "w": ("taps", "ij"), "y": ("outputs", "hw")}
    field, letters = names[blank]
    sizes |= {letter: getattr(axis, field) for letter, axis in zip(letters, geometry, strict=True)}
    return tuple(sizes[letter] for letter in AXES[blank][-a.ndim :])


def accumulator(*operands: jax.Array) -> jnp.dtype:
    """The type in which sums are computed: float32 for half precision, else the operands' own."""
    return jnp.promote_types(jnp.result_type(*operands), jnp.float32)


def multiply(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """An `einsum` whose result has the type of `accumulator`."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=accumulator(a, b))


def total(arrays: Iterable[jax.Array]) -> jax.Array:
    """The sum of arrays of one shape."""
    return functools.reduce(operator.add, arrays)


def convolve(
    image: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    edges: Sequence[tuple[int, int]],
    dimension_numbers: tuple[str, str, str] = ("NHWC", "HWIO", "NHWC"),
    **options: Any,
) -> jax.Array:
    """XLA's convolution, by default of an NHWC image and an HWIO kernel."""
    return lax.conv_general_dilated(image, kernel, strides, edges, dimension_numbers=dimension_numbers, **options)


def spread_edges(geometry: Geometry, taps: Sequence[int]) -> list[tuple[int, int, int]]:
    """The `lax.pad` configuration that puts the outputs of one tap at the inputs which the tap read, on each axis."""
    return [
        (tap - axis.before, axis.inputs + axis.before - tap - axis.stride * (axis.outputs - 1) - 1, axis.stride - 1)
        for axis, tap in zip(geometry, taps, strict=True)
    ]


def part_of_batch(array: jax.Array, part: jax.Array | int, parts: int) -> jax.Array:
    """The examples part, part + parts, ... of [B, ...], so a sharded batch needs no communication."""
    return lax.dynamic_index_in_dim(array.reshape(-1, parts, *array.shape[1:]), part, 1, keepdims=False)


def reads_of_taps(x: jax.Array, geometry: Geometry) -> list[jax.Array]:
    """The inputs that each tap reads of [..., H, W, C], in row-major order: kh kw arrays [..., H', W', C]."""
    rows, columns = geometry
    edges = [(axis.before, axis.after, 0) for axis in geometry]
    x = lax.pad(x, jnp.zeros((), x.dtype), [*[(0, 0, 0)] * (x.ndim - 3), *edges, (0, 0, 0)])
    height, width = (axis.stride * (axis.outputs - 1) + 1 for axis in geometry)
    return [
        x[..., i : i + height : rows.stride, j : j + width : columns.stride, :]
        for i in range(rows.taps)
        for j in range(columns.taps)
    ]


def products(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form as one matrix product per tap, batched over groups, without any convolution."""
    rows, columns = geometry
    taps = [(i, j) for i in range(rows.taps) for j in range(columns.taps)]
    if blank == "x":
        w, y = a, b

        def spread(i: int, j: int) -> jax.Array:
            """The adjoint of `reads_of_taps`: the outputs of one tap at the inputs which it read."""
            edges = spread_edges(geometry, (i, j))
            part = multiply("gbhwo,gco->gbhwc", y, w[:, i, j])
            return lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), (0, 0, 0), *edges, (0, 0, 0)])

        return total(spread(i, j) for i, j in taps)

    reads = reads_of_taps(a, geometry)
    if blank == "y":
        return total(multiply("gbhwc,gco->gbhwo", read, b[:, i, j]) for read, (i, j) in zip(reads, taps, strict=True))
    parts = jnp.stack([multiply("gbhwc,gbhwo->gco", read, b) for read in reads], axis=1)
    return parts.reshape(parts.shape[0], rows.taps, columns.taps, *parts.shape[2:])


def native(
    blank: str, a: jax.Array, b: jax.Array, geometry: Geometry, groups: int = 1, result_type: jnp.dtype | None = None
) -> jax.Array:
    """The form as XLA's own convolution and its two gradients, which cuDNN and TPUs have kernels for.

    The groups are part of the channels: x [B, H, W, G C], y [B, H', W', G O], and w [kh, kw, C, G O], or
    [kh, kw, G C, O] where the input is the blank. The reversed kernel must be the operand itself: with a conversion or
    a transpose in between, XLA does not recognize an input gradient, and on GPU runs a forward convolution of the image
    dilated with zeros.

    `result_type` None is the type of the operands. For a float32 result of bfloat16 operands, XLA on GPU would convert
    the operands first and run the convolution in float32; cuDNN accumulates in float32 in any case.
    """
    options: dict[str, Any] = {"preferred_element_type": result_type}
    strides = [axis.stride for axis in geometry]
    if blank == "y":
        edges = [(axis.before, max(axis.after, 0)) for axis in geometry]
        return convolve(a, b, strides, edges, feature_group_count=groups, **options)
    if blank == "w":
        edges = [(axis.before, axis.after) for axis in geometry]
        axes = ("CHWN", "IHWO", "HWNC")
        return convolve(a, b, (1, 1), edges, axes, rhs_dilation=strides, batch_group_count=groups, **options)
    edges = [
        (axis.taps - 1 - axis.before, axis.inputs + axis.before - axis.stride * (axis.outputs - 1) - 1)
        for axis in geometry
    ]
    axes = ("NHWC", "HWOI", "NHWC")
    options |= {"lhs_dilation": strides, "feature_group_count": groups}
    # The barrier keeps XLA from fusing the reversal with the operation that made the kernel.
    kernel = lax.rev(lax.optimization_barrier(a), (0, 1))
    return convolve(b, kernel, (1, 1), edges, axes, **options)


def native_groups(
    blank: str, a: jax.Array, b: jax.Array, geometry: Geometry, result_type: jnp.dtype | None = None
) -> jax.Array:
    """`native` with an axis of groups in front of both operands and of the result.

    XLA does not call cuDNN for the input gradient of several groups. With a stride it would dilate the image, so
    `inputs_by_phases` is used.
    """
    groups = len(a)
    if groups == 1:
        return native(blank, a[0], b[0], geometry, 1, result_type)[None]
    if blank == "x" and geometry[0].stride > 1:
        return inputs_by_phases(a, b, geometry)
    if blank == "x":  # the kernel's input channels, not its outputs, are in groups
        a = lax.collapse(jnp.moveaxis(a, 0, 2), 2, 4)
        return split(native(blank, a, join(b), geometry, groups, result_type), groups)
    return split(native(blank, join(a), join(b), geometry, groups, result_type), groups)


def split(array: jax.Array, groups: int) -> jax.Array:
    """[..., groups * channels] -> [groups, ..., channels]."""
    return jnp.moveaxis(array.reshape(*array.shape[:-1], groups, array.shape[-1] // groups), -2, 0)


def join(array: jax.Array) -> jax.Array:
    """[groups, ..., channels] -> [..., groups * channels]."""
    return lax.collapse(jnp.moveaxis(array, 0, -2), array.ndim - 2)


def phases_of_image(x: jax.Array, geometry: Geometry) -> jax.Array:
    """The padded image with the s x s pixels of each cell as channels: [B, H, W, C] to [B, H', W', s s C].

    A convolution of stride s is one of stride 1 of this image with `phases_of_kernel`.
    """
    s = geometry[0].stride
    edges = [
        (axis.before, s * (axis.outputs + -(-axis.taps // s) - 1) - axis.inputs - axis.before, 0) for axis in geometry
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // s, s, width // s, s, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // s, width // s, s * s * channels)


def phases_of_kernel(w: jax.Array, stride: int) -> jax.Array:
    """The kernel for `phases_of_image`, padded with zeros to a multiple of s taps: [kh', kw', s, s, C, O]."""
    s, (taps_h, taps_w) = stride, (-(-taps // stride) for taps in w.shape[:2])
    w = jnp.pad(w, ((0, taps_h * s - w.shape[0]), (0, taps_w * s - w.shape[1]), (0, 0), (0, 0)))
    return w.reshape(taps_h, s, taps_w, s, *w.shape[2:]).transpose(0, 2, 1, 3, 4, 5)


def inputs_by_phases(w: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The transposed convolution as a single convolution without dilation, of operands with groups in front.

    Tap s u + r of output m - u reads input position s m + r - before. So each phase r is an undilated convolution. All
    phases read the same outputs, so they are the output channels of one convolution.
    """
    rows, columns = geometry
    groups, *_, channels, features = w.shape
    s = rows.stride
    w = jax.vmap(lambda kernel: phases_of_kernel(kernel, s))(w)[:, ::-1, ::-1]
    taps = w.shape[1:3]
    w = w.transpose(1, 2, 6, 0, 3, 4, 5).reshape(*taps, features, -1)
    first = [axis.before // s for axis in geometry]
    last = [(axis.before + axis.inputs - 1) // s for axis in geometry]
    edges = [
        (tap - 1 - start, stop - axis.outputs + 1)
        for axis, tap, start, stop in zip(geometry, taps, first, last, strict=True)
    ]
    x = convolve(join(y), w, (1, 1), edges, feature_group_count=groups)
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, groups, s, s, channels).transpose(3, 0, 1, 4, 2, 5, 6)
    x = x.reshape(groups, batch, height * s, width * s, channels)
    top, left = (axis.before - s * start for axis, start in zip(geometry, first, strict=True))
    return x[:, :, top : top + rows.inputs, left : left + columns.inputs]
