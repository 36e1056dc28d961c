"""Checkpoints of the whole TrainState by Orbax, saved in the background and verified when they are restored.

The EMA of the generator is an item of its own, so that sampling reads nothing else. The CRC-32 of every array is stored
with it, so that a changed byte is detected. The record of the run is stored, too: see `gan.io.identity`.
"""

import contextlib
import functools
import logging
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from jax.experimental import multihost_utils

from gan.errors import UserError, machine_failure
from gan.io import identity
from gan.parallel import processes

logger = logging.getLogger(__name__)

KEEP = 3
"""The last checkpoints of a run that are kept."""


def open_manager(
    directory: Path, *, read_only: bool = False, keep: int = KEEP, keep_every: int = 0, kept_every: Collection[int] = ()
) -> ocp.CheckpointManager:
    """The manager of a run's checkpoints. It keeps the last `keep` and saves in the background.

    Checkpoints whose step is a multiple of `keep_every` are kept for ever; 0: none are. So are those that are there
    already whose step is a multiple of one of `kept_every`, the intervals of earlier launches.

    Incomplete checkpoints, of a killed process or a full disk, are removed unless the manager is `read_only`.

    Raises `UserError` where the metadata of a checkpoint is none that Orbax knows.
    """
    policies = ocp.checkpoint_managers
    there = [int(path.name) for path in directory.glob("*") if path.name.isdecimal()]
    kept = [step for step in there if any(every and step % every == 0 for every in kept_every)]
    preserved = [policies.LatestN(keep), policies.CustomSteps(kept)]
    if keep_every:
        preserved.append(policies.EveryNSteps(keep_every))
    try:
        with _without_warnings() if read_only else contextlib.nullcontext():
            return ocp.CheckpointManager(
                directory.absolute(),
                item_names=("state", "ema", "digests", identity.ITEM),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy(preserved),
                    create=not read_only,
                    read_only=read_only,
                    enable_async_checkpointing=True,
                    cleanup_tmp_directories=not read_only,
                    # Otherwise a save waits twenty minutes for a folder that cannot be created.
                    async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
                ),
            )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = _first_line(error)[:200]
        raise UserError(
            f"a file _CHECKPOINT_METADATA in {directory} is damaged ({reason}): move its checkpoint away"
        ) from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Within it Orbax, which logs by absl, does not warn that a manager which is only read is only read."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(min(before, absl_logging.ERROR))
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)


def save(manager: ocp.CheckpointManager, step: int, state: Any, record: dict | None = None) -> None:
    """Starts saving `state` as step `step`, with the record of its run. Raises the errors of the previous save."""
    if step in manager.all_steps():
        return
    own = {} if record is None else {identity.ITEM: ocp.args.JsonSave(identity.sealed(record))}
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state.replace(ema=None)),
            ema=ocp.args.StandardSave(state.ema),
            digests=ocp.args.JsonSave({"state": digests(state.replace(ema=None)), "ema": digests(state.ema)}),
            **own,
        ),
    )


def restore(manager: ocp.CheckpointManager, target: Any, *, set_aside: Path | None = None) -> Any | None:
    """The newest intact checkpoint, with the shapes and shardings of `target`; None where there is no checkpoint.

    A damaged checkpoint is reported and skipped. It is moved to the folder `set_aside`, if given, so that its step can
    be saved again. Raises `UserError` where there are checkpoints and none can be read.
    """
    state, ema = target.replace(ema=None), target.ema

    def read(step: int) -> Any:
        items = _read(manager, step, {"state": state, "ema": ema})
        return items["state"].replace(ema=items["ema"])

    return _newest(manager, read, set_aside)


def restore_ema(
    manager: ocp.CheckpointManager,
    target: Any,
    step: int | None = None,
    check: Callable[[int], None] = lambda step: None,
) -> tuple[int, Any] | None:
    """The step and the EMA of the checkpoint of `step`, or by default of the newest intact one; None where none is.

    Before a checkpoint is read, `check` is called with its step, whose errors are raised. Raises `UserError` where the
    checkpoint cannot be read.
    """

    def read(step: int) -> tuple[int, Any]:
        return step, _read(manager, step, {"ema": target})["ema"]

    if step is None:
        return _newest(manager, read, check=check)
    check(step)
    return _read_one(manager, read, step)


def restore_players(manager: ocp.CheckpointManager, target: Any, step: int) -> Any:
    """The state of the checkpoint of `step`, without the EMA. Raises `UserError` where it cannot be read."""
    target = target.replace(ema=None)
    return _read_one(manager, lambda step: _read(manager, step, {"state": target})["state"], step)


def digests(tree: Any) -> dict[str, int]:
    """{path of a leaf: its CRC-32}."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.tree.map(_plain, tree))
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data)
        for path, leaf in zip([path for path, _ in leaves], _on_host([leaf for _, leaf in leaves]), strict=True)
    }


def _read(manager: ocp.CheckpointManager, step: int, targets: dict[str, Any]) -> dict[str, Any]:
    arguments = {name: ocp.args.StandardRestore(target) for name, target in targets.items()}
    if (Path(manager.directory) / str(step) / identity.ITEM).exists():  # checkpoints of before have none
        arguments[identity.ITEM] = ocp.args.JsonRestore()
    restored = manager.restore(step, args=ocp.args.Composite(digests=ocp.args.JsonRestore(), **arguments))
    if identity.ITEM in arguments:
        identity.opened(restored[identity.ITEM])
    for name in targets:
        if digests(restored[name]) != restored["digests"][name]:
            raise ValueError(f"the checksum of {name!r} does not match")
    return {name: restored[name] for name in targets}


def _read_one(manager: ocp.CheckpointManager, read: Any, step: int) -> Any:
    found, reason = _attempt(read, step)
    if reason:
        raise UserError(f"checkpoint {step} in {manager.directory} cannot be read: {reason[:300]}")
    return found


def _newest(
    manager: ocp.CheckpointManager,
    read: Any,
    set_aside: Path | None = None,
    check: Callable[[int], None] = lambda step: None,
) -> Any | None:
    failures = []
    for step in sorted(manager.all_steps(), reverse=True):
        check(step)
        found, reason = _attempt(read, step)
        if not processes.all_succeed(not reason):
            failures.append((step, reason or "another process cannot read it"))
            continue
        for damaged, reason in failures:
            logger.warning("checkpoint %d is damaged (%s): resuming from checkpoint %d", damaged, reason[:200], step)
        if failures and set_aside is not None:
            processes.broadcast_from_primary(
                lambda: _move(manager.directory, [damaged for damaged, _ in failures], set_aside)
            )
            manager.reload()
        return found
    if failures:
        step, reason = failures[0]
        raise UserError(
            f"none of the {len(failures)} checkpoints in {manager.directory} can be read; "
            f"the newest, {step}: {reason[:300]}"
        )
    return None


def _attempt(read: Any, step: int) -> tuple[Any, str]:
    """What `read(step)` returns and "", or None and the reason why the checkpoint is damaged."""
    try:
        return read(step), ""
    except Exception as error:  # Orbax and TensorStore raise many types for a damaged file; all are reported
        if machine_failure(error):
            raise  # a checkpoint that does not fit into memory is not damaged
        _ignore_abandoned_reads()
        return None, _first_line(error)


def _ignore_abandoned_reads() -> None:
    """Keeps Python from printing a traceback for each read that Orbax abandons.

    Where one array cannot be read, Orbax abandons its reads of the others, and closes their event loop. Whenever one of
    them ends or is collected, now or long after, Python reports it to `sys.unraisablehook`.
    """
    if getattr(sys.unraisablehook, "func", None) is not _report_unless_abandoned:  # not twice
        sys.unraisablehook = functools.partial(_report_unless_abandoned, sys.unraisablehook)
    warnings.filterwarnings("ignore", "coroutine 'Store.* was never awaited")


def _report_unless_abandoned(hook: Callable[[Any], object], unraisable: Any) -> None:
    code = getattr(unraisable.object, "cr_code", None)
    is_read = code is not None and "orbax" in Path(code.co_filename).parts
    if not is_read and str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _move(directory: Any, steps: list[int], set_aside: Path) -> None:
    set_aside.mkdir(exist_ok=True)
    for step in steps:
        shutil.rmtree(set_aside / str(step), ignore_errors=True)
        shutil.move(Path(directory) / str(step), set_aside / str(step))


def _on_host(leaves: list[jax.Array]) -> list[np.ndarray]:
    """The whole arrays. A collective where other processes hold parts of them."""
    is_distributed = any(not (leaf.is_fully_addressable or leaf.is_fully_replicated) for leaf in leaves)
    return multihost_utils.process_allgather(leaves, tiled=True) if is_distributed else jax.device_get(leaves)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
