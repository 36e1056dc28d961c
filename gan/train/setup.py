"""From a config and a folder to a run that can be trained: its record, its state, and its microbatches."""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from gan import build, checks, data, state
from gan.data.labels import count_labels
from gan.errors import UserError
from gan.game import Game, parameter_count
from gan.io import checkpoint, workdir, writer
from gan.parallel import processes, sharding
from gan.train import initialize_from, memory, sources, summary
from gan.train.initialize_from import Row

logger = logging.getLogger(__name__)

INITIALIZED_FROM = "initialized_from"
"""The entry of `config.json` with the source of a run's first state."""


class RunSetup(NamedTuple):
    """A run, at the state from which it is trained."""

    config: ConfigDict
    """As the run is trained: with a number of microbatches."""
    setup: build.Setup
    state: state.TrainState
    manager: Any
    """Of its checkpoints."""
    is_complete: bool
    record: dict
    """What `config.json` is to hold."""
    is_resumed: bool
    """Whether the folder held the run already."""

    class_counts: tuple[int, ...] | None = None
    """The number of examples of each class, where it is known."""
    rows: tuple[Row, ...] = ()
    """What became of each array, where this launch took networks from `config.initialize_from`."""

    @property
    def game(self) -> Game:
        """The run's game."""
        return self.setup.game


def prepare_run(config: ConfigDict, folder: Path, dataset: Any, mesh: Any) -> RunSetup:
    """Creates the run of `config` in `folder`, which is locked, or restores it, and writes `config.json`.

    Raises `UserError` where the folder holds another run.
    """
    run = find_run(config, folder, dataset, mesh)
    if not run.is_complete:
        begin(run, folder)
    return run


def find_run(config: ConfigDict, folder: Path, dataset: Any, mesh: Any) -> RunSetup:
    """As `prepare_run`, without writing. "auto" microbatches become those of the recorded run, or 1."""
    old = processes.broadcast_from_primary(lambda: workdir.read(folder))
    config = initialize_from.with_recorded(config, old)
    if config.microbatches == build.AUTO:
        config = memory.with_microbatches(config, memory.recorded_number(old, config.batch_size))
    setup = build.setup(config, image_shape=dataset.image_shape, num_classes=len(dataset.class_names))
    layout = sharding.state_sharding(setup.shapes, mesh, sharded=config.shard_state)
    _check_memory(config, setup.game, sharding.bytes_per_device(setup.shapes, layout), mesh)
    record, changes = _record(config, dataset, setup.shapes), []
    if old is not None:
        for kept_in in ("checkpoints", "best"):
            processes.broadcast_from_primary(functools.partial(workdir.check_checkpoints, folder, old, kept_in))
        changes = workdir.continue_with(folder, old, record["config"], record["dataset"])
        memory.warn_of_parts(setup.game, changes)
        if not (folder / "config.json").exists():
            logger.warning("%s/config.json is missing: the run is taken up from the record in its checkpoints", folder)
    earlier = [] if old is None else old.get("changes", [])
    kept_every = {change.get("from") for change in [*earlier, *changes] if change.get("field") == workdir.KEEP_EVERY}
    manager = checkpoint.open_manager(
        folder / "checkpoints", keep_every=setup.options.keep_every, kept_every=kept_every
    )
    target = sharding.abstract(setup.shapes, layout)
    start = checkpoint.restore(manager, target, set_aside=folder / "damaged_checkpoints")
    rows: tuple[initialize_from.Row, ...] = ()
    source = None if old is None else old.get(INITIALIZED_FROM)
    if start is None:
        start, rows, source = initialize_from.first_state(config, setup, layout, source)
    if source is not None:
        record[INITIALIZED_FROM] = source
    first = int(start.step)
    is_complete = first >= config.steps
    if is_complete:
        if processes.is_primary():
            writer.finish(folder)
        longer = summary.train_longer(first, folder)
        logger.info("the run is complete: step %d of %d. To train longer: %s", first, config.steps, longer)
    # A change at a later step, of a history that is not continued, has been in force since the restored step.
    record["changes"] = [change | {"step": min(change["step"], first)} for change in earlier] + [
        {"step": first, **change} for change in changes
    ]
    counts = None if is_complete else count_classes(dataset)
    return RunSetup(config, setup, start, manager, is_complete, record, old is not None, counts, rows)


def begin(run: RunSetup, folder: Path) -> None:
    """Writes `config.json`, and says what is trained."""
    processes.broadcast_from_primary(lambda: workdir.write(folder, run.record))
    if run.rows:
        checkpoint.save(run.manager, 0, run.state, run.record)  # from here on the source is not needed
    _announce(run, folder)


def with_chosen_microbatches(run: RunSetup, mesh: Any, compile_step: Callable[[RunSetup], Any]) -> tuple[RunSetup, Any]:
    """The run with the fewest microbatches that fit the devices, and its compiled train step.

    A resumed run keeps the number that it has, if it fits. Raises `UserError` where none does.

    Args:
      compile_step: compiles the train step of a run, as a `jax.stages.Compiled`.
    """
    recorded = run.config.microbatches if run.is_resumed else 0

    def changed(number: int) -> RunSetup:
        game = dataclasses.replace(run.game, microbatches=number)
        setup = dataclasses.replace(run.setup, game=game)
        return run._replace(config=memory.with_microbatches(run.config, number), setup=setup)

    fit = memory.choose(
        run.game,
        batch_size=run.config.batch_size,
        devices=mesh.size,
        attempt=lambda number: memory.compiled_within_memory(lambda: compile_step(changed(number))),
        recorded=recorded,
    )
    record = run.record | {"config": run.record["config"] | {"microbatches": fit.microbatches}}
    record["memory"] = fit.record()
    if recorded not in (0, fit.microbatches):
        change = {"field": "microbatches", "from": recorded, "to": fit.microbatches}
        record["changes"] = [*record["changes"], {"step": int(run.state.step), **change}]
    return changed(fit.microbatches)._replace(record=record), fit.compiled


def with_sharded_updates(game: Game, *, shard_state: bool, mesh: Any) -> Game:
    """The game whose optimizers' states are split over the devices, where `config.shard_state` asks for it."""
    if not shard_state:
        return game
    places = (functools.partial(place, mesh=mesh) for place in (sharding.shard, sharding.all_gather))
    return game.with_sharded_updates(*places)


def _check_memory(config: ConfigDict, game: Game, state_bytes: int, mesh: Any) -> None:
    """Raises `UserError` where the state and a batch need more memory than a device has: a size was mistyped."""
    batch = config.batch_size * math.prod(game.image_shape) * 4 // mesh.size
    there = sharding.device_memory_bytes()
    if state_bytes + batch > there:
        raise UserError(
            f"the networks and their optimizers take {state_bytes / 2**30:.1f} GiB and a batch {batch / 2**30:.1f}; a "
            f"device has {there / 2**30:.1f}. See config.batch_size, config.data.image_size, config.latent.size and "
            f"the widths"
        )


def _record(config: ConfigDict, dataset: data.Dataset, shapes: state.TrainState) -> dict:
    """The content of `config.json`: what the run is, and what it runs with."""
    return {
        "config": config.to_dict(),
        "dataset": {
            "name": dataset.name,
            "split": dataset.split,
            "fingerprint": dataset.fingerprint,
            "examples": len(dataset),
            "image_shape": list(dataset.image_shape),
            "class_names": list(dataset.class_names),
        },
        "parameters": {
            "generator": parameter_count(shapes.generator.params),
            "discriminator": parameter_count(shapes.discriminator.params),
        },
        "versions": workdir.versions(),
    }


def describe_classes(names: Sequence[str], counts: Sequence[int] | None) -> str:
    """The number of classes, with the smallest and the largest where their sizes are known."""
    if not names:
        return "without classes"
    number = f"{len(names)} class{'es' * (len(names) > 1)}"
    if counts is None or len(names) == 1:
        return number
    smallest, largest = (pick(range(len(names)), key=counts.__getitem__) for pick in (min, max))
    return f"{number} of {counts[smallest]} ({names[smallest]}) to {counts[largest]} ({names[largest]}) images"


def count_classes(dataset: Any) -> tuple[int, ...] | None:
    """The number of examples of each class; None where the images, which the labels are stored with, are streamed."""
    if not dataset.class_names or sources.decoded_bytes(dataset) > sources.DECODED_BYTES:
        return None
    return count_labels(dataset.arrays()[1], dataset.class_names)


def _announce(run: RunSetup, folder: Path) -> None:
    record, first = run.record, int(run.state.step)
    dataset, parameters, total = record["dataset"], record["parameters"], record["config"]["steps"]
    size = "x".join(map(str, dataset["image_shape"]))
    classes = describe_classes(dataset["class_names"], run.class_counts)
    logger.info("%s: %d images of %s, %s", dataset["name"], dataset["examples"], size, classes)
    conditional = (("G", "generator", run.game.is_conditional), ("D", "discriminator", run.game.discriminates_classes))
    players = (
        f"{name} has {parameters[player]:,} parameters and is {'' if value else 'un'}conditional"
        for name, player, value in conditional
    )
    logger.info("; ".join(players))
    if run.rows:
        source = record[INITIALIZED_FROM]
        logger.info(
            "initialized from step %s of %s: %d arrays are taken, %d are not:\n%s", source["step"], source["path"],
            source["arrays_taken"], source["arrays_initialized"], initialize_from.table(run.rows),
        )  # fmt: skip
    for warning in (
        *checks.warnings_on_labels(run.game, dataset["class_names"], run.class_counts),
        *checks.warnings_on_schedules(run.config, run.setup.schedules),
    ):
        logger.warning(warning)
    if "memory" in record:
        logger.info(memory.chosen(record["memory"]))
    logger.info("%s in %s", f"resumed from step {first} of {total}" if first else f"{total} steps", folder)
