"""Devices: the mesh, where arrays lie, and how a turn is compiled for them. The only file that knows about devices.

A leaf. Global arrays under `jit` are the road; `pmap` wraps the same turn a second way and gives the same numbers.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gan.errors import UserError

AXIS = "data"
WRAPPERS = ("jit", "pmap")
PROGRAM_BYTES = 2**30
"""Compiled programs that are kept at most."""


def keep_programs(folder: Path) -> None:
    """Keeps compiled programs in `folder` for the next launch, the last used of them, up to PROGRAM_BYTES.

    To be called before JAX does anything. JAX's own variables come first: JAX_COMPILATION_CACHE_DIR names another
    folder, JAX_ENABLE_COMPILATION_CACHE=false keeps nothing. A program is found again by its code, the versions of
    JAX and XLA, and the machine's instruction set; one that cannot be read is compiled anew.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", PROGRAM_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def device_mesh() -> Mesh:
    """All devices in one row, along which a batch is split."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises `UserError` where the devices do not divide the batch, with the nearest batch that they do."""
    devices = mesh.size
    if batch_size < 1 or batch_size % devices:
        below, above = batch_size // devices * devices, (batch_size // devices + 1) * devices
        legal = f"{below} or {above}" if below > 0 else f"{max(above, devices)}"
        raise UserError(
            f"config.batch_size={batch_size} is not divisible by the {devices} devices; nearest legal: {legal}"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh, axis: int) -> NamedSharding:
    """Axis `axis` of the array, the rows of a batch, in equal parts on the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a tree of host arrays on every device."""
    return jax.device_put(tree, replicated(mesh))


def abstract(shapes: Any, mesh: Mesh) -> Any:
    """A tree of shapes with the sharding that the arrays are to have on this mesh, as a restore wants it."""
    sharding = replicated(mesh)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def compile_turn(
    turn: Callable, mesh: Mesh, *, wrapper: str, batch_size: int, data_axis: int | None
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Compiles `turn(state, data, rows, axis_name=...)` to `(state, data) -> (state, metrics)` on the mesh.

    `rows` are the places int32 [B] in the whole batch of the examples that the turn works on: all of them under
    `jit`, the device's share under `pmap`. `data_axis` is the axis of `data` that holds the rows, or None where
    every device has all the data. Under `jit` the given state is donated.
    """
    rows = np.arange(batch_size, dtype=np.int32)
    if wrapper == "jit":
        whole = replicated(mesh)
        compiled = jax.jit(
            functools.partial(turn, axis_name=None),
            in_shardings=(whole, whole if data_axis is None else split_rows(mesh, data_axis), split_rows(mesh, 0)),
            out_shardings=whole,
            donate_argnums=0,
        )
        rows = jax.device_put(rows, split_rows(mesh, 0))
        return lambda state, data: compiled(state, data, rows)
    if wrapper == "pmap":
        compiled = jax.pmap(
            functools.partial(turn, axis_name=AXIS),
            axis_name=AXIS,
            in_axes=(None, data_axis, 0),
            out_axes=None,
            devices=list(mesh.devices.flat),
        )
        rows = jnp.asarray(rows.reshape(mesh.size, -1))

        def mapped(state: Any, data: Any) -> tuple[Any, Any]:
            if data_axis is not None:
                data = jax.tree.map(lambda leaf: _split_axis(leaf, data_axis, mesh.size), data)
            return compiled(state, data, rows)

        return mapped
    raise UserError(f"config.parallel={wrapper!r} is unknown; legal: {', '.join(WRAPPERS)}")


def _split_axis(array: Any, axis: int, parts: int) -> Any:
    return array.reshape(*array.shape[:axis], parts, array.shape[axis] // parts, *array.shape[axis + 1 :])
