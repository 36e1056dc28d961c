"""Several runs at once, in one compiled program: a `vmap` of the train step over their states and hyperparameters.

Runs that differ only in their seeds and in numbers that a schedule could change have the same game, and can be trained
together. Each member is an ordinary run in an ordinary folder, which can be resumed alone, in the same population or in
another. It equals what it would have been alone but for the order of sums.
"""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from gan import build, checks, data, steps
from gan.errors import Diverged, UserError
from gan.evaluation.options import evaluation_options
from gan.game import Game
from gan.io import workdir
from gan.parallel import compilation, sharding
from gan.schedules import Hyperparams, Schedules
from gan.state import TrainState
from gan.train import loop, preview, sources
from gan.train.recorder import DispatchQueue, Recorder
from gan.train.setup import RunSetup, prepare_run
from gan.train.signals import StopSignal

logger = logging.getLogger(__name__)

AXES = TrainState(**dict[str, Any](step=None, images=None, key=0, generator=0, discriminator=0, ema=0, running_stats=0))
"""Which parts of a population's state have a leading axis of members: they are all at one step."""


class End(NamedTuple):
    """How a member ended."""

    status: int
    """The exit status that its run would have had alone."""
    why: str = ""
    """What a run alone would have said last, of one that diverged."""


@dataclasses.dataclass
class Member:
    """One run of a population."""

    folder: Path
    run: RunSetup
    recorder: Recorder
    """None for a run that was complete before, which is not trained."""
    state: TrainState
    end: End | None = None
    """How it ended, once it has."""


def train(
    configs: Sequence[ConfigDict],
    folders: Sequence[Path],
    launched: float,
    keep: Callable[[int, int], bool] = lambda member, step: True,
) -> list[End]:
    """Trains the run of each config in its folder, all in one program, and returns how each ended.

    Members resume from where each was left; those that are behind catch up first. A member whose metrics are not finite
    ends with status 3, and the others go on. Whenever something is due, `keep(member, step)` says whether that member
    is worth training further: one that is not is saved, and ends with status 0 before its last step.

    Raises `UserError` where the configs are not one game, or the data are streamed.
    """
    _check(configs)
    mesh = sharding.device_mesh()
    with contextlib.ExitStack() as stack:
        for folder in folders:
            stack.enter_context(workdir.lock(folder))
        dataset = data.open_dataset(configs[0].data)
        if not sources.is_resident(dataset, configs[0].data.on_device):
            raise UserError("a population needs data that are resident; expected: config.data.on_device='always'")
        source = sources.Resident(dataset, build.make_options(configs[0]), mesh)
        real, members = preview.real_examples(dataset), []
        for config, folder in zip(configs, folders, strict=True):
            run = prepare_run(config, folder, dataset, mesh)
            recorder: Any = None
            if not run.is_complete:
                evaluation = evaluation_options(config)
                recorder = stack.enter_context(Recorder(run, evaluation, folder, real, launched))
            members.append(Member(folder, run, recorder, run.state, End(0) if run.is_complete else None))
            if run.game != members[0].run.game:
                raise UserError(f"{folder} is another game than {folders[0]}: they cannot be trained together")
        with StopSignal() as stop_signal:
            stop_signal.begin()
            while active := [member for member in members if member.end is None]:
                # Those that are behind go first, as far as the next, and then on with it.
                reached = sorted({int(member.state.step) for member in active})
                first, until = [*reached, configs[0].steps][:2]
                group = {n: one for n, one in enumerate(members) if one in active and one.state.step == first}
                _train_together(group, first, until, source, mesh, stop_signal, keep)
    return [member.end for member in members if member.end is not None]


def stacked(states: Sequence[TrainState]) -> TrainState:
    """The states of members, at one step, as one: what AXES says gets a leading axis."""
    first, *_ = states
    return jax.tree.map(
        lambda axis, *parts: parts[0] if axis is None else _in_a_row(parts),
        AXES, first, *states[1:], is_leaf=_is_none,
    )  # fmt: skip


def member_of(states: TrainState, index: int) -> TrainState:
    """The state of one member of a population's."""
    return jax.tree.map(
        lambda axis, part: part if axis is None else jax.tree.map(lambda leaf: leaf[index], part),
        AXES, states, is_leaf=_is_none,
    )  # fmt: skip


def member_steps(
    states: TrainState,
    arrays: Any,
    rows: Array,
    numbers: Sequence[dict],
    *,
    game: Game,
    schedules: Sequence[Schedules],
    batch_of: Callable,
    axis_name: None,
) -> tuple[TrainState, dict]:
    """One step of every member, with its `Setup.base_hyperparams`, on its own seed's examples; metrics [members]."""

    def step(state: TrainState, hyperparams: Hyperparams, seed: Array) -> tuple[TrainState, dict]:
        raw = batch_of(arrays, seed, state.step, rows, game.discriminator.steps)
        return steps.train_step(state, loop.make_batches(raw, rows, game), hyperparams, game=game, axis_name=axis_name)

    each = [given(states.images, own["base"]) for given, own in zip(schedules, numbers, strict=True)]
    hyperparams, seeds = _in_a_row(each), _in_a_row([own["seed"] for own in numbers])
    return jax.vmap(step, in_axes=(AXES, 0, 0), out_axes=(AXES, 0))(states, hyperparams, seeds)


def sharding_of(mesh: Any, count: int) -> TrainState:
    """How a population's state lies on the devices: their members apart, if they divide, and what is common on all."""
    whole, split = sharding.replicated(mesh), sharding.split_members(mesh, count)
    return jax.tree.map(lambda axis: whole if axis is None else split, AXES, is_leaf=_is_none)


def _check(configs: Sequence[ConfigDict]) -> None:
    """Raises `UserError` where configs differ in more than seeds and numbers."""
    for config in configs:
        checks.check_values(config)
        evaluation_options(config)
        if config.microbatches == build.AUTO:
            raise UserError(
                "config.microbatches='auto' cannot be chosen for a population, whose members share one program; "
                "expected: a whole number"
            )
        if config.shard_state:
            raise UserError(
                "config.shard_state=True has no meaning in a population, whose members lie apart; "
                "expected: config.shard_state=False"
            )
        _, others = workdir.hyperparams_that_differ(configs[0].to_dict(), config.to_dict())
        if others:
            raise UserError(
                f"members of a population differ in config.{others[0]}; expected: seed, and numbers that a schedule "
                f"could change, such as config.generator.learning_rate"
            )


def _train_together(
    group: dict[int, Member], step: int, until: int, source: sources.Resident, mesh: Any, stop_signal: StopSignal,
    keep: Callable[[int, int], bool],
) -> None:  # fmt: skip
    """Trains members that are at one step up to the step `until`, or until half of them have ended."""
    members = list(group.values())
    layout = sharding_of(mesh, len(members))
    train_steps = compile_members([member.run.setup for member in members], source, mesh, layout)
    state = jax.jit(stacked, out_shardings=layout)([member.state for member in members])
    one = jax.jit(member_of, out_shardings=sharding.replicated(mesh))
    arrays, _ = source.take()
    queue = DispatchQueue()
    if step == 0 and members[0].run.setup.options.sample_every:
        for member in members:
            member.recorder.sample(0, member.state)
    while step < until and 2 * len(active := [member for member in members if member.end is None]) > len(members):
        before_due = min(active[0].recorder.steps_before_due(step), until - step)
        count = min(before_due, active[0].recorder.steps_per_dispatch)
        state, metrics = train_steps(state, arrays, count)
        step += count
        queue.add(count, metrics)
        if count < before_due and not stop_signal.signal:
            continue
        fetched = queue.fetch()
        for index, (number, member) in enumerate(group.items()):
            if member.end is None:
                member.state = one(state, index)
                for steps_done, found in fetched:
                    own = {name: values[:, index] for name, values in found.items()}
                    member.recorder.record(step, steps_done, own, 0.0)
                member.end = _end_after(member, number, step, stop_signal.signal, keep)
        queue.clear()


def compile_members(setups: Sequence[build.Setup], source: sources.Resident, mesh: Any, layout: TrainState) -> Callable:
    """The train steps of members with these setups, whose state lies as `sharding_of` says."""
    first = setups[0]
    return compilation.compile_steps(
        functools.partial(
            member_steps,
            game=first.game,
            schedules=[setup.schedules for setup in setups],
            batch_of=source.batch_of,
        ),
        mesh,
        wrapper="jit",
        batch_size=first.options.batch_size,
        data_axis=None,
        max_steps=source.max_steps_per_dispatch,
        hyperparams=[setup.base_hyperparams for setup in setups],
        layout=layout,
        rows_are_split=False,
    )


def _end_after(
    member: Member, number: int, step: int, signal_number: int, keep: Callable[[int, int], bool]
) -> End | None:
    """Does what is due for a member after a step. How it ended, if it has."""
    try:
        member.recorder.due(step, member.state)
        if step == member.run.setup.options.steps:
            logger.info("%s: step %d done", member.folder, step)
            return End(0)
        if signal_number:
            member.recorder.stop(step, member.state, signal_number)
            return End(128 + signal_number)
        if not keep(number, step):
            member.recorder.save(step, member.state)
            logger.info("%s: given up at step %d", member.folder, step)
            return End(0)
    except Diverged as error:
        logger.warning("%s diverged: %s", member.folder, error)
        return End(3, f"diverged: {error}")
    return None


def _in_a_row(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _is_none(leaf: Any) -> bool:
    return leaf is None
