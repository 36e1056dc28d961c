"""The lowering of convolutions on GPU: images of few channels by phases, and groups split over devices."""

import math
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gan.networks.conv.forms import (
    AXES,
    OPERANDS,
    Axis,
    Geometry,
    convolve,
    inputs_by_phases,
    native,
    native_groups,
    phases_of_image,
    phases_of_kernel,
)

FACTORS = {"x": "g b h w c", "w": "g i j c o", "y": "g b p q o"}
"""As AXES, with a letter for each size: outputs and inputs have different positions."""


FEW = 4
"""The most channels that an image has: color with alpha."""
ALIGNED = 8
"""cuDNN's kernels for tensor cores take multiples of 8 channels in bfloat16, and of 4 in TF32."""


def grouped(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form as XLA's own convolution, in groups where there are several, and `by_phases` where that is faster.

    For a convolution in groups, XLA's partitioner for GPUs gathers the whole batch on every device (openxla/xla pull
    request 48086). Here each device computes its own examples and groups, and only a weight gradient is summed over
    devices. The partitioner for TPUs does not gather, and has no `custom_partitioning`.
    """
    if len(a) > 1:
        return PARTITIONED[blank](geometry, a, b)
    is_divided = geometry[0].stride > 1 and all(axis.taps % axis.stride == 0 for axis in geometry)
    if is_divided and a.shape[-2 if blank == "x" else -1] <= FEW:
        return by_phases(blank, a[0], b[0], geometry)[None]
    return native_groups(blank, a, b, geometry)


def by_phases(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form without groups as one of stride 1, of `phases_of_image`, for images of few channels.

    Tensor cores need more channels than an image has, and cuDNN copies the image, and the kernel, with zeros as further
    channels. Phases have s s times as many, here with zeros to a multiple of ALIGNED. On one H200 the step of DCGAN at
    64x64, batch 1,024, in bfloat16 takes 8.5 ms with them, and 10.6 ms without.
    """
    stride, channels = geometry[0].stride, a.shape[-2 if blank == "x" else -1]
    padded = channels + -channels % (ALIGNED // math.gcd(ALIGNED, stride * stride))
    if blank == "x":
        return inputs_by_phases(_with_channels(a, 2, padded)[None], b[None], geometry)[0, ..., :channels]
    x = phases_of_image(_with_channels(a, 3, padded), geometry)
    taps = [axis.taps // stride for axis in geometry]
    if blank == "y":
        w = phases_of_kernel(_with_channels(b, 2, padded), stride)
        return convolve(x, w.reshape(*taps, x.shape[3], -1), (1, 1), ((0, 0), (0, 0)))
    inner = tuple(
        Axis(inputs, tap, axis.outputs, 0, 1) for inputs, tap, axis in zip(x.shape[1:3], taps, geometry, strict=True)
    )
    w = native("w", x, b, inner).reshape(*taps, stride, stride, padded, -1).transpose(0, 2, 1, 3, 4, 5)
    return w.reshape(geometry[0].taps, geometry[1].taps, padded, -1)[:, :, :channels]


def _with_channels(array: jax.Array, axis: int, channels: int) -> jax.Array:
    """The array with zeros as further channels."""
    return jnp.pad(array, [(0, channels - size if index == axis else 0) for index, size in enumerate(array.shape)])


def partitioned(blank: str) -> custom_partitioning:
    """`native_groups` with the axes b and g of its arrays split over devices as the operands are."""

    def form(geometry: Geometry, a: jax.Array, b: jax.Array) -> jax.Array:
        return native_groups(blank, a, b, geometry)

    split = custom_partitioning(form, static_argnums=(0,))
    first, second = OPERANDS[blank]
    rule = f"{FACTORS[first]}, {FACTORS[second]} -> {FACTORS[blank]}"
    letters = dict.fromkeys(re.findall("[a-z]", rule))  # in the order that JAX expects
    split.def_partition(
        partial(partition, blank),
        sharding_rule=rule,
        reduction_factors=("b",) if blank == "w" else (),
        need_replication_factors=tuple(letter for letter in letters if letter not in "gb"),
    )
    return split


def partition(blank: str, geometry: Geometry, mesh: Mesh, operands: tuple, result: jax.ShapeDtypeStruct) -> tuple:
    """How each device computes its shard: (mesh, function of the shards, sharding of the result, of the operands)."""
    axes: dict[str, Any] = {}
    for name, operand in zip((*OPERANDS[blank], blank), (*operands, result), strict=True):
        spec = (*operand.sharding.spec, *[None] * len(AXES[name]))
        axes |= {letter: axis for letter, axis in zip(AXES[name], spec, strict=False) if axis and letter in "gb"}

    def sharding(name: str) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*map(axes.get, AXES[name])))

    def shard(a: jax.Array, b: jax.Array) -> jax.Array:
        result = native_groups(blank, a, b, geometry)
        return lax.psum(result, axes["b"]) if blank == "w" and "b" in axes else result

    return mesh, shard, sharding(blank), tuple(map(sharding, OPERANDS[blank]))


PARTITIONED = {blank: partitioned(blank) for blank in OPERANDS}
