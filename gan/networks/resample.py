"""Networks, lowest floor: resampling of images with the filter [1, 3, 3, 1], as StyleGAN2 and R3GAN do it.

A filter along both axes and its adjoint are linear maps, each the other's derivative, so that one primitive holds
gradients of every order, with one lowering per platform: `conv_forms.Axis` says which inputs an output reads.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from gan.networks.conv.forms import Axis, Geometry

TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def downsample(x: Array) -> Array:
    """Every second pixel of x filtered with [1, 3, 3, 1] / 8 along both axes, 0 beyond the edge: [B, H, W, C] to half.

    Reference: Karras et al. 2020, arXiv:1912.04958, appendix B.
    """
    return _filter(x, tuple(Axis(size, 4, size // 2, 1, 2) for size in x.shape[1:3]), 1.0, is_adjoint=False)


def upsample(x: Array) -> Array:
    """The adjoint of `downsample` times 4, [B, H, W, C] to twice the size: bilinear, with 0 beyond the edge."""
    return _filter(x, tuple(Axis(2 * size, 4, size, 1, 2) for size in x.shape[1:3]), 2.0, is_adjoint=True)


def blur_before(x: Array) -> Array:
    """x filtered with [1, 3, 3, 1] / 8 along both axes, [B, H, W, C] to [B, H + 1, W + 1, C], for a convolution that
    then takes every second pixel."""
    return _filter(x, tuple(Axis(size + 1, 4, size, 1, 1) for size in x.shape[1:3]), 1.0, is_adjoint=True)


def blur_after(x: Array) -> Array:
    """x filtered with [1, 3, 3, 1] / 4 along both axes, [B, H + 1, W + 1, C] to [B, H, W, C], after a transposed
    convolution of stride 2."""
    return _filter(x, tuple(Axis(size, 4, size - 1, 1, 1) for size in x.shape[1:3]), 2.0, is_adjoint=False)


def _filter(x: Array, geometry: Geometry, gain: float, *, is_adjoint: bool) -> Array:
    return filter_p.bind(x, geometry=geometry, gain=gain, is_adjoint=is_adjoint)


def by_matrices(x: Array, *, geometry: Geometry, gain: float, is_adjoint: bool) -> Array:
    """As a product with a banded matrix for each axis: the lowering for CPU.

    A gradient of R1 through two halvings, an enlargement and the 1x1 products between them takes 72 ms so, 131 as sums
    of shifted phases and 198 as depthwise convolutions of the family (batch 32, 32x32, 32 channels; two cores that do
    other work besides); 31, 49 and 101 with 64 channels of 16x16. Shifts are faster only without a derivative, 2 ms
    to 6.
    """
    rows, columns = (_matrix(axis, gain, x.dtype) for axis in geometry)
    return jnp.einsum("bpqc,ph,qw->bhwc" if is_adjoint else "bhwc,ph,qw->bpqc", x, rows, columns)


def by_shifts(x: Array, *, geometry: Geometry, gain: float, is_adjoint: bool) -> Array:
    """As a sum of shifted images: the lowering for GPU and TPU.

    The compiler makes a single pass over the image of it, in float32 until the result; a product with a matrix needs
    the image transposed before and after.
    """
    shift = _spread if is_adjoint else _gather
    made = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for dimension, axis in zip((1, 2), geometry, strict=True):
        made = shift(made, dimension, axis, gain)
    return made.astype(x.dtype)


def _matrix(axis: Axis, gain: float, dtype: jnp.dtype) -> Array:
    """[outputs, inputs]: row p has the taps at columns stride p - before and on, as far as there are such."""
    tap = np.arange(axis.inputs) + axis.before - axis.stride * np.arange(axis.outputs)[:, None]
    taps = np.asarray(TAPS)[tap.clip(0, axis.taps - 1)]
    return jnp.asarray(gain * np.where((tap >= 0) & (tap < axis.taps), taps, 0.0), dtype)


def _gather(x: Array, dimension: int, axis: Axis, gain: float) -> Array:
    """The filter along one axis: for each tap the inputs that the outputs read by it."""
    edges = [(0, 0, 0)] * x.ndim
    edges[dimension] = (axis.before, axis.after, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)
    reach = axis.stride * (axis.outputs - 1) + 1
    return sum(
        gain * tap * lax.slice_in_dim(x, k, k + reach, axis.stride, axis=dimension) for k, tap in enumerate(TAPS)
    )


def _spread(y: Array, dimension: int, axis: Axis, gain: float) -> Array:
    """The adjoint of `_gather`: input s m + r - before is read by tap s u + r of output m - u."""
    s = axis.stride
    first, last = axis.before // s, (axis.before + axis.inputs - 1) // s
    most = (axis.taps - 1) // s
    edges = [(0, 0, 0)] * y.ndim
    edges[dimension] = (most - first, last - axis.outputs + 1, 0)
    y = lax.pad(y, jnp.zeros((), y.dtype), edges)
    count = last - first + 1
    phases = [
        sum(
            gain * TAPS[s * u + r] * lax.slice_in_dim(y, most - u, most - u + count, axis=dimension)
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


def _batch(operands: tuple[Array], dims: tuple[int], **how) -> tuple[Array, int]:
    """`vmap` widens the batch."""
    members = operands[0].shape[dims[0]]
    made = filter_p.bind(lax.collapse(jnp.moveaxis(operands[0], dims[0], 0), 0, 2), **how)
    return made.reshape(members, -1, *made.shape[1:]), 0


filter_p = Primitive("filter_1331")
filter_p.def_impl(partial(xla.apply_primitive, filter_p))
filter_p.def_abstract_eval(_shape)
ad.deflinear2(filter_p, lambda cotangent, _, is_adjoint, **how: [
    filter_p.bind(cotangent, is_adjoint=not is_adjoint, **how)
])  # fmt: skip
batching.primitive_batchers[filter_p] = _batch
mlir.register_lowering(filter_p, mlir.lower_fun(by_shifts, multiple_results=False))
mlir.register_lowering(filter_p, mlir.lower_fun(by_matrices, multiple_results=False), platform="cpu")
