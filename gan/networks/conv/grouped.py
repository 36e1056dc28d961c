"""The lowering of convolutions on GPU, which splits convolutions in groups over devices."""

import re
from functools import partial
from typing import Any

import jax
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gan.networks.conv.forms import AXES, OPERANDS, Geometry, native_groups

FACTORS = {"x": "g b h w c", "w": "g i j c o", "y": "g b p q o"}
"""As AXES, with a letter for each size: outputs and inputs have different positions."""


def grouped(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form as XLA's own convolution, in groups where there are several.

    For a convolution in groups, XLA's partitioner for GPUs gathers the whole batch on every device (openxla/xla pull
    request 48086). Here each device computes its own examples and groups, and only a weight gradient is summed over
    devices. The partitioner for TPUs does not gather, and has no `custom_partitioning`.
    """
    if len(a) == 1:
        return native_groups(blank, a, b, geometry)
    return PARTITIONED[blank](geometry, a, b)


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
