"""Compiling training steps for a mesh, and the cache of compiled functions on the disk.

`jit` over global arrays is the default. `pmap` is a second wrapper of the same step and gives the same numbers.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gan.errors import UserError
from gan.parallel.sharding import AXIS, put, replicate, replicated, split_rows

WRAPPERS = ("jit", "pmap")

CACHE_BYTES = 2**30
"""The size limit of the compilation cache."""


def enable_compilation_cache(folder: Path) -> None:
    """Stores compiled functions in `folder` for the next launch, the most recently used ones up to CACHE_BYTES.

    Call it before JAX compiles anything. JAX's own variables take precedence: JAX_COMPILATION_CACHE_DIR names another
    folder, and JAX_ENABLE_COMPILATION_CACHE=false disables the cache. The key of an entry is the function's code, the
    versions of JAX and XLA, and the instruction set of the machine. An entry that cannot be read is compiled again.
    """
    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        _remove_incomplete(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _remove_incomplete(folder: Path) -> None:
    """Removes entries that a killed process was still writing.

    JAX writes the access time of an entry after the entry, and an entry without one keeps it from writing any other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(folder / ".lockfile", timeout=10):  # JAX's own lock
        for entry in folder.glob("*-cache"):
            if not entry.with_name(entry.name.removesuffix("-cache") + "-atime").exists():
                entry.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """Several training steps in one call, `(state, data, count) -> (state, metrics)`: see `compile_steps`."""

    function: Any
    """The jitted function of `(state, data, count, rows, hyperparams)`."""
    rows: jax.Array
    hyperparams: Any

    def __call__(self, state: Any, data: Any, count: int) -> tuple[Any, Any]:
        """Runs `count` steps on the same `data`. The state is donated."""
        return self.function(state, data, np.int32(count), self.rows, self.hyperparams)

    def compile(self, state: Any, data: Any) -> jax.stages.Compiled:
        """Compiles the function for a state and data of these shapes."""
        return self.function.lower(state, data, np.int32(0), self.rows, self.hyperparams).compile()

    def with_compiled(self, compiled: jax.stages.Compiled) -> "Dispatch":
        """The same dispatch, with the compiled function of `compile`."""
        return dataclasses.replace(self, function=compiled)


def compile_steps(
    step: Callable,
    mesh: Mesh,
    *,
    wrapper: str,
    batch_size: int,
    data_axis: int | None,
    max_steps: int,
    hyperparams: Any = None,
    layout: Any = None,
    rows_are_split: bool = True,
) -> Callable[[Any, Any, int], tuple[Any, Any]]:
    """Compiles `step(state, data, rows, hyperparams, axis_name=...)` to `(state, data, count) -> (state, metrics)`.

    One compiled function runs any `count` of steps up to `max_steps`, all on the same `data`, so that the bits of a run
    do not depend on how its steps are grouped. Its metrics have a leading axis [max_steps], of which the first `count`
    entries are valid.

    Args:
      step: one training step. Its `rows` are the indices int32 [B] in the global batch of the examples that it uses:
        all of them under `jit`, those of the device under `pmap`.
      mesh: the devices.
      wrapper: "jit", which donates the state and returns a `Dispatch`, or "pmap".
      batch_size: of the global batch.
      data_axis: the axis of `data` that holds the rows; None where every device has all the data.
      max_steps: the most steps of one call.
      hyperparams: an argument of every step. Another value does not compile the function again.
      layout: under `jit`, the shardings of the state, a prefix of its tree; by default it is replicated.
      rows_are_split: under `jit`, whether each device works on its part of the rows, or on all of them.

    Raises `UserError` for an unknown wrapper, and for `pmap` with several processes.
    """
    rows = np.arange(batch_size, dtype=np.int32)
    if wrapper == "jit":
        compiled = jit_steps(
            step, mesh, data_axis=data_axis, max_steps=max_steps, layout=layout, rows_are_split=rows_are_split
        )
        rows = put(rows, split_rows(mesh, 0) if rows_are_split else replicated(mesh))
        return Dispatch(compiled, rows, replicate(hyperparams, mesh))
    if wrapper == "pmap":
        if jax.process_count() > 1:
            raise UserError("config.parallel='pmap' supports one process; expected for several: jit")
        compiled = jax.pmap(
            functools.partial(_several(step, max_steps), axis_name=AXIS),
            axis_name=AXIS,
            in_axes=(None, data_axis, None, 0, None),
            out_axes=None,
            devices=list(mesh.devices.flat),
        )
        device_rows = jnp.asarray(rows.reshape(mesh.size, -1))

        def mapped(state: Any, data: Any, count: int) -> tuple[Any, Any]:
            if data_axis is not None:
                data = jax.tree.map(lambda leaf: _split_axis(leaf, data_axis, mesh.size), data)
            return compiled(state, data, np.int32(count), device_rows, hyperparams)

        return mapped
    raise UserError(f"config.parallel={wrapper!r} is unknown; expected: {', '.join(WRAPPERS)}")


def jit_steps(
    step: Callable,
    mesh: Mesh,
    *,
    data_axis: int | None,
    max_steps: int,
    layout: Any = None,
    rows_are_split: bool = True,
) -> Any:
    """The jitted function of `compile_steps`: `(state, data, count, rows, hyperparams) -> (state, metrics)`.

    It holds no array: `lower` takes shapes, so the devices of the mesh need not be attached.
    """
    whole = replicated(mesh)
    state_sharding = whole if layout is None else layout
    data_sharding = whole if data_axis is None else split_rows(mesh, data_axis)
    return jax.jit(
        functools.partial(_several(step, max_steps, layout), axis_name=None),
        in_shardings=(state_sharding, data_sharding, whole, split_rows(mesh, 0) if rows_are_split else whole, whole),
        out_shardings=(state_sharding, whole),
        donate_argnums=0,
    )


def _several(step: Callable, max_steps: int, layout: Any = None) -> Callable:
    """`steps(state, data, count, rows, hyperparams, axis_name=...)`: `count` steps in a loop that is compiled once."""

    def steps(
        state: Any, data: Any, count: jax.Array, rows: jax.Array, hyperparams: Any, *, axis_name: str | None
    ) -> tuple[Any, Any]:
        def constrain(state: Any) -> Any:
            return state if layout is None else jax.lax.with_sharding_constraint(state, layout)

        # An inner `jit` is traced once, for its shapes here and as the body of the loop.
        one = jax.jit(functools.partial(step, axis_name=axis_name))
        _, shapes = jax.eval_shape(one, state, data, rows, hyperparams)
        metrics = jax.tree.map(lambda leaf: jnp.zeros((max_steps, *leaf.shape), leaf.dtype), shapes)

        def body(index: jax.Array, carried: tuple[Any, Any]) -> tuple[Any, Any]:
            state, metrics = carried
            state, found = one(constrain(state), data, rows, hyperparams)
            return constrain(state), jax.tree.map(lambda all_steps, leaf: all_steps.at[index].set(leaf), metrics, found)

        return jax.lax.fori_loop(0, count, body, (state, metrics))

    return steps


def _split_axis(array: Any, axis: int, parts: int) -> Any:
    return array.reshape(*array.shape[:axis], parts, array.shape[axis] // parts, *array.shape[axis + 1 :])
