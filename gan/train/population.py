"""Several runs at once, in one program: a `vmap` of the turn over their states and numbers. The top of the spine.

Runs that differ in their seeds and in numbers that a schedule could have changed play the same game, and can be played
side by side. Each member is an ordinary run in an ordinary folder, which can be resumed alone, in the same population
or in another; to what it would have been alone it is equal but for the order of sums.
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

from gan import data, steps
from gan.errors import Diverged, UserError
from gan.game import Game
from gan.io import workdir
from gan.parallel import compilation, sharding
from gan.schedules import Hyperparams, Schedules
from gan.state import TrainState
from gan.train import loop, memory

logger = logging.getLogger(__name__)

AXES = TrainState(step=None, images=None, key=0, generator=0, discriminator=0, ema=0, running_stats=0)
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

    config: ConfigDict
    folder: Path
    opened: loop.RunSetup
    run: loop.Recorder | None
    """None for a run that was complete before."""
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

    Members go on from where each was left; those that are behind catch up first. A member whose figures are not finite
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
        if not loop.is_resident(dataset, configs[0]):
            raise UserError("a population needs data that are resident; expected: config.data.on_device='always'")
        source = loop.Resident(dataset, configs[0], mesh)
        members = []
        for config, folder in zip(configs, folders, strict=True):
            opened = loop.prepare_run(config, folder, dataset, mesh)
            run = None
            if not opened.is_complete:
                run = stack.enter_context(loop.Recorder(config, folder, opened, source.real_images, launched))
            members.append(Member(config, folder, opened, run, opened.state, End(0) if opened.is_complete else None))
            if opened.game != members[0].opened.game:
                raise UserError(f"{folder} is another game than {folders[0]}: they cannot be played together")
        with loop.StopSignal() as interruption:
            while active := [member for member in members if member.end is None]:
                # Those that are behind go first, as far as the next, and then on with it.
                steps_played = sorted({int(member.state.step) for member in active})
                first, until = [*steps_played, configs[0].steps][:2]
                group = {n: one for n, one in enumerate(members) if one in active and one.state.step == first}
                _play(group, first, until, source, mesh, interruption, keep)
    return [member.end for member in members]


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
    schedules_of_members: Sequence[Schedules],
    batch_of: Callable,
    axis_name: None,
) -> tuple[TrainState, dict]:
    """One step of every member, with its `loop.base_hyperparams`, on its own seed's examples; metrics [members]."""

    def play(state: TrainState, hyperparams: Hyperparams, seed: Array) -> tuple[TrainState, dict]:
        raw = batch_of(arrays, seed, state.step, rows, game.discriminator.steps)
        return steps.train_step(state, loop.make_batches(raw, rows, game), hyperparams, game=game, axis_name=axis_name)

    each = [course(states.images, own["base"]) for course, own in zip(schedules_of_members, numbers, strict=True)]
    hyperparams, seeds = _in_a_row(each), _in_a_row([own["seed"] for own in numbers])
    return jax.vmap(play, in_axes=(AXES, 0, 0), out_axes=(AXES, 0))(states, hyperparams, seeds)


def sharding_of(mesh: Any, count: int) -> TrainState:
    """How a population's state lies on the devices: their members apart, if they divide, and what is common on all."""
    whole, split = sharding.replicated(mesh), sharding.split_members(mesh, count)
    return jax.tree.map(lambda axis: whole if axis is None else split, AXES, is_leaf=_is_none)


def _check(configs: Sequence[ConfigDict]) -> None:
    """Raises `UserError` where configs differ in more than seeds and numbers."""
    for config in configs:
        loop.check_config_values(config)
        if config.microbatches == memory.AUTO:
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


def _play(
    group: dict[int, Member], step: int, until: int, source: loop.Resident, mesh: Any,
    interruption: loop.StopSignal, keep: Callable[[int, int], bool],
) -> None:  # fmt: skip
    """Plays members that stand at one step up to the step `until`, or until half of them have ended."""
    members = list(group.values())
    config = members[0].config
    state_sharding = sharding_of(mesh, len(members))
    turns = compilation.compile_steps(
        functools.partial(
            member_steps,
            game=members[0].opened.game,
            schedules_of_members=[member.opened.course for member in members],
            batch_of=source.batch_of,
        ),
        mesh,
        wrapper="jit",
        batch_size=config.batch_size,
        data_axis=None,
        max_steps=source.max_steps_per_dispatch,
        hyperparams=[loop.base_hyperparams(member.config, member.opened.course) for member in members],
        layout=state_sharding,
        rows_are_split=False,
    )
    state = jax.jit(stacked, out_shardings=state_sharding)([member.state for member in members])
    one = jax.jit(member_of, out_shardings=sharding.replicated(mesh))
    arrays, _ = source.take()
    recent: list[tuple[int, dict]] = []
    if step == 0 and config.sample_every:
        for member in members:
            member.run.sample(0, member.state)
    while step < until and 2 * len(playing := [member for member in members if member.end is None]) > len(members):
        before_due = min(playing[0].run.steps_before_due(step), until - step)
        count = min(before_due, playing[0].run.steps_per_dispatch)
        state, metrics = turns(state, arrays, count)
        step += count
        recent.append((count, metrics))
        if len(recent) > 2:
            jax.block_until_ready(recent[-3][1])
        if count < before_due and not interruption.signal:
            continue
        recent = jax.device_get(recent)
        for index, (number, member) in enumerate(group.items()):
            if member.end is None:
                member.state = one(state, index)
                for steps_done, figures in recent:
                    own = {name: values[:, index] for name, values in figures.items()}
                    member.run.record(step, steps_done, own, 0.0)
                member.end = _end_after(member, number, step, interruption.signal, keep)
        recent = []


def _end_after(
    member: Member, number: int, step: int, signal_number: int, keep: Callable[[int, int], bool]
) -> End | None:
    """Does what is due for a member after a step. How it ended, if it has."""
    try:
        member.run.due(step, member.state)
        if step == member.config.steps:
            logger.info("%s: step %d done", member.folder, step)
            return End(0)
        if signal_number:
            member.run.stop(step, member.state, signal_number)
            return End(128 + signal_number)
        if not keep(number, step):
            member.run.save(step, member.state)
            logger.info("%s: given up at step %d", member.folder, step)
            return End(0)
    except Diverged as error:
        logger.warning("%s diverged: %s. The last checkpoint stands", member.folder, error)
        return End(3, f"diverged: {error}. The last checkpoint stands")
    return None


def _in_a_row(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _is_none(leaf: Any) -> bool:
    return leaf is None
