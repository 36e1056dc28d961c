"""The trials of a study: which are queued, asked for, running and dead.

The plan is stored in the trials only. Each trial has its setting, its parameters and its seed, and `plan` adds every
trial that a setting lacks to Optuna's queue. This one rule handles all interruptions: the trial of a killed worker, a
stopped one, a half-written queue, and seeds that are added later.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages._heartbeat import get_heartbeat_thread  # public only as a part of `optimize`
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.sweep import space as spaces
from experiments.sweep.experiment import Experiment
from experiments.sweep.space import Range
from experiments.sweep.storage import JOURNAL
from gan.io import workdir


@contextlib.contextmanager
def running(study: optuna.Study, folder: Path, trial: Trial) -> Iterator[None]:
    """Holds a trial's lease and sends its heartbeats to a database. A trial without a result is queued again later."""
    with get_heartbeat_thread(trial._trial_id, study._storage), lease(folder, name_of(trial)):
        try:
            yield
        finally:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)


def lease(folder: Path, name: str) -> contextlib.AbstractContextManager:
    """The lock of a running trial. Raises `workdir.InUse` if another worker holds it."""
    return workdir.lock(folder / "leases" / name)


def name_of(trial: Trial | FrozenTrial) -> str:
    """A trial's name, which is also its folder under trials/: its setting and its seed."""
    return f"{trial.user_attrs['setting']:03d}-seed{trial.user_attrs['seed']}"


def plan(study: optuna.Study, experiment: Experiment, folder: Path) -> str:
    """Queues the trials that the study lacks. Returns what to do next: "run" (ask for a trial), "wait" or "done".

    To be called within `storage.locked`, as are `study.ask` and `resolve`.
    """
    _fail_dead(study, folder)
    trials = study.get_trials(deepcopy=False)
    _queue_missing(study, experiment, trials)
    trials = study.get_trials(deepcopy=False)
    if any(trial.state == TrialState.WAITING for trial in trials):
        return "run"
    if _can_draw(study, experiment):
        return "run"
    return "wait" if any(trial.state == TrialState.RUNNING for trial in trials) else "done"


def resolve(study: optuna.Study, experiment: Experiment, trial: Trial) -> dict[str, Any]:
    """The changes {field: value} of a trial that was asked for. Records a new setting, and queues its other seeds."""

    def choose(name: str, choices: Sequence | Range) -> Any:
        if not isinstance(choices, Range):
            return trial.suggest_categorical(name, choices)
        suggest = trial.suggest_int if choices.integer else trial.suggest_float
        return suggest(name, choices.low, choices.high, log=choices.log)

    changes = spaces.resolve(experiment.space, choose)
    if "setting" not in trial.user_attrs:
        known = study.get_trials(deepcopy=False)
        # Attributes are written one by one. `setting` comes last: a trial counts once it has one.
        for key, value in {"params": trial.params, "seed": experiment.seeds[0]}.items():
            trial.set_user_attr(key, value)
        trial.set_user_attr("setting", len(settings_of(known)))
        _queue_missing(study, experiment, study.get_trials(deepcopy=False))
    return changes


def ask_compatible(
    study: optuna.Study, experiment: Experiment, is_compatible: Callable[[Mapping[str, Any], int], bool]
) -> Iterator[Trial]:
    """Asks for further trials whose changes and seed are compatible: queued ones first, then new settings.

    To be called within `storage.locked`. New settings are drawn when the queue is empty, as if asked for one by one.
    """
    while True:
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        for trial in waiting:
            attributes = trial.user_attrs
            changes = spaces.resolve(experiment.space, lambda name, _, its=attributes["params"]: its[name])
            # `study.ask` takes the oldest trial only; this is how it does so.
            if is_compatible(changes, attributes["seed"]) and study._storage.set_trial_state_values(
                trial._trial_id, TrialState.RUNNING
            ):
                yield Trial(study, trial._trial_id)
        if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)) or not _can_draw(study, experiment):
            return
        asked = study.ask()
        if not is_compatible(resolve(study, experiment, asked), asked.user_attrs["seed"]):
            study.tell(asked, state=TrialState.FAIL)  # the setting is recorded, and its trials are queued
            return
        yield asked


def settings_of(trials: Sequence[FrozenTrial]) -> dict[int, dict[str, Any]]:
    """{number: parameters} of every setting that has a trial."""
    return {
        trial.user_attrs["setting"]: trial.user_attrs["params"]
        for trial in sorted(trials, key=lambda trial: trial.user_attrs.get("setting", -1))
        if "setting" in trial.user_attrs
    }


def current_trials(trials: Sequence[FrozenTrial]) -> dict[tuple[int, int], FrozenTrial]:
    """{(setting, seed): trial} of the trials that count. An interrupted trial has a successor, or will have one."""
    return {
        (trial.user_attrs["setting"], trial.user_attrs["seed"]): trial
        for trial in trials
        if "setting" in trial.user_attrs and (trial.state != TrialState.FAIL or "why" in trial.user_attrs)
    }


def retry(study: optuna.Study, *, crashed: bool) -> None:
    """Queues the trials again whose runs were killed from outside, and those that crashed if asked for."""
    for trial in current_trials(study.get_trials()).values():
        if trial.state == TrialState.FAIL and (crashed or trial.user_attrs.get("killed")):
            study.enqueue_trial(trial.user_attrs["params"], user_attrs=_attributes(trial))


def _can_draw(study: optuna.Study, experiment: Experiment) -> bool:
    """Whether new settings are to be drawn; if so, sets the sampler with which study.ask() draws them.

    The sampler's seed is the number of settings so far, so settings do not depend on the number of workers.
    """
    known = len(settings_of(study.get_trials(deepcopy=False)))
    if experiment.search == "grid" or known >= experiment.num_settings:
        return False
    study.sampler = _sampler(experiment, seed=known)
    return True


def _queue_missing(study: optuna.Study, experiment: Experiment, trials: Sequence[FrozenTrial]) -> None:
    known, existing = settings_of(trials), current_trials(trials)
    if experiment.search == "grid":
        known = dict(enumerate(spaces.grid(experiment.space)))
    # Optuna's GridSampler may give one point to two workers (see its documentation), and does not support cases. The
    # queue gives each point to one worker. Seeds are the outer loop: each setting is tried once before any is repeated.
    for seed in experiment.seeds:
        for number, parameters in known.items():
            if (number, seed) not in existing:
                attributes = {"setting": number, "seed": seed, "params": parameters}
                study.enqueue_trial(parameters, user_attrs=attributes)


def _attributes(trial: FrozenTrial) -> dict[str, Any]:
    return {key: trial.user_attrs[key] for key in ("setting", "seed", "params")}


def _fail_dead(study: optuna.Study, folder: Path) -> None:
    """Fails the running trials of workers that have died.

    With a database, Optuna's heartbeats show it. The journal has none: the lease is free when its holder has died.
    """
    if (folder / JOURNAL).exists():
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "setting" in trial.user_attrs:
                try:
                    with lease(folder, name_of(trial)):
                        study.tell(trial.number, state=TrialState.FAIL)
                except workdir.InUse:
                    continue
            else:  # its worker died within `storage.locked`
                study.tell(trial.number, state=TrialState.FAIL)
    else:
        optuna.storages.fail_stale_trials(study)


def _sampler(experiment: Experiment, seed: int) -> optuna.samplers.BaseSampler:
    if experiment.search == "tpe":
        # Constant liar: running trials count as bad, so that settings that are drawn at the same time differ.
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=10 * len(experiment.seeds), constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)
