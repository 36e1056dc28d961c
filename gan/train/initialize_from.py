"""Fine-tuning: the networks of a run begin as those of another run's checkpoint, or of an exported generator.

Parameters and batch statistics that have the same path and the same shape in both are taken. All others are initialized
as in any run, and so are the optimizers, the running statistics of penalties, the step and the count of images.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gan import build
from gan.errors import UserError
from gan.inference import exported, model
from gan.io import checkpoint
from gan.parallel import sharding
from gan.state import GeneratorEMA, TrainState

BEST = "best"
"""RUN@best is the best evaluated checkpoint of a run."""

Arrays = Mapping[str, np.ndarray]
"""{path: array}, such as {"params/Conv_0/kernel": ...}."""


class Source(NamedTuple):
    """Networks to begin with."""

    parts: Mapping[str, Arrays]
    """Those that there are of generator, discriminator and ema."""
    record: dict
    """What `config.json` records of the source."""


class Row(NamedTuple):
    """What became of one array."""

    path: str
    shape: tuple[int, ...]
    outcome: str
    """TAKEN, or why the source's was not."""


TAKEN = "taken"


class FirstState(NamedTuple):
    """The state that a run begins with."""

    state: TrainState
    rows: tuple[Row, ...] = ()
    """What became of each array, where there is a source."""
    source: dict | None = None
    """What `config.json` records of the source."""


def with_recorded(config: ConfigDict, old: dict | None) -> ConfigDict:
    """The config of a launch, which may leave out the source that the run, of this record, was begun with."""
    if old is None or config.initialize_from or not old["config"].get("initialize_from"):
        return config
    config = config.copy_and_resolve_references()
    config.initialize_from = old["config"]["initialize_from"]
    config.initialize_parts = tuple(old["config"]["initialize_parts"])
    return config


def first_state(config: ConfigDict, setup: build.Setup, layout: Any, recorded: Mapping[str, Any] | None) -> FirstState:
    """The state before the first step, with what is taken from `config.initialize_from`, if that is not empty.

    Args:
      config: of the run.
      setup: of that config.
      layout: the shardings of the state.
      recorded: what an earlier launch, of which there is no checkpoint, recorded of the source.

    Raises:
      UserError: there is no such source, it has changed since it was recorded, nothing in it fits, or a frozen layer
        does not.
    """
    if not config.initialize_from:
        _check_frozen(config, setup, ())
        return FirstState(setup.initial_state(layout))
    source, field = read_source(config.initialize_from), f"config.initialize_from={config.initialize_from!r}"
    if recorded is not None and recorded["digest"] != source.record["digest"]:
        raise UserError(
            f"{field} has changed since the run was created: the digest of step {recorded['step']} was "
            f"{recorded['digest']}, and that of step {source.record['step']} is {source.record['digest']}. Use a new "
            f"--workdir, or restore the source"
        )
    here = {part: flat(getattr(setup.shapes, part).variables) for part in config.initialize_parts}
    rows = tuple(row for part, arrays in here.items() for row in _compared(part, arrays, source.parts.get(part)))
    taken = {row.path for row in rows if row.outcome == TAKEN}
    if not taken:
        raise UserError(f"{field}: nothing in it fits this run: {_example(rows)}")
    _check_frozen(config, setup, rows)
    arrays = {
        part: {path: array for path, array in source.parts.get(part, {}).items() if f"{part}/{path}" in taken}
        for part in here
    }
    state = jax.jit(_with_arrays, out_shardings=layout)(setup.initial_state(layout), arrays)
    numbers = {"parts": list(here), "arrays_taken": len(taken), "arrays_initialized": _initialized(rows)}
    return FirstState(state, rows, source.record | numbers)


def read_source(text: str) -> Source:
    """The networks at `config.initialize_from=text`: RUN, RUN@STEP, RUN@best or an exported folder.

    Raises `UserError` where there are none.
    """
    field = f"config.initialize_from={text!r}"
    folder, which = Path(text), ""
    if not folder.is_dir() and "@" in text:
        name, _, which = text.rpartition("@")
        folder = Path(name)
        if which != BEST and not which.isdecimal():
            raise UserError(f"{field}; expected after @: the step of a checkpoint, or {BEST}")
    if not folder.is_dir():
        raise UserError(f"{field} is not a folder; expected: that of a run, RUN@STEP, RUN@{BEST}, or an export")
    try:
        folder = exported.folder_of(folder)
        return _read_run(folder, which) if exported.record_of(folder) is None else _read_export(folder, which)
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def _read_run(folder: Path, which: str) -> Source:
    """The networks of a run at its newest checkpoint, or "", at a step, or at its best."""
    config, dataset = model.recorded(folder)
    setup = build.setup(config, image_shape=tuple(dataset["image_shape"]), num_classes=len(dataset["class_names"]))
    target = sharding.abstract(setup.shapes, sharding.replicated(sharding.device_mesh()))
    step = int(which) if which.isdecimal() else None
    kept_in = model.checkpoint_folder(folder, which if which == BEST else None, step)
    if not kept_in.is_dir():
        raise UserError(f"there is no checkpoint in {kept_in}")
    with checkpoint.open_manager(kept_in, read_only=True) as manager:
        found = checkpoint.restore_ema(manager, target.ema, step)
        if found is None:
            raise UserError(f"there is no checkpoint in {kept_in}")
        step, ema = found
        players = checkpoint.restore_players(manager, target, step)
    networks = {"generator": players.generator, "discriminator": players.discriminator, "ema": ema}
    return _source(folder, step, {part: flat(jax.device_get(each.variables)) for part, each in networks.items()})


def _read_export(folder: Path, which: str) -> Source:
    """The networks of an export, which has the EMA generator alone: the generator is taken from it, too."""
    if which:
        raise UserError(f"{folder} is an export, which has one step; expected: the folder without @{which}")
    found = model.load(folder)
    arrays = flat(jax.device_get(found.ema.variables))
    return _source(folder, found.step, {"generator": arrays, "ema": arrays})


def _source(folder: Path, step: int, parts: Mapping[str, Arrays]) -> Source:
    fingerprint = model.recorded(folder)[1]["fingerprint"]
    return Source(parts, {"path": str(folder), "step": step, "digest": digest(parts), "dataset": fingerprint})


def digest(parts: Mapping[str, Arrays]) -> str:
    """A hash of the paths, shapes and bits of all arrays."""
    found = hashlib.sha256()
    for part, arrays in sorted(parts.items()):
        for path, array in sorted(arrays.items()):
            found.update(f"{part}/{path} {array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return found.hexdigest()[:16]


def flat(tree: Any) -> dict[str, Any]:
    """{path: leaf} of a player's variables, such as "params/Conv_0/kernel"."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def table(rows: tuple[Row, ...]) -> str:
    """A line for each array."""
    shown = [(row.path, "x".join(map(str, row.shape)) or "scalar", row.outcome) for row in rows]
    widths = [max(len(line[column]) for line in shown) for column in (0, 1)]
    return "\n".join(f"  {path:<{widths[0]}}  {shape:<{widths[1]}}  {outcome}" for path, shape, outcome in shown)


def _compared(part: str, here: Mapping[str, Any], there: Arrays | None) -> list[Row]:
    rows, found = [], there or {}
    for path, leaf in here.items():
        outcome = TAKEN
        if path not in found:
            outcome = "initialized: not in the source" + (f", which has no {part}" if there is None else "")
        elif found[path].shape != leaf.shape:
            outcome = f"initialized: in the source it is {'x'.join(map(str, found[path].shape))}"
        rows.append(Row(f"{part}/{path}", leaf.shape, outcome))
    others = sorted(found.keys() - here.keys())
    return rows + [Row(f"{part}/{path}", found[path].shape, "left out: in the source alone") for path in others]


def _check_frozen(config: ConfigDict, setup: build.Setup, rows: tuple[Row, ...]) -> None:
    """Raises `UserError` where parameters of frozen layers are not taken, and would stay random."""
    if config.freeze and not config.initialize_from:
        raise UserError(
            f"config.freeze={config.freeze!r} keeps layers of another run as they are, and config.initialize_from is "
            f"empty; expected: config.initialize_from=FOLDER of that run, or config.freeze=''"
        )
    prefixes = [f"discriminator/params/{name}/" for name in setup.game.discriminator.frozen]
    outcomes = {row.path: row.outcome for row in rows}
    for path in flat(setup.shapes.discriminator.variables):
        path = f"discriminator/{path}"
        outcome = outcomes.get(path, "initialized: the discriminator is not taken")
        if outcome != TAKEN and path.startswith(tuple(prefixes)):
            raise UserError(
                f"config.freeze={config.freeze!r} freezes {path}, which is {outcome}; expected: frozen layers that are "
                f"taken from config.initialize_from"
            )


def _initialized(rows: tuple[Row, ...]) -> int:
    return sum(row.outcome.startswith("initialized") for row in rows)


def _example(rows: tuple[Row, ...]) -> str:
    """The number of arrays, and one of another shape or else without a counterpart."""
    first = min(rows, key=lambda row: "it is" not in row.outcome)
    shape = "x".join(map(str, first.shape)) or "scalar"
    return f"none of {_initialized(rows)} arrays; {first.path}, {shape}, would be {first.outcome}"


def _with_arrays(state: TrainState, arrays: Mapping[str, Arrays]) -> TrainState:
    """The state with these arrays of its parts. Where no EMA is given it begins as the generator."""

    def replaced(variables: dict, part: str) -> dict:
        given = arrays.get(part, {})

        def one(path: tuple, leaf: Any) -> Any:
            return jnp.copy(given.get(_name(path), leaf)).astype(leaf.dtype)

        return jax.tree_util.tree_map_with_path(one, variables)

    generator = replaced(state.generator.variables, "generator")
    return state.replace(
        generator=state.generator.replace(**generator),
        discriminator=state.discriminator.replace(**replaced(state.discriminator.variables, "discriminator")),
        ema=GeneratorEMA(**replaced(generator, "ema")),
    )


def _name(path: tuple) -> str:
    return "/".join(entry.key for entry in path)
