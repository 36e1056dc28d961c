"""Devices: the mesh, where arrays lie, and how a turn is compiled for them. The only file that knows about devices.

A leaf. Global arrays under `jit` are the road; `pmap` wraps the same turn a second way and gives the same numbers.
"""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import filelock
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gan.errors import UserError

AXIS = "data"
WRAPPERS = ("jit", "pmap")
CACHE_BYTES = 2**30
"""Compiled programs that are kept at most."""


def enable_compilation_cache(folder: Path) -> None:
    """Keeps compiled programs in `folder` for the next launch, the last used of them, up to CACHE_BYTES.

    To be called before JAX does anything. JAX's own variables come first: JAX_COMPILATION_CACHE_DIR names another
    folder, JAX_ENABLE_COMPILATION_CACHE=false keeps nothing. A program is found again by its code, the versions of
    JAX and XLA, and the machine's instruction set; one that cannot be read is compiled anew.
    """
    if jax.config.jax_compilation_cache_dir is None:
        _drop_unfinished(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
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


def device_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """These devices, by default all of all processes, in one row, along which a batch is split."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), devices=devices, axis_types=(jax.sharding.AxisType.Auto,))


def local_mesh() -> Mesh:
    """This process's devices in one row."""
    return device_mesh(jax.local_devices())


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises `UserError` where the devices do not divide the batch, with the nearest batch that they do."""
    devices = mesh.size
    if batch_size < 1 or batch_size % devices:
        below, above = batch_size // devices * devices, (batch_size // devices + 1) * devices
        valid = f"{below} or {above}" if below > 0 else f"{max(above, devices)}"
        raise UserError(
            f"config.batch_size={batch_size} is not divisible by the {devices} devices; nearest valid: {valid}"
        )


def device_memory_bytes() -> int:
    """The bytes of memory of one device, as far as JAX takes them; on CPU the machine's, which its devices share."""
    found = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return found.get("bytes_limit") or machine // jax.local_device_count()


def bytes_in_use() -> int:
    """The bytes that lie on the fullest device of this process; 0 on CPU, which does not count them."""
    return max((device.memory_stats() or {}).get("bytes_in_use", 0) for device in jax.local_devices())


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
    """Puts a tree of host arrays, the same in every process, on every device."""
    return _put(tree, replicated(mesh))


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of the whole batch that are on this process's devices, in rising order."""
    parts = split_rows(mesh, 0).addressable_devices_indices_map((batch_size,)).values()
    return np.sort(np.concatenate([np.arange(batch_size, dtype=np.int32)[part] for part in parts]))


def make_global_batch(tree: Any, mesh: Mesh, axis: int, batch_size: int) -> Any:
    """Host arrays of `process_rows` along `axis` in each process, as global arrays that have the whole batch there."""
    split = split_rows(mesh, axis)
    if jax.process_count() == 1:
        return jax.device_put(tree, split)

    def whole(leaf: np.ndarray) -> jax.Array:
        shape = (*leaf.shape[:axis], batch_size, *leaf.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(split, leaf, shape)

    return jax.tree.map(whole, tree)


def gather_to_process(tree: Any) -> Any:
    """A tree of global arrays, as arrays of this process alone, whole on each of its devices; all must come here."""
    if jax.process_count() > 1:
        tree = multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_put(tree, replicated(local_mesh()))


def split_largest(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """The largest axis that the devices divide, the first of equal ones, in equal parts on them; if none, whole."""
    divided = [axis for axis, size in enumerate(shape) if size and size % mesh.size == 0]
    return split_rows(mesh, max(divided, key=lambda axis: shape[axis])) if divided else replicated(mesh)


def state_sharding(shapes: Any, mesh: Mesh, *, sharded: bool) -> Any:
    """How a run's TrainState of these shapes lies on the devices, as a prefix of its tree: whole on each of them.

    With `sharded` the optimizers' states and the averaged generator are split by `split_largest`; parameters and batch
    statistics stay whole. See `Game.with_sharded_updates`.

    Reference: Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, section 5.1 (its first stage).
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
    """Inside a program: what is one sum over the devices, as the part of each by `split_largest`."""
    # To be whole first keeps the compiler from splitting what comes before, the players' own layers, in the same way.
    parts = jax.tree.map(lambda leaf: split_largest(leaf.shape, mesh), tree)
    return jax.lax.with_sharding_constraint(all_gather(tree, mesh), parts)


def all_gather(tree: Any, mesh: Mesh) -> Any:
    """Inside a program: the tree whole on every device."""
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def abstract(shapes: Any, layout: Any) -> Any:
    """A tree of shapes with the shardings of `layout`, a prefix of it, that a restore is to give the arrays."""

    def placed(sharding: NamedSharding, part: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), part)

    return jax.tree.map(placed, layout, shapes)


def bytes_per_device(shapes: Any, layout: Any) -> int:
    """What a device holds of arrays of these shapes, laid out so: a whole leaf, or its part."""

    def held(sharding: NamedSharding, part: Any) -> int:
        return sum(math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(part))

    return sum(jax.tree.leaves(jax.tree.map(held, layout, shapes)))


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """Several train steps in one call, `(state, data, count) -> (state, metrics)`: see `compile_steps`."""

    function: Callable
    """Of `(state, data, count, rows, numbers)`, under `jit`."""
    rows: jax.Array
    numbers: Any

    def __call__(self, state: Any, data: Any, count: int) -> tuple[Any, Any]:
        """Runs `count` steps on the same `data`. The given state is donated."""
        return self.function(state, data, np.int32(count), self.rows, self.numbers)

    def compile(self, state: Any, data: Any) -> jax.stages.Compiled:
        """Its function, compiled now for a state and data of these shapes."""
        return self.function.lower(state, data, np.int32(0), self.rows, self.numbers).compile()

    def with_compiled(self, compiled: jax.stages.Compiled) -> "Dispatch":
        """The same, by that program."""
        return dataclasses.replace(self, function=compiled)


def compile_steps(
    turn: Callable,
    mesh: Mesh,
    *,
    wrapper: str,
    batch_size: int,
    data_axis: int | None,
    most: int,
    numbers: Any = None,
    layout: Any = None,
    rows_are_split: bool = True,
) -> Callable[[Any, Any, int], tuple[Any, Any]]:
    """Compiles `turn(state, data, rows, numbers, axis_name=...)` to `(state, data, count) -> (state, metrics)`.

    One program plays any `count` of turns up to `most`, all on the same `data`, so that the bits of a run do not
    depend on how its turns are grouped. Its metrics have a leading axis [most], of which the first `count` are played.

    `rows` are the places int32 [B] in the whole batch of the examples that the turn works on: all of them under
    `jit`, the device's share under `pmap`. `data_axis` is the axis of `data` that holds the rows, or None where
    every device has all the data. `numbers` are given to every turn, and are no part of the program: it is found again
    for others. Under `jit` the given state is donated.

    Under `jit` the state lies by `layout`, a prefix of its tree, or else whole on every device. A device works on its
    share of the rows, unless they are not to be split: then each sees all of them. What is returned is a `Dispatch`.
    """
    rows = np.arange(batch_size, dtype=np.int32)
    if wrapper == "jit":
        compiled = jit_steps(turn, mesh, data_axis=data_axis, most=most, layout=layout, rows_are_split=rows_are_split)
        rows = _put(rows, split_rows(mesh, 0) if rows_are_split else replicated(mesh))
        return Dispatch(compiled, rows, replicate(numbers, mesh))
    if wrapper == "pmap":
        if jax.process_count() > 1:
            raise UserError("config.parallel='pmap' is for one process; valid for several: jit")
        compiled = jax.pmap(
            functools.partial(_several(turn, most), axis_name=AXIS),
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
    raise UserError(f"config.parallel={wrapper!r} is unknown; expected: {', '.join(WRAPPERS)}")


def jit_steps(
    step: Callable, mesh: Mesh, *, data_axis: int | None, most: int, layout: Any = None, rows_are_split: bool = True
) -> Any:
    """The jitted function of `compile_steps`: `(state, data, count, rows, hyperparams) -> (state, metrics)`.

    It holds no array: `lower` takes shapes, and the devices of the mesh need only be described.
    """
    whole = replicated(mesh)
    state_sharding = whole if layout is None else layout
    of_data = whole if data_axis is None else split_rows(mesh, data_axis)
    return jax.jit(
        functools.partial(_several(step, most, layout), axis_name=None),
        in_shardings=(state_sharding, of_data, whole, split_rows(mesh, 0) if rows_are_split else whole, whole),
        out_shardings=(state_sharding, whole),
        donate_argnums=0,
    )


def _several(step: Callable, most: int, layout: Any = None) -> Callable:
    """`steps(state, data, count, rows, hyperparams, axis_name=...)`: up to `most` of them, in a loop compiled once."""

    def steps(
        state: Any, data: Any, count: jax.Array, rows: jax.Array, hyperparams: Any, *, axis_name: str | None
    ) -> tuple[Any, Any]:
        def laid(state: Any) -> Any:
            return state if layout is None else jax.lax.with_sharding_constraint(state, layout)

        # An inner `jit` is traced once, for its shapes here and as the body of the loop.
        one = jax.jit(functools.partial(step, axis_name=axis_name))
        _, shapes = jax.eval_shape(one, state, data, rows, hyperparams)
        metrics = jax.tree.map(lambda leaf: jnp.zeros((most, *leaf.shape), leaf.dtype), shapes)

        def body(index: jax.Array, carried: tuple[Any, Any]) -> tuple[Any, Any]:
            state, metrics = carried
            state, found = one(laid(state), data, rows, hyperparams)
            return laid(state), jax.tree.map(lambda all_steps, leaf: all_steps.at[index].set(leaf), metrics, found)

        return jax.lax.fori_loop(0, count, body, (state, metrics))

    return steps


def _put(tree: Any, sharding: NamedSharding) -> Any:
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    # `device_put` would send each host's arrays to all others, to compare them.
    return jax.tree.map(lambda leaf: jax.make_array_from_callback(np.shape(leaf), sharding, leaf.__getitem__), tree)


def _split_axis(array: Any, axis: int, parts: int) -> Any:
    return array.reshape(*array.shape[:axis], parts, array.shape[axis] // parts, *array.shape[axis + 1 :])
