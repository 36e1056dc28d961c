"""Devices: the mesh, where arrays lie, and how a turn is compiled for them. The only file that knows about devices.

A leaf. Global arrays under `jit` are the road; `pmap` wraps the same turn a second way and gives the same numbers.
"""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
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
        _drop_unfinished(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", PROGRAM_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _drop_unfinished(folder: Path) -> None:
    """Removes programs that a killed process was still writing, which JAX would never replace.

    It writes a program's time after the program, and one without a time keeps it from writing any other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(folder / ".lockfile", timeout=10):  # JAX's own lock
        for program in folder.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                program.unlink(missing_ok=True)


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


def split_members(mesh: Mesh, members: int) -> NamedSharding:
    """The members of a population, the first axis, in equal parts on the devices; where they do not divide, whole."""
    return split_rows(mesh, 0) if members % mesh.size == 0 else replicated(mesh)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a tree of host arrays on every device."""
    return jax.device_put(tree, replicated(mesh))


def abstract(shapes: Any, mesh: Mesh) -> Any:
    """A tree of shapes with the sharding that the arrays are to have on this mesh, as a restore wants it."""
    sharding = replicated(mesh)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def compile_turns(
    turn: Callable,
    mesh: Mesh,
    *,
    wrapper: str,
    batch_size: int,
    data_axis: int | None,
    most: int,
    numbers: Any = None,
    state_sharding: Any = None,
) -> Callable[[Any, Any, int], tuple[Any, Any]]:
    """Compiles `turn(state, data, rows, numbers, axis_name=...)` to `(state, data, count) -> (state, metrics)`.

    One program plays any `count` of turns up to `most`, all on the same `data`, so that the bits of a run do not
    depend on how its turns are grouped. Its metrics have a leading axis [most], of which the first `count` are played.

    `rows` are the places int32 [B] in the whole batch of the examples that the turn works on: all of them under
    `jit`, the device's share under `pmap`. `data_axis` is the axis of `data` that holds the rows, or None where
    every device has all the data. `numbers` are given to every turn, and are no part of the program: it is found again
    for others. Under `jit` the given state is donated.

    The state is whole on every device, and the rows are split, unless there is a `state_sharding` (a prefix of its
    tree): then each device sees all rows.
    """

    def turns(
        state: Any, data: Any, count: jax.Array, rows: jax.Array, numbers: Any, *, axis_name: str | None
    ) -> tuple[Any, Any]:
        # An inner `jit` is traced once, for its shapes here and as the body of the loop.
        play = jax.jit(functools.partial(turn, axis_name=axis_name))
        _, shapes = jax.eval_shape(play, state, data, rows, numbers)
        played = jax.tree.map(lambda leaf: jnp.zeros((most, *leaf.shape), leaf.dtype), shapes)

        def body(index: jax.Array, carried: tuple[Any, Any]) -> tuple[Any, Any]:
            state, played = carried
            state, metrics = play(state, data, rows, numbers)
            return state, jax.tree.map(lambda all_turns, leaf: all_turns.at[index].set(leaf), played, metrics)

        return jax.lax.fori_loop(0, count, body, (state, played))

    rows = np.arange(batch_size, dtype=np.int32)
    if wrapper == "jit":
        whole = replicated(mesh)
        of_state, by_row = (whole, split_rows(mesh, 0)) if state_sharding is None else (state_sharding, whole)
        compiled = jax.jit(
            functools.partial(turns, axis_name=None),
            in_shardings=(of_state, whole if data_axis is None else split_rows(mesh, data_axis), whole, by_row, whole),
            out_shardings=(of_state, whole),
            donate_argnums=0,
        )
        rows, numbers = jax.device_put(rows, by_row), replicate(numbers, mesh)
        return lambda state, data, count: compiled(state, data, np.int32(count), rows, numbers)
    if wrapper == "pmap":
        compiled = jax.pmap(
            functools.partial(turns, axis_name=AXIS),
            axis_name=AXIS,
            in_axes=(None, data_axis, None, 0, None),
            out_axes=None,
            devices=list(mesh.devices.flat),
        )
        rows = jnp.asarray(rows.reshape(mesh.size, -1))

        def mapped(state: Any, data: Any, count: int) -> tuple[Any, Any]:
            if data_axis is not None:
                data = jax.tree.map(lambda leaf: _split_axis(leaf, data_axis, mesh.size), data)
            return compiled(state, data, np.int32(count), rows, numbers)

        return mapped
    raise UserError(f"config.parallel={wrapper!r} is unknown; legal: {', '.join(WRAPPERS)}")


def _split_axis(array: Any, axis: int, parts: int) -> Any:
    return array.reshape(*array.shape[:axis], parts, array.shape[axis] // parts, *array.shape[axis + 1 :])
