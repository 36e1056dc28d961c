"""Devices: the mesh, and how arrays are distributed over it.

The devices form one axis, "data", along which batches are split. Arrays are global: each process holds the parts that
are on its own devices.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gan.errors import UserError

AXIS = "data"


def device_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis over these devices; by default over all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), devices=devices, axis_types=(jax.sharding.AxisType.Auto,))


def local_mesh() -> Mesh:
    """A mesh of one axis over the devices of this process."""
    return device_mesh(jax.local_devices())


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises `UserError`, with the nearest valid batch sizes, where the number of devices does not divide this one."""
    devices = mesh.size
    if batch_size < 1 or batch_size % devices:
        below, above = batch_size // devices * devices, (batch_size // devices + 1) * devices
        valid = f"{below} or {above}" if below > 0 else f"{max(above, devices)}"
        raise UserError(
            f"config.batch_size={batch_size} is not divisible by the {devices} devices; nearest valid: {valid}"
        )


def device_memory_bytes() -> int:
    """The bytes of one device's memory that JAX may use. CPU devices share the memory of the machine equally."""
    found = jax.local_devices()[0].memory_stats() or {}
    return found.get("bytes_limit") or machine_memory_bytes() // jax.local_device_count()


def machine_memory_bytes() -> int:
    """The bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def bytes_in_use() -> int:
    """The bytes in use on the device of this process that holds the most; 0 on CPU, which does not count them."""
    return max((device.memory_stats() or {}).get("bytes_in_use", 0) for device in jax.local_devices())


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh, axis: int) -> NamedSharding:
    """The sharding of an array whose axis `axis`, the rows of a batch, is split equally over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def split_members(mesh: Mesh, members: int) -> NamedSharding:
    """The sharding of a population, whose first axis is its members: split where the devices divide it, else whole."""
    return split_rows(mesh, 0) if members % mesh.size == 0 else replicated(mesh)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree of host arrays, which must be equal in all processes, to every device."""
    return put(tree, replicated(mesh))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Copies a tree of host arrays, which must be equal in all processes, to the devices, distributed by `sharding`."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    # `device_put` would exchange the arrays between all processes to compare them.
    return jax.tree.map(lambda leaf: jax.make_array_from_callback(np.shape(leaf), sharding, leaf.__getitem__), tree)


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of the global batch that are on the devices of this process, in ascending order."""
    parts = split_rows(mesh, 0).addressable_devices_indices_map((batch_size,)).values()
    return np.sort(np.concatenate([np.arange(batch_size, dtype=np.int32)[part] for part in parts]))


def make_global_batch(tree: Any, mesh: Mesh, axis: int, batch_size: int) -> Any:
    """Global arrays of a batch, from host arrays that hold the `process_rows` of each process along `axis`."""
    split = split_rows(mesh, axis)
    if jax.process_count() == 1:
        return jax.device_put(tree, split)

    def whole(leaf: np.ndarray) -> jax.Array:
        shape = (*leaf.shape[:axis], batch_size, *leaf.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(split, leaf, shape)

    return jax.tree.map(whole, tree)


def gather_to_process(tree: Any) -> Any:
    """Copies a tree of global arrays to every device of this process. A collective: every process must call it."""
    if jax.process_count() > 1:
        tree = multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_put(tree, replicated(local_mesh()))


def split_largest(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """The sharding that splits the largest axis that the devices divide, the first of equal ones; if none, whole."""
    divided = [axis for axis, size in enumerate(shape) if size and size % mesh.size == 0]
    return split_rows(mesh, max(divided, key=lambda axis: shape[axis])) if divided else replicated(mesh)


def state_sharding(shapes: Any, mesh: Mesh, *, sharded: bool) -> Any:
    """The shardings of a run's TrainState of these shapes, as a prefix of its tree. By default all of it is replicated.

    With `sharded` the optimizer states and the EMA of the generator are split by `split_largest`; parameters and batch
    statistics are replicated. See `Game.with_sharded_updates`.

    Reference: Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, section 5.1 (stage 1).
    """
    whole = replicated(mesh)
    if not sharded:
        return whole
    layout = jax.tree.map(lambda _: whole, shapes)
    parts = jax.tree.map(lambda leaf: split_largest(leaf.shape, mesh), shapes)
    return layout.replace(
        generator=layout.generator.replace(opt_state=parts.generator.opt_state),
        discriminator=layout.discriminator.replace(opt_state=parts.discriminator.opt_state),
        ema=parts.ema,
    )


def shard(tree: Any, mesh: Mesh) -> Any:
    """Within a compiled function: splits a tree of sums over the devices by `split_largest` (a reduce-scatter)."""
    # Without the intermediate whole array, the compiler would split the computation before it, the layers, too.
    parts = jax.tree.map(lambda leaf: split_largest(leaf.shape, mesh), tree)
    return jax.lax.with_sharding_constraint(all_gather(tree, mesh), parts)


def all_gather(tree: Any, mesh: Mesh) -> Any:
    """Within a compiled function: makes a tree whole on every device."""
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def abstract(shapes: Any, layout: Any) -> Any:
    """Shapes with the shardings of `layout`, a prefix of their tree: the target of a restore."""

    def placed(sharding: NamedSharding, part: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), part)

    return jax.tree.map(placed, layout, shapes)


def bytes_per_device(shapes: Any, layout: Any) -> int:
    """The bytes that one device holds of arrays of these shapes, distributed by `layout`, a prefix of their tree."""

    def held(sharding: NamedSharding, part: Any) -> int:
        return sum(math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(part))

    return sum(jax.tree.leaves(jax.tree.map(held, layout, shapes)))
