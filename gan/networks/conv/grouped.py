"""Networks, lowest floor: convolutions on GPU, those in groups split over devices. primitives.py calls `grouped`."""

import re
from functools import partial

import jax
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gan.networks.conv.forms import AXES, OPERANDS, Geometry, native_groups

FACTORS = {"x": "g b h w c", "w": "g i j c o", "y": "g b p q o"}
"""As AXES, with a letter for each size: positions of outputs are not those of inputs."""


def grouped(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form as XLA's own convolution, in groups where there are several.

    XLA's partitioner for GPUs gathers the whole batch on every device for a convolution in groups (openxla/xla pull
    request 48086). Each device works on its own examples and groups here; only a weight gradient is summed over
    devices. The partitioner of TPUs gathers nothing, and knows no `custom_partitioning`.
    """
    if len(a) == 1:
        return native_groups(blank, a, b, geometry)
    return PARTITIONED[blank](geometry, a, b)


def partitioned(blank: str) -> custom_partitioning:
    """`native_groups` with the axes b and g of its arrays split over devices as they come."""

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
    """How each device computes its part: (mesh, function of the parts, sharding of the result, those of operands)."""
    axes = {}
    for name, operand in zip((*OPERANDS[blank], blank), (*operands, result), strict=True):
        spec = (*operand.sharding.spec, *[None] * len(AXES[name]))
        axes |= {letter: axis for letter, axis in zip(AXES[name], spec, strict=False) if axis and letter in "gb"}

    def place(name: str) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*map(axes.get, AXES[name])))

    def part(a: jax.Array, b: jax.Array) -> jax.Array:
        made = native_groups(blank, a, b, geometry)
        return lax.psum(made, axes["b"]) if blank == "w" and "b" in axes else made

    return mesh, part, place(blank), tuple(map(place, OPERANDS[blank]))


PARTITIONED = {blank: partitioned(blank) for blank in OPERANDS}
