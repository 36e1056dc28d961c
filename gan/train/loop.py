"""The training loop of a run: set up, take steps, do what is due, stop when a signal asks."""

import contextlib
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax import Array
from ml_collections import ConfigDict

from gan import build, checks, data, state, steps
from gan.evaluation.options import EvaluationOptions, evaluation_options
from gan.evaluation.reference import check_split
from gan.game import Game
from gan.io import loggers, workdir
from gan.parallel import compilation, processes, sharding
from gan.schedules import Schedules
from gan.train import preview, sources, summary
from gan.train.recorder import Recorder
from gan.train.setup import RunSetup, begin, find_run, with_chosen_microbatches, with_sharded_updates
from gan.train.signals import StopSignal

logger = logging.getLogger(__name__)


def train(config: ConfigDict, folder: Path, launched: float) -> int:
    """Trains the run of `config` in `folder`, from its last checkpoint or from the start. Returns the exit status.

    `launched` is the `time.monotonic()` of the launch. Raises `UserError` for a mistake of the user's, `Diverged` where
    a metric is not finite.
    """
    checks.check_values(config)
    loggers.check(config.loggers)
    options = evaluation_options(config)
    with contextlib.ExitStack() as held:
        processes.broadcast_from_primary(lambda: bool(held.enter_context(workdir.lock(folder))))
        return _train(config, options, folder, launched)


def _train(config: ConfigDict, evaluation: EvaluationOptions, folder: Path, launched: float) -> int:
    mesh = sharding.device_mesh()
    sharding.check_batch(config.batch_size, mesh)
    checks.check_share(config, mesh.size)
    dataset = processes.primary_first(lambda: data.open_dataset(config.data))
    processes.primary_first(lambda: check_split(evaluation))
    run = find_run(config, folder, dataset, mesh)
    if run.is_complete:
        return 0
    source = sources.open_source(dataset, run.setup.options, mesh)
    run, train_steps = _compiled(run, source, mesh, is_auto=config.microbatches == build.AUTO)
    begin(run, folder)
    options, state, step = run.setup.options, run.state, int(run.state.step)
    recorder = Recorder(run, evaluation, folder, preview.real_examples(dataset), launched)
    examples = source.opened(step, options.steps, run.game.discriminator.steps)
    with StopSignal() as stop_signal, recorder, examples:
        if processes.process_count() > 1:
            stop_signal.begin()  # the others would take an end at once for a loss
        if step == 0 and options.sample_every:
            recorder.sample(0, state)
        while step < options.steps:
            count = min(recorder.steps_before_due(step), recorder.steps_per_dispatch, source.max_steps_per_dispatch)
            arrays, waited = source.take()
            state, metrics = train_steps(state, arrays, count)
            stop_signal.begin()  # until here, with what had to be compiled, a signal ends the process at once
            step += count
            recorder.record(step, count, metrics, waited)
            recorder.due(step, state)
            if number := stop_signal.agreed(count, recorder.steps_per_dispatch, metrics):
                recorder.stop(step, state, number)
                return 128 + number
    summary.log_end(options.steps, folder)
    return 0


def _compiled(run: RunSetup, source: Any, mesh: Any, *, is_auto: bool) -> tuple[RunSetup, Callable]:
    """The run, with its number of microbatches, and its train steps."""

    def train_steps(run: RunSetup) -> Any:
        return compile_setup(run.setup, run.state, source, mesh)

    if not is_auto:
        return run, train_steps(run)
    arrays = source.abstract(run.game.discriminator.steps)
    run, compiled = with_chosen_microbatches(
        run, mesh, lambda changed: train_steps(changed).compile(changed.state, arrays)
    )
    return run, train_steps(run).with_compiled(compiled)


def compile_setup(setup: build.Setup, shapes: state.TrainState, source: Any, mesh: Any) -> Callable:
    """The train steps of a setup on the examples of a source, compiled when they are first needed.

    `shapes` are those of the state: the state itself, or `Setup.shapes`. See `compilation.compile_steps`.
    """
    options = setup.options
    game = with_sharded_updates(setup.game, shard_state=options.shard_state, mesh=mesh)
    return compilation.compile_steps(
        functools.partial(run_step, game=game, schedules=setup.schedules, batch_of=source.batch_of),
        mesh,
        wrapper=options.parallel,
        batch_size=options.batch_size,
        data_axis=source.data_axis,
        max_steps=source.max_steps_per_dispatch,
        hyperparams=setup.base_hyperparams,
        layout=sharding.state_sharding(shapes, mesh, sharded=options.shard_state),
    )


def run_step(
    state: state.TrainState, arrays: Any, rows: Array, numbers: dict, *, game: Game, schedules: Schedules,
    batch_of: Callable, axis_name: str | None,
) -> tuple[state.TrainState, dict]:  # fmt: skip
    """One train step with these `Setup.base_hyperparams`, on what a source's `batch_of` makes of its arrays."""
    raw = batch_of(arrays, numbers["seed"], state.step, rows, game.discriminator.steps)
    hyperparams = schedules(state.images, numbers["base"])
    return steps.train_step(state, make_batches(raw, rows, game), hyperparams, game=game, axis_name=axis_name)


def make_batches(raw: dict, rows: Array, game: Game) -> dict:
    """Examples [batches, B, ...] as the steps take them: images in the game's range, and each example's row."""
    return {
        "image": data.to_range(raw["image"], game.output.image_range),
        "label": raw["label"],
        "row": jax.lax.broadcast_in_dim(rows, raw["label"].shape, (1,)),
    }
