"""Resampling of images with the filter [1, 3, 3, 1] along both axes, as in StyleGAN2 and R3GAN.

The filter and its adjoint are linear, and each is the other's derivative. So one JAX primitive with a flag for the
adjoint is closed under differentiation of every order, and needs one lowering per platform. `forms.Axis` states which
inputs an output reads.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from gan.networks.conv.forms import Axis, Geometry, total
from gan.networks.conv.plain import is_plain

TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def downsample(x: Array) -> Array:
    """x filtered with [1, 3, 3, 1] / 8 along both axes, every second pixel: [B, H, W, C] to [B, H / 2, W / 2, C].

    Beyond the edge, x is 0.

    Reference: Karras et al. 2020, arXiv:1912.04958, appendix B.
    """
    return _filter(x, tuple(Axis(size, 4, size // 2, 1, 2) for size in x.shape[1:3]), 1.0, is_adjoint=False)


def upsample(x: Array) -> Array:
    """4 times the adjoint of `downsample`, [B, H, W, C] to [B, 2 H, 2 W, C]: bilinear, with 0 beyond the edge."""
    return _filter(x, tuple(Axis(2 * size, 4, size, 1, 2) for size in x.shape[1:3]), 2.0, is_adjoint=True)


def blur_before(x: Array) -> Array:
    """x filtered with [1, 3, 3, 1] / 8 along both axes, before a convolution of stride 2 without padding.

    [B, H, W, C] to [B, H + 1, W + 1, C].
    """
    return _filter(x, tuple(Axis(size + 1, 4, size, 1, 1) for size in x.shape[1:3]), 1.0, is_adjoint=True)


def blur_after(x: Array) -> Array:
    """x filtered with [1, 3, 3, 1] / 4 along both axes, after a transposed convolution of stride 2.

    [B, H + 1, W + 1, C] to [B, H, W, C].
    """
    return _filter(x, tuple(Axis(size, 4, size - 1, 1, 1) for size in x.shape[1:3]), 2.0, is_adjoint=False)


def _filter(x: Array, geometry: Geometry, gain: float, *, is_adjoint: bool) -> Array:
    apply = by_matrices if is_plain() else filter_p.bind
    return apply(x, geometry=geometry, gain=gain, is_adjoint=is_adjoint)


def by_matrices(x: Array, *, geometry: Geometry, gain: float, is_adjoint: bool) -> Array:
    """The filter as a product with a banded matrix for each axis: the lowering for CPU.

    The gradient of R1 through two `downsample`, one `upsample` and the 1x1 convolutions between them takes 72 ms with
    matrices, 131 ms with `by_shifts` and 198 ms with depthwise convolutions (batch 32, 32x32, 32 channels, on two busy
    cores). With 64 channels of 16x16 these times are 31, 49 and 101 ms. Shifts are faster only without a derivative: 2
    against 6 ms.
    """
    rows, columns = (_matrix(axis, gain, x.dtype) for axis in geometry)
    return jnp.einsum("bpqc,ph,qw->bhwc" if is_adjoint else "bhwc,ph,qw->bpqc", x, rows, columns)


def by_shifts(x: Array, *, geometry: Geometry, gain: float, is_adjoint: bool) -> Array:
    """The filter as a sum of shifted images: the lowering for GPU and TPU.

    The compiler fuses it into one pass over the image, in float32 until the result is rounded. A product with a matrix
    would transpose the image before and after.
    """
    shift = _spread if is_adjoint else _gather
    filtered = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for dimension, axis in zip((1, 2), geometry, strict=True):
        filtered = shift(filtered, dimension, axis, gain)
    return filtered.astype(x.dtype)


def _matrix(axis: Axis, gain: float, dtype: jnp.dtype) -> Array:
    """[outputs, inputs]: row p has the taps from column stride p - before on, cut off at the edges."""
    tap = np.arange(axis.inputs) + axis.before - axis.stride * np.arange(axis.outputs)[:, None]
    taps = np.asarray(TAPS)[tap.clip(0, axis.taps - 1)]
    return jnp.asarray(gain * np.where((tap >= 0) & (tap < axis.taps), taps, 0.0), dtype)


def _gather(x: Array, dimension: int, axis: Axis, gain: float) -> Array:
    """The filter along one axis: the sum over taps of the inputs that each output reads with that tap."""
    edges = [(0, 0, 0)] * x.ndim
    edges[dimension] = (axis.before, axis.after, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)
    reach = axis.stride * (axis.outputs - 1) + 1
    return total(
        gain * tap * lax.slice_in_dim(x, k, k + reach, axis.stride, axis=dimension) for k, tap in enumerate(TAPS)
    )


def _spread(y: Array, dimension: int, axis: Axis, gain: float) -> Array:
    """The adjoint of `_gather`: tap s u + r of output m - u reads input s m + r - before."""
    s = axis.stride
    first, last = axis.before // s, (axis.before + axis.inputs - 1) // s
    max_u = (axis.taps - 1) // s
    edges = [(0, 0, 0)] * y.ndim
    edges[dimension] = (max_u - first, last - axis.outputs + 1, 0)
    y = lax.pad(y, jnp.zeros((), y.dtype), edges)
    count = last - first + 1
    phases = [
        sum(
            gain * TAPS[s * u + r] * lax.slice_in_dim(y, max_u - u, max_u - u + count, axis=dimension)
            for u in range((axis.taps - 1 - r) // s + 1)
        )
        for r in range(s)
    ]
    x = lax.collapse(jnp.stack(phases, dimension + 1), dimension, dimension + 2)
    start = axis.before - s * first
    return lax.slice_in_dim(x, start, start + axis.inputs, axis=dimension)


def _shape(x: jax.core.ShapedArray, *, geometry: Geometry, gain: float, is_adjoint: bool) -> jax.core.ShapedArray:
    size = [axis.inputs if is_adjoint else axis.outputs for axis in geometry]
    return jax.core.ShapedArray((x.shape[0], *size, x.shape[3]), x.dtype)


def _batch(operands: tuple[Array], dims: tuple[int], **params) -> tuple[Array, int]:
    """The batching rule: `vmap` adds its axis to the batch."""
    members = operands[0].shape[dims[0]]
    filtered = filter_p.bind(lax.collapse(jnp.moveaxis(operands[0], dims[0], 0), 0, 2), **params)
    return filtered.reshape(members, -1, *filtered.shape[1:]), 0


filter_p = Primitive("filter_1331")
filter_p.def_impl(partial(xla.apply_primitive, filter_p))
filter_p.def_abstract_eval(_shape)
ad.deflinear2(filter_p, lambda cotangent, _, is_adjoint, **params: [
    filter_p.bind(cotangent, is_adjoint=not is_adjoint, **params)
])  # fmt: skip
batching.primitive_batchers[filter_p] = _batch
mlir.register_lowering(filter_p, mlir.lower_fun(by_shifts, multiple_results=False))
mlir.register_lowering(filter_p, mlir.lower_fun(by_matrices, multiple_results=False), platform="cpu")
