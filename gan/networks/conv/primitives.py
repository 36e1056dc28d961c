"""Convolution, transposed convolution and their Flax modules.

A convolution, its input gradient and its weight gradient are closed under differentiation: each is bilinear, and its
transposes are the other two. They are JAX primitives, so that gradients of every order (R1, WGAN-GP) are made of these
three, and each needs one fast lowering per platform.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax._src import dispatch
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from gan.networks.conv.cpu import canonical
from gan.networks.conv.forms import (
    AXES,
    OPERANDS,
    Axis,
    Geometry,
    accumulator,
    join,
    native_groups,
    products,
    shape_of,
    sizes_of,
    split,
)
from gan.networks.conv.grouped import grouped
from gan.networks.conv.plain import is_plain, plain

Padding = str | Sequence[Sequence[int]]

SHARED = {frozenset("xy"): "b", frozenset("xw"): "c", frozenset("wy"): "o"}


def lower(blank: str, platform: str, a: jax.Array, b: jax.Array, *, geometry: Geometry) -> jax.Array:
    """The lowering of one primitive on one platform. All platforms but "cpu" and "tpu" use that of "gpu"."""
    if platform == "cpu":
        return lower_cpu(blank, a, b, geometry)
    return lower_tpu(blank, a, b, geometry) if platform == "tpu" else grouped(blank, a, b, geometry)


def lower_tpu(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The lowering of one primitive on TPU: XLA's own convolution with a float32 result that is rounded at the end.

    On TPU bfloat16 operands stay bfloat16, and an operation that reads the sums, such as a mean, can read them before
    they are rounded. A training step of DCGAN at 64x64 in bfloat16, compiled for v5e, has 0.14 GiB of temporary memory
    with it and 0.19 without.
    """
    return native_groups(blank, a, b, geometry, accumulator(a)).astype(a.dtype)


def lower_cpu(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The lowering of one primitive on CPU.

    Groups are a loop over `canonical`, which is as fast inside a loop as outside. Four groups of 16x16, 64 to 128
    channels take 50 ms per pass with the loop and 110 ms with `products`; 32 groups of 16 channels take 20 ms and 60 to
    90 ms. The inputs and outputs of depthwise convolutions are the exception: 35 ms and 1 ms at 128 channels, because
    XLA fuses all taps of `products` into one pass over the image.
    """
    dtype = a.dtype
    # A CPU has no half precision arithmetic: widen once, before the taps or phases are read.
    a, b = a.astype(accumulator(a)), b.astype(accumulator(b))
    if a.shape[0] == 1:
        return canonical(blank, a[0], b[0], geometry).astype(dtype)[None]
    sizes = sizes_of(blank, a, b)
    if blank == "w" or not sizes["c"] == sizes["o"] == 1:
        return lax.map(lambda pair: canonical(blank, pair[0], pair[1], geometry), (a, b)).astype(dtype)
    return products(blank, a, b, geometry).astype(dtype)


def shape(blank: str, a: jax.core.ShapedArray, b: jax.core.ShapedArray, *, geometry: Geometry) -> jax.core.ShapedArray:
    """The shape and type of the blank, from the operands and the geometry."""
    if a.dtype != b.dtype:
        raise TypeError(f"a convolution of {a.dtype} with {b.dtype}; expected: equal types, so convert one of them")
    return jax.core.ShapedArray(shape_of(blank, a, b, geometry), a.dtype)


def batch(
    blank: str, operands: tuple[jax.Array, jax.Array], dims: tuple[int | None, int | None], *, geometry: Geometry
) -> tuple[jax.Array, int]:
    """The batching rule: `vmap` adds no axis, but enlarges one of the operands' axes.

    Mapped over one operand, it is the axis that only this operand shares with the blank: the batch, or the channels.
    Mapped over both, it is the groups: each member then has its own weights.
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
    """The JAX primitive that computes the blank from the other two arrays."""
    first, second = OPERANDS[blank]
    conv_p = Primitive(f"convolution_{blank}")
    conv_p.def_impl(partial(xla.apply_primitive, conv_p))
    conv_p.def_abstract_eval(partial(shape, blank))
    batching.primitive_batchers[conv_p] = partial(batch, blank)

    def transpose(wanted: str, known: str, cotangent: jax.Array, operand: jax.Array, geometry: Geometry) -> jax.Array:
        arrays = {blank: cotangent, known: operand}
        return PRIMITIVES[wanted].bind(*(arrays[name] for name in OPERANDS[wanted]), geometry=geometry)

    ad.defbilinear(
        conv_p,
        lambda cotangent, _, b, *, geometry: transpose(first, second, cotangent, b, geometry),
        lambda cotangent, a, _, *, geometry: transpose(second, first, cotangent, a, geometry),
    )
    # `custom_partitioning`, in the lowering of groups, needs to know the devices. JAX marks its own primitive likewise.
    dispatch.prim_requires_devices_during_lowering.add(conv_p)
    mlir.register_lowering(conv_p, mlir.lower_fun(partial(lower, blank, "gpu"), multiple_results=False))
    for platform in ("cpu", "tpu"):
        lowering = mlir.lower_fun(partial(lower, blank, platform), multiple_results=False)
        mlir.register_lowering(conv_p, lowering, platform=platform)
    return conv_p


PRIMITIVES = {blank: primitive(blank) for blank in OPERANDS}


def edges_of(padding: Padding) -> tuple[str | tuple[int, int], str | tuple[int, int]]:
    """The padding of each spatial axis: "SAME", or the numbers of pixels before and after."""
    if padding == "SAME":
        return "SAME", "SAME"
    if padding == "VALID":
        return (0, 0), (0, 0)
    try:
        if isinstance(padding, str):
            raise ValueError
        (top, bottom), (left, right) = padding
        if min(top, bottom, left, right) < 0:
            raise ValueError
    except (TypeError, ValueError):
        valid = "'SAME', 'VALID', or ((top, bottom), (left, right)) without negative numbers"
        raise ValueError(f"padding={padding!r}; expected: {valid}") from None
    return (top, bottom), (left, right)


def forward_axis(inputs: int, taps: int, stride: int, edges: str | tuple[int, int]) -> Axis:
    """The axis of a convolution that reads `inputs` positions."""
    if isinstance(edges, str):
        outputs = -(-inputs // stride)
        return Axis(inputs, taps, outputs, max(stride * (outputs - 1) + taps - inputs, 0) // 2, stride)
    outputs = (inputs + sum(edges) - taps) // stride + 1
    if outputs < 1:
        raise ValueError(f"a kernel of {taps} does not fit into {inputs} positions padded by {edges}")
    return Axis(inputs, taps, outputs, edges[0], stride)


def sizes_before(outputs: int, taps: int, stride: int, edges: str | tuple[int, int]) -> range:
    """All input sizes that a convolution maps to `outputs`. Raises `ValueError` where there are none."""
    low = stride * (outputs - 1) + 1 if isinstance(edges, str) else stride * (outputs - 1) + taps - sum(edges)
    sizes = range(max(low, 1), low + stride)
    if not sizes:
        raise ValueError(f"no convolution by {taps} taps, stride {stride}, padding {edges} has {outputs} outputs")
    return sizes


def check(image: jax.Array, w: jax.Array, stride: int, groups: int, channels: tuple[str, int]) -> None:
    """Raises `ValueError` unless both arrays have four axes and their channels, stride and groups fit."""
    if image.ndim != 4 or w.ndim != 4:
        raise ValueError(f"an image {image.shape} and a kernel {w.shape}; expected: [B, H, W, C] and [kh, kw, C, O]")
    name, expected = channels
    if stride < 1 or groups < 1 or w.shape[3] % groups or image.shape[3] != expected:
        raise ValueError(
            f"stride={stride}, groups={groups} with image {image.shape} and kernel {w.shape}: the image must have "
            f"{expected} channels ({name}), the kernel's last axis must divide by groups, and both be positive"
        )


def conv(x: jax.Array, w: jax.Array, *, stride: int = 1, padding: Padding = "SAME", groups: int = 1) -> jax.Array:
    """Convolution (a cross-correlation, as usual in deep learning).

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
      ValueError: shapes that do not fit, an invalid padding. TypeError: operands of different types.
    """
    check(x, w, stride, groups, ("the kernel's third axis times groups", w.shape[2] * groups))
    geometry = tuple(
        forward_axis(size, taps, stride, edges)
        for size, taps, edges in zip(x.shape[1:3], w.shape[:2], edges_of(padding), strict=True)
    )
    return join(_form("y", split(x, groups), split(w, groups), geometry))


def conv_transpose(
    y: jax.Array,
    w: jax.Array,
    *,
    stride: int = 1,
    padding: Padding = "SAME",
    groups: int = 1,
    output_size: Sequence[int] | None = None,
) -> jax.Array:
    """Transposed convolution, the adjoint of `conv` for the same `w`: <conv(x, w), y> = <x, conv_transpose(y, w)>.

    Args:
      y: [B, H', W', O].
      w: [kh, kw, C / groups, O], the kernel of the convolution.
      stride, padding: of the convolution.
      output_size: (H, W), any size that `conv` maps to (H', W'). Default, as in Keras: H = stride H' for "SAME",
        stride (H' - 1) + kh for "VALID"; for explicit padding the smallest, stride (H' - 1) + kh - top - bottom.

    Returns:
      [B, H, W, C].

    Raises:
      ValueError: shapes that do not fit; an invalid `output_size`, with the valid ones. TypeError: operands of
        different types.
    """
    check(y, w, stride, groups, ("the kernel's last axis", w.shape[3]))
    rules = edges_of(padding)
    valid = [
        sizes_before(size, taps, stride, edges)
        for size, taps, edges in zip(y.shape[1:3], w.shape[:2], rules, strict=True)
    ]
    if output_size is None:
        output_size = [sizes[-1] if padding == "SAME" else sizes[0] for sizes in valid]
    if len(output_size) != 2 or any(size not in sizes for size, sizes in zip(output_size, valid, strict=True)):
        heights, widths = (f"{sizes[0]}..{sizes[-1]}" for sizes in valid)
        raise ValueError(f"output_size={tuple(output_size)}: valid heights are {heights}, valid widths {widths}")
    geometry = tuple(
        forward_axis(size, taps, stride, edges)
        for size, taps, edges in zip(output_size, w.shape[:2], rules, strict=True)
    )
    return join(_form("x", split(w, groups), split(y, groups), geometry))


def _form(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    return plain(blank, a, b, geometry) if is_plain() else PRIMITIVES[blank].bind(a, b, geometry=geometry)


class Conv(nn.Module):
    """`conv` with parameters `kernel` [kh, kw, C / groups, features] and, if `use_bias`, `bias` [features].

    Arguments, result and errors are those of `conv`. `dtype` is the type of the computation (default: the promoted type
    of input and parameters), `param_dtype` that of the parameters.
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

    The kernel is that of the convolution whose adjoint this is (as in Keras; in PyTorch it is [C, features, kh, kw]).
    `kernel_init` is called with the shape [kh, kw, C, features], so its fan-in is kh kw C and its fan-out kh kw
    features, as in Flax; Keras and PyTorch swap the two. One output has about 1 / stride^2 of this fan-in.
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
