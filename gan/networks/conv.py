"""Networks, lowest floor: convolution, transposed convolution and their Flax modules. Imports no sibling;
layers.py and every architecture build on it.

A convolution, its gradient for the input (the transposed convolution) and its gradient for the weights are one
trilinear form with one of three places left open:

    T(x, w, y) = sum of  x[g, b, s h + i - top, s w + j - left, c]  w[g, i, j, c, o]  y[g, b, h, w, o]

over groups g, examples b, outputs h, w, taps i, j, input channels c and output channels o, with stride s.

The three are closed under differentiation: each is bilinear, and its transposes are the other two. Making them
primitives keeps gradients of every order (R1, WGAN-GP) among them, so each needs one good program per platform.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

Padding = str | Sequence[Sequence[int]]


class Axis(NamedTuple):
    """One spatial axis of a convolution: input position = stride * output + tap - before."""

    inputs: int
    taps: int
    outputs: int
    before: int
    stride: int

    @property
    def after(self) -> int:
        """Padding that the last output reaches into; negative where the last inputs are never read."""
        return self.stride * (self.outputs - 1) + self.taps - self.before - self.inputs


Geometry = tuple[Axis, Axis]

# The letters of the axes: g group, b example, c input channel, o output channel; each letter but g and the spatial
# h, w, i, j stands in two of the three arrays.
AXES = {"x": "gbhwc", "w": "gijco", "y": "gbhwo"}
OPERANDS = {"y": ("x", "w"), "x": ("w", "y"), "w": ("x", "y")}
SHARED = {frozenset("xy"): "b", frozenset("xw"): "c", frozenset("wy"): "o"}


def accumulator(*operands: jax.Array) -> jnp.dtype:
    """The type sums are kept in: float32 for half precision, else the operands' own."""
    return jnp.promote_types(jnp.result_type(*operands), jnp.float32)


def multiply(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """An `einsum` that keeps its sums in `accumulator`'s type."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=accumulator(a, b))


def convolve(
    image: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    edges: Sequence[tuple[int, int]],
    dimension_numbers: tuple[str, str, str] = ("NHWC", "HWIO", "NHWC"),
    **dilation: Sequence[int],
) -> jax.Array:
    """XLA's convolution, NHWC and HWIO unless told otherwise, that keeps its sums in `accumulator`'s type."""
    return lax.conv_general_dilated(
        image,
        kernel,
        strides,
        edges,
        dimension_numbers=dimension_numbers,
        preferred_element_type=accumulator(image, kernel),
        **dilation,
    )


def spread_edges(geometry: Geometry, taps: tuple[int, int]) -> list[tuple[int, int, int]]:
    """How `lax.pad` lays the outputs of one tap where the tap read them: before, after and between, on each axis."""
    return [
        (tap - axis.before, axis.inputs + axis.before - tap - axis.stride * (axis.outputs - 1) - 1, axis.stride - 1)
        for axis, tap in zip(geometry, taps, strict=True)
    ]


def products(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form as one matrix product per tap, batched over groups: nothing here is a convolution."""
    rows, columns = geometry
    taps = [(i, j) for i in range(rows.taps) for j in range(columns.taps)]
    if blank == "x":
        w, y = a, b

        def spread(i: int, j: int) -> jax.Array:
            """The adjoint of `read`: outputs of one tap laid where the tap read them."""
            edges = spread_edges(geometry, (i, j))
            part = multiply("gbhwo,gco->gbhwc", y, w[:, i, j])
            return lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), (0, 0, 0), *edges, (0, 0, 0)])

        return sum(spread(i, j) for i, j in taps)

    x = a
    edges = [(axis.before, axis.after, 0) for axis in geometry]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *edges, (0, 0, 0)])

    def read(i: int, j: int) -> jax.Array:
        rows_read = slice(i, i + rows.stride * (rows.outputs - 1) + 1, rows.stride)
        columns_read = slice(j, j + columns.stride * (columns.outputs - 1) + 1, columns.stride)
        return x[:, :, rows_read, columns_read]

    if blank == "y":
        return sum(multiply("gbhwc,gco->gbhwo", read(i, j), b[:, i, j]) for i, j in taps)
    parts = jnp.stack([multiply("gbhwc,gbhwo->gco", read(i, j), b) for i, j in taps], axis=1)
    return parts.reshape(parts.shape[0], rows.taps, columns.taps, *parts.shape[2:])


def native(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form, without groups, as XLA itself writes a convolution and its two gradients: what cuDNN and TPUs know."""
    strides = [axis.stride for axis in geometry]
    if blank == "y":
        edges = [(axis.before, max(axis.after, 0)) for axis in geometry]
        return convolve(a, b, strides, edges)
    if blank == "w":
        edges = [(axis.before, axis.after) for axis in geometry]
        return convolve(a, b, (1, 1), edges, rhs_dilation=strides, dimension_numbers=("CHWN", "IHWO", "HWNC"))
    edges = [
        (axis.taps - 1 - axis.before, axis.inputs + axis.before - axis.stride * (axis.outputs - 1) - 1)
        for axis in geometry
    ]
    return convolve(b, a[::-1, ::-1], (1, 1), edges, lhs_dilation=strides, dimension_numbers=("NHWC", "HWOI", "NHWC"))


def canonical(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form, without groups, as convolutions of undilated NHWC images with HWIO kernels: the form for CPU.

    What XLA's CPU convolutions are ruinous at is a dilated image, and any other layout inside a loop or as the
    weight gradient of a transpose: 16x16, 64 to 128 channels, batch 64 is 240 ms there for 15, 1,290 ms inside
    `scan` for 12 (second order: 320 for 54). In this layout each blank is as fast in `scan` as outside, and
    outside about as fast as `native` or faster. Matrix products take over where they are faster: for 1x1 taps, small
    images, many channels, few channels at stride 2.
    """
    if all(axis == Axis(axis.inputs, 1, axis.inputs, 0, 1) for axis in geometry):
        # 1x1, 32x32, 16 to 32 channels, batch 32: 4 ms for 26 with gradients, 12 for 100 with second ones.
        return products(blank, a[None], b[None], geometry)[0]
    rows, columns = geometry
    outputs = rows.outputs * columns.outputs
    if blank == "y":
        is_small = outputs <= 64 and rows.stride > 1 and rows.taps % rows.stride == columns.taps % rows.stride == 0
        return outputs_by_phases(a, b, geometry) if is_small else native("y", a, b, geometry)
    if blank == "w":
        x = a[:, : rows.inputs + min(rows.after, 0), : columns.inputs + min(columns.after, 0)]
        edges = [(axis.before, max(axis.after, 0)) for axis in geometry]
        if min(a.shape[-1], b.shape[-1]) >= 64:
            return weights_tap_by_tap(jnp.pad(x, ((0, 0), *edges, (0, 0))), b, geometry)
        if rows.stride > 1:
            return weights_by_phases(a, b, geometry)
        image, kernel = x.transpose(3, 1, 2, 0), b.transpose(1, 2, 0, 3)
        return convolve(image, kernel, (1, 1), edges).transpose(1, 2, 0, 3)
    return inputs_by_one_product(a, b, geometry) if outputs <= 36 else inputs_by_phases(a, b, geometry)


def phases_of_image(x: jax.Array, geometry: Geometry) -> jax.Array:
    """The image padded, with the s x s pixels of each cell as channels: [B, H, W, C] to [B, H', W', s s C].

    A convolution with stride s is one without stride here, by `phases_of_kernel`.
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
    """The kernel of `phases_of_image`, with taps of 0 where s does not divide them: [kh', kw', s, s, C, O]."""
    s, (taps_h, taps_w) = stride, (-(-taps // stride) for taps in w.shape[:2])
    w = jnp.pad(w, ((0, taps_h * s - w.shape[0]), (0, taps_w * s - w.shape[1]), (0, 0), (0, 0)))
    return w.reshape(taps_h, s, taps_w, s, *w.shape[2:]).transpose(0, 2, 1, 3, 4, 5)


def outputs_by_phases(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution as one matrix product for each tap of cells.

    8x8, 128 to 256 channels, 4x4 at stride 2, batch 64 takes 9.4 ms where XLA's convolution takes 11.3; 8x8, 32 to 64
    0.8 for 1.2. Where the image is larger the copies cost more than is won.
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
    """
    taps_h, taps_w, channels, _ = w.shape
    parts = multiply("bhwo,ijco->bhwijc", y, w)

    def spread(i: int, j: int) -> jax.Array:
        edges = spread_edges(geometry, (i, j))
        return lax.pad(parts[:, :, :, i, j], jnp.zeros((), parts.dtype), [(0, 0, 0), *edges, (0, 0, 0)])

    return sum(spread(i, j) for i in range(taps_h) for j in range(taps_w))


def inputs_by_phases(w: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The transposed convolution as a single convolution without dilation.

    Input position s m + r - before is read by tap s u + r of output m - u: for each phase r an undilated convolution,
    and all phases read the same outputs, so that they are channels of one.
    """
    rows, columns = geometry
    s, channels = rows.stride, w.shape[2]
    w = phases_of_kernel(w, s)[::-1, ::-1]
    taps = w.shape[:2]
    w = w.transpose(0, 1, 5, 2, 3, 4).reshape(*taps, -1, s * s * channels)
    first = [axis.before // s for axis in geometry]
    last = [(axis.before + axis.inputs - 1) // s for axis in geometry]
    edges = [
        (tap - 1 - start, stop - axis.outputs + 1)
        for axis, tap, start, stop in zip(geometry, taps, first, last, strict=True)
    ]
    x = convolve(y, w, (1, 1), edges)
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, s, s, channels).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch, height * s, width * s, channels)
    top, left = (axis.before - s * start for axis, start in zip(geometry, first, strict=True))
    return x[:, top : top + rows.inputs, left : left + columns.inputs]


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


def sizes_of(blank: str, a: jax.Array, b: jax.Array) -> dict[str, int]:
    """The size behind every letter of the operands."""
    first, second = OPERANDS[blank]
    return dict(zip(AXES[first] + AXES[second], a.shape + b.shape, strict=True))


def lower(blank: str, platform: str, a: jax.Array, b: jax.Array, *, geometry: Geometry) -> jax.Array:
    """The program of one primitive on one platform.

    On CPU groups are a loop over `canonical`, which is as fast inside a loop as outside: 4 members of 16x16, 64 to
    128 channels take 50 ms a pass where `products` takes 110, 32 groups of 16 channels 20 and 60 to 90. Images of
    depthwise convolutions are the exception, 35 ms and 1 at 128 channels: XLA fuses all taps into one sweep.
    Elsewhere groups are batched products (not yet measured): sharded groups stay sharded, and neither cuDNN's
    gradients nor XLA's partitioner (which gathers the batch) are good at grouped convolutions.
    """
    dtype = a.dtype
    if platform == "cpu":  # has no half precision arithmetic: widen once, before the taps or phases are read
        a, b = a.astype(accumulator(a)), b.astype(accumulator(b))
    form = partial(canonical if platform == "cpu" else native, blank, geometry=geometry)
    if a.shape[0] == 1:
        return form(a[0], b[0]).astype(dtype)[None]
    sizes = sizes_of(blank, a, b)
    depthwise = sizes["c"] == sizes["o"] == 1
    if platform == "cpu" and (blank == "w" or not depthwise):
        return lax.map(lambda member: form(*member), (a, b)).astype(dtype)
    return products(blank, a, b, geometry).astype(dtype)


def shape(blank: str, a: jax.core.ShapedArray, b: jax.core.ShapedArray, *, geometry: Geometry) -> jax.core.ShapedArray:
    """Sizes of the blank, letter by letter, from the operands and the geometry."""
    if a.dtype != b.dtype:
        raise TypeError(f"a convolution of {a.dtype} with {b.dtype}: convert one of them")
    rows, columns = geometry
    sizes = sizes_of(blank, a, b)
    names = {"x": ("inputs", "h", "w"), "w": ("taps", "i", "j"), "y": ("outputs", "h", "w")}[blank]
    sizes[names[1]], sizes[names[2]] = getattr(rows, names[0]), getattr(columns, names[0])
    return jax.core.ShapedArray(tuple(sizes[letter] for letter in AXES[blank]), a.dtype)


def batch(
    blank: str, operands: tuple[jax.Array, jax.Array], dims: tuple[int | None, int | None], *, geometry: Geometry
) -> tuple[jax.Array, int]:
    """`vmap` adds no axis: it widens one that is there.

    Over one operand, the axis which that operand shares with the blank: the batch, or the channels. Over both, the
    groups: then each member has weights of its own, and the lowering is a batched product.
    """
    names = OPERANDS[blank]
    mapped = [name for name, dim in zip(names, dims, strict=True) if dim is not None]
    letter = "g" if len(mapped) == 2 else SHARED[frozenset((mapped[0], blank))]

    def widen(name: str, operand: jax.Array, dim: int | None) -> jax.Array:
        if dim is None:
            return operand
        axis = AXES[name].index(letter)
        return lax.collapse(jnp.moveaxis(operand, dim, axis), axis, axis + 2)

    out = PRIMITIVES[blank].bind(*map(widen, names, operands, dims), geometry=geometry)
    members = next(operand.shape[dim] for operand, dim in zip(operands, dims, strict=True) if dim is not None)
    axis = AXES[blank].index(letter)
    return out.reshape(*out.shape[:axis], members, out.shape[axis] // members, *out.shape[axis + 1 :]), axis


def primitive(blank: str) -> Primitive:
    """The form with one place left blank, as a function of the other two."""
    first, second = OPERANDS[blank]
    made = Primitive(f"convolution_{blank}")
    made.def_impl(partial(xla.apply_primitive, made))
    made.def_abstract_eval(partial(shape, blank))
    batching.primitive_batchers[made] = partial(batch, blank)

    def transpose(wanted: str, known: str, cotangent: jax.Array, operand: jax.Array, geometry: Geometry) -> jax.Array:
        arrays = {blank: cotangent, known: operand}
        return PRIMITIVES[wanted].bind(*(arrays[name] for name in OPERANDS[wanted]), geometry=geometry)

    ad.defbilinear(
        made,
        lambda cotangent, _, b, *, geometry: transpose(first, second, cotangent, b, geometry),
        lambda cotangent, a, _, *, geometry: transpose(second, first, cotangent, a, geometry),
    )
    mlir.register_lowering(made, mlir.lower_fun(partial(lower, blank, "any"), multiple_results=False))
    mlir.register_lowering(made, mlir.lower_fun(partial(lower, blank, "cpu"), multiple_results=False), platform="cpu")
    return made


PRIMITIVES = {blank: primitive(blank) for blank in OPERANDS}


def split(array: jax.Array, groups: int) -> jax.Array:
    """[..., groups * channels] -> [groups, ..., channels]."""
    return jnp.moveaxis(array.reshape(*array.shape[:-1], groups, array.shape[-1] // groups), -2, 0)


def join(array: jax.Array) -> jax.Array:
    """[groups, ..., channels] -> [..., groups * channels]."""
    return lax.collapse(jnp.moveaxis(array, 0, -2), array.ndim - 2)


def edges_of(padding: Padding) -> tuple[str | tuple[int, int], str | tuple[int, int]]:
    """One rule per spatial axis: "SAME", or the padding before and after."""
    if padding == "SAME":
        return "SAME", "SAME"
    if padding == "VALID":
        return (0, 0), (0, 0)
    try:
        (top, bottom), (left, right) = padding
        if min(top, bottom, left, right) < 0:
            raise ValueError
    except (TypeError, ValueError):
        legal = "'SAME', 'VALID', ((top, bottom), (left, right)) with nothing negative"
        raise ValueError(f"padding={padding!r} is none of {legal}") from None
    return (top, bottom), (left, right)


def forward_axis(inputs: int, taps: int, stride: int, edges: str | tuple[int, int]) -> Axis:
    """The axis of a convolution that reads `inputs` positions."""
    if edges == "SAME":
        outputs = -(-inputs // stride)
        return Axis(inputs, taps, outputs, max(stride * (outputs - 1) + taps - inputs, 0) // 2, stride)
    outputs = (inputs + sum(edges) - taps) // stride + 1
    if outputs < 1:
        raise ValueError(f"a kernel of {taps} does not fit into {inputs} positions padded by {edges}")
    return Axis(inputs, taps, outputs, edges[0], stride)


def sizes_before(outputs: int, taps: int, stride: int, edges: str | tuple[int, int]) -> range:
    """All input sizes that a convolution maps to `outputs`; never empty, or a ValueError."""
    low = stride * (outputs - 1) + 1 if edges == "SAME" else stride * (outputs - 1) + taps - sum(edges)
    sizes = range(max(low, 1), low + stride)
    if not sizes:
        raise ValueError(f"no convolution by {taps} taps, stride {stride}, padding {edges} has {outputs} outputs")
    return sizes


def check(image: jax.Array, w: jax.Array, stride: int, groups: int, channels: tuple[str, int]) -> None:
    """Both arrays have four axes, and the named channel counts of `image` and `w` agree."""
    if image.ndim != 4 or w.ndim != 4:
        raise ValueError(f"an image [B, H, W, C] and a kernel [kh, kw, C, O] are needed, not {image.shape}, {w.shape}")
    name, expected = channels
    if stride < 1 or groups < 1 or w.shape[3] % groups or image.shape[3] != expected:
        raise ValueError(
            f"stride={stride}, groups={groups} with image {image.shape} and kernel {w.shape}: the image must have "
            f"{expected} channels ({name}), the kernel's last axis must divide by groups, and both be positive"
        )


def conv(x: jax.Array, w: jax.Array, *, stride: int = 1, padding: Padding = "SAME", groups: int = 1) -> jax.Array:
    """Convolution (cross-correlation, as everywhere in this field).

        y[b, o, p, q] = sum over i, j, c of  x[b, stride o + i - top, stride p + j - left, c] w[i, j, c, q]

    Args:
      x: [B, H, W, C].
      w: [kh, kw, C / groups, O], of the type of `x`; output group g reads input group g.
      stride: of both spatial axes.
      padding: "SAME" (H' = ceil(H / stride), the odd cell of padding after), "VALID" (none), or
        ((top, bottom), (left, right)), all >= 0.

    Returns:
      [B, H', W', O].

    Raises:
      ValueError: shapes that do not fit, a padding that is none of the above. TypeError: two types.
    """
    check(x, w, stride, groups, ("the kernel's third axis times groups", w.shape[2] * groups))
    geometry = tuple(
        forward_axis(size, taps, stride, edges)
        for size, taps, edges in zip(x.shape[1:3], w.shape[:2], edges_of(padding), strict=True)
    )
    return join(PRIMITIVES["y"].bind(split(x, groups), split(w, groups), geometry=geometry))


def conv_transpose(
    y: jax.Array,
    w: jax.Array,
    *,
    stride: int = 1,
    padding: Padding = "SAME",
    groups: int = 1,
    output_size: Sequence[int] | None = None,
) -> jax.Array:
    """The adjoint of `conv` in its input, for the same `w`:  <conv(x, w), y> = <x, conv_transpose(y, w)>.

    Args:
      y: [B, H', W', O].
      w: [kh, kw, C / groups, O], the kernel of the convolution.
      stride, padding: of the convolution.
      output_size: (H, W), any size that `conv` maps to (H', W'). Default, as in Keras: H = stride H' for "SAME",
        stride (H' - 1) + kh for "VALID"; for explicit padding the smallest, stride (H' - 1) + kh - top - bottom.

    Returns:
      [B, H, W, C].

    Raises:
      ValueError: shapes that do not fit; an illegal `output_size`, with the legal ones. TypeError: two types.
    """
    check(y, w, stride, groups, ("the kernel's last axis", w.shape[3]))
    rules = edges_of(padding)
    legal = [
        sizes_before(size, taps, stride, edges)
        for size, taps, edges in zip(y.shape[1:3], w.shape[:2], rules, strict=True)
    ]
    if output_size is None:
        output_size = [sizes[-1] if padding == "SAME" else sizes[0] for sizes in legal]
    if len(output_size) != 2 or any(size not in sizes for size, sizes in zip(output_size, legal, strict=True)):
        heights, widths = (f"{sizes[0]}..{sizes[-1]}" for sizes in legal)
        raise ValueError(f"output_size={tuple(output_size)}: legal heights are {heights}, legal widths {widths}")
    geometry = tuple(
        forward_axis(size, taps, stride, edges)
        for size, taps, edges in zip(output_size, w.shape[:2], rules, strict=True)
    )
    return join(PRIMITIVES["x"].bind(split(w, groups), split(y, groups), geometry=geometry))


class Conv(nn.Module):
    """`conv` with parameters `kernel` [kh, kw, C / groups, features] and, if `use_bias`, `bias` [features].

    Args, result and errors as in `conv`. `dtype` is the type of the computation (default: that of input and
    parameters together), `param_dtype` that of the parameters.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    stride: int = 1
    padding: Padding = "SAME"
    groups: int = 1
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel_shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, kernel_shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = conv(x, kernel, stride=self.stride, padding=self.padding, groups=self.groups)
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)


class ConvTranspose(nn.Module):
    """`conv_transpose` with parameters `kernel` [kh, kw, features, C] and, if `use_bias`, `bias` [features].

    The kernel is that of the convolution whose adjoint this is (as in Keras; PyTorch's [C, features, kh, kw] with
    its axes moved). `kernel_init` is shown the shape [kh, kw, C, features], so that it sees the fans of the map
    that is computed, kh kw C in and kh kw features out, as in Flax; Keras and PyTorch swap the two. One output in
    fact sees about 1 / stride^2 of that fan-in.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    stride: int = 1
    padding: Padding = "SAME"
    output_size: tuple[int, int] | None = None
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def adjoint_init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            return self.kernel_init(key, shape, dtype).swapaxes(-1, -2)

        fans = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", adjoint_init, fans, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = conv_transpose(x, kernel, stride=self.stride, padding=self.padding, output_size=self.output_size)
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)
