"""Where the workers of a study meet: Optuna's storage, and what a worker is to do next.

The storage is Optuna's journal in the study's folder, or any database that Optuna knows. The folder holds the trials'
runs, so every worker needs the same one.

What is planned is never written down apart from the trials: each carries its setting, its parameters and its seed, and
`plan` puts whatever a setting still lacks into Optuna's queue. So one rule repairs all that can be cut short: a killed
worker's trial, an interrupted one, a half-written queue, seeds that were added later.
"""

import contextlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._heartbeat import get_heartbeat_thread  # in public only as a part of `optimize`, for one trial
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.study import space as spaces
from experiments.study.space import Experiment, Range
from gan.errors import UserError
from gan.io import workdir

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 30
"""How often a worker says to a database that it lives; one that has not for four times as long is taken as dead."""

JOURNAL = "study.journal"

Failure = optuna.exceptions.StorageInternalError
"""A database that was there, and is no more."""

optuna.logging.set_verbosity(optuna.logging.ERROR)  # what happens is told by the worker, a line each
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats
warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")  # they are `playing`'s


def open_study(experiment: Experiment, record: dict[str, Any], folder: Path, url: str = "") -> optuna.Study:
    """The study in `folder`, begun where there is none. Raises `UserError` where it was begun as another."""
    with planning(folder):
        storage = _open_storage(folder, url)
        name, token = _identity(folder, url)
        direction = "minimize" if experiment.minimize else "maximize"
        make = {"storage": storage, "study_name": name, "pruner": _pruner(experiment)}
        try:
            study = optuna.create_study(**make, direction=direction, load_if_exists=True)
            if "record" not in study.user_attrs:
                return _begin(study, record, token)
            if study.user_attrs["folder"] != token:
                raise UserError(
                    f"--storage holds a study {name!r} of another folder: all workers need one --workdir that all of "
                    f"them see; for another study give it another name"
                )
            changed = _changes(study.user_attrs["record"], record)
            if not changed:
                return study
            if {field for field, *_ in changed} <= {"minimize", "maximize", "best"} and not _has_values(study):
                optuna.delete_study(study_name=name, storage=storage)  # a mistaken objective; the runs go on
                return _begin(optuna.create_study(**make, direction=direction), record, token)
        except UserError:
            raise
        except Exception as error:  # of Optuna, of a database, and of a journal that is damaged: assertions, too
            raise UserError(f"the storage of {folder} fails: {' '.join(str(error).split())[:200]}") from error
    told = "; ".join(f"{field}: {before} -> {after}" for field, before, after in changed[:3])
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    raise UserError(f"--workdir={folder} holds another study; {told}{more}. Take another --workdir, or its own values")


@contextlib.contextmanager
def planning(folder: Path) -> Iterator[None]:
    """Holds the study's folder, once no other worker plans: what happens next is decided by one at a time."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(workdir.lock(folder))
                break
            except workdir.InUse:
                time.sleep(0.05)
        yield


@contextlib.contextmanager
def playing(study: optuna.Study, folder: Path, trial: Trial) -> Iterator[None]:
    """A trial's lease and, for a database, its heartbeats. One that has not been told at the end is left for later."""
    with get_heartbeat_thread(trial._trial_id, study._storage), lease(folder, name_of(trial)):
        try:
            yield
        finally:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)


def lease(folder: Path, name: str) -> contextlib.AbstractContextManager:
    """Held by the worker that plays a trial. Raises `workdir.InUse` where another one does."""
    return workdir.lock(folder / "leases" / name)


def name_of(trial: Trial | FrozenTrial) -> str:
    """A trial's name, and its run's folder under trials/: its setting and its seed."""
    return f"{trial.user_attrs['setting']:03d}-seed{trial.user_attrs['seed']}"


def plan(study: optuna.Study, experiment: Experiment, folder: Path) -> str:
    """Queues what the study lacks; then what there is to do: "play" (ask for a trial), "wait" or "done".

    To be called, and the trial asked for and settled, while `planning`.
    """
    _fail_dead(study, folder)
    trials = study.get_trials(deepcopy=False)
    _queue_missing(study, experiment, trials)
    trials = study.get_trials(deepcopy=False)
    if any(trial.state == TrialState.WAITING for trial in trials):
        return "play"
    if _can_draw(study, experiment):
        return "play"
    return "wait" if any(trial.state == TrialState.RUNNING for trial in trials) else "done"


def settle(study: optuna.Study, experiment: Experiment, trial: Trial) -> dict[str, Any]:
    """The changes {leaf: value} of a trial that was asked for. A new setting is noted, and its other seeds queued."""

    def choose(name: str, choices: Sequence | Range) -> Any:
        if not isinstance(choices, Range):
            return trial.suggest_categorical(name, choices)
        suggest = trial.suggest_int if choices.integer else trial.suggest_float
        return suggest(name, choices.low, choices.high, log=choices.log)

    changes = spaces.settle(experiment.space, choose)
    if "setting" not in trial.user_attrs:
        known = study.get_trials(deepcopy=False)
        # All at once could not be written; `params` is first, for `setting` is what makes the trial count.
        for key, value in {"params": trial.params, "seed": experiment.seeds[0]}.items():
            trial.set_user_attr(key, value)
        trial.set_user_attr("setting", len(settings(known)))
        _queue_missing(study, experiment, study.get_trials(deepcopy=False))
    return changes


def ask_alike(
    study: optuna.Study, experiment: Experiment, alike: Callable[[Mapping[str, Any], int], bool]
) -> Iterator[Trial]:
    """Asks for further trials, those whose changes and seed are `alike`: the waiting ones, and then new settings.

    To be called while `planning`. New ones are drawn where none waits, as if they were asked for one after the other.
    """
    while True:
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        for trial in waiting:
            attributes = trial.user_attrs
            changes = spaces.settle(experiment.space, lambda name, _, its=attributes["params"]: its[name])
            # Optuna asks for the oldest only; this is how it does.
            if alike(changes, attributes["seed"]) and study._storage.set_trial_state_values(
                trial._trial_id, TrialState.RUNNING
            ):
                yield Trial(study, trial._trial_id)
        if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)) or not _can_draw(study, experiment):
            return
        asked = study.ask()
        if not alike(settle(study, experiment, asked), asked.user_attrs["seed"]):
            study.tell(asked, state=TrialState.FAIL)  # the setting is known from now on, and its trials are queued
            return
        yield asked


def settings(trials: Sequence[FrozenTrial]) -> dict[int, dict[str, Any]]:
    """{number: parameters} of every setting that has a trial."""
    return {
        trial.user_attrs["setting"]: trial.user_attrs["params"]
        for trial in sorted(trials, key=lambda trial: trial.user_attrs.get("setting", -1))
        if "setting" in trial.user_attrs
    }


def standing(trials: Sequence[FrozenTrial]) -> dict[tuple[int, int], FrozenTrial]:
    """{(setting, seed): trial}: those that count. One that was cut short has another in its place, or will have."""
    return {
        (trial.user_attrs["setting"], trial.user_attrs["seed"]): trial
        for trial in trials
        if "setting" in trial.user_attrs and (trial.state != TrialState.FAIL or "why" in trial.user_attrs)
    }


def forget_failed(study: optuna.Study) -> None:
    """Trials that crashed are tried again."""
    with_reason = [trial for trial in standing(study.get_trials()).values() if trial.state == TrialState.FAIL]
    for trial in with_reason:
        study.enqueue_trial(trial.user_attrs["params"], user_attrs=_attributes(trial))


def _can_draw(study: optuna.Study, experiment: Experiment) -> bool:
    """Whether there are settings to be drawn, which study.ask() then does.

    Not of the worker's own chance: what a setting is does not depend on how many workers there are.
    """
    known = len(settings(study.get_trials(deepcopy=False)))
    if experiment.search == "grid" or known >= experiment.settings:
        return False
    study.sampler = _sampler(experiment, seed=known)
    return True


def _queue_missing(study: optuna.Study, experiment: Experiment, trials: Sequence[FrozenTrial]) -> None:
    found, there = settings(trials), standing(trials)
    if experiment.search == "grid":
        found = dict(enumerate(spaces.grid(experiment.space)))
    # Optuna's GridSampler may give one point to two workers (its documentation says so), and knows no cases; the queue
    # gives each to one. Seeds outermost: all settings are seen once before any is seen twice.
    for seed in experiment.seeds:
        for number, parameters in found.items():
            if (number, seed) not in there:
                attributes = {"setting": number, "seed": seed, "params": parameters}
                study.enqueue_trial(parameters, user_attrs=attributes)


def _attributes(trial: FrozenTrial) -> dict[str, Any]:
    return {key: trial.user_attrs[key] for key in ("setting", "seed", "params")}


def _fail_dead(study: optuna.Study, folder: Path) -> None:
    """Ends the trials of workers that are no more.

    A database has Optuna's heartbeats for it. The journal has none: there it is the lease, which dies with its holder.
    """
    if (folder / JOURNAL).exists():
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "setting" in trial.user_attrs:
                try:
                    with lease(folder, name_of(trial)):
                        study.tell(trial.number, state=TrialState.FAIL)
                except workdir.InUse:
                    continue
            else:  # its worker died while it was planning, as we are now
                study.tell(trial.number, state=TrialState.FAIL)
    else:
        optuna.storages.fail_stale_trials(study)


def _begin(study: optuna.Study, record: dict[str, Any], token: str) -> optuna.Study:
    study.set_user_attr("folder", token)
    study.set_user_attr("record", record)
    return study


def _changes(before: dict[str, str], after: dict[str, str]) -> list[tuple[str, str, str]]:
    """What differs of two records, as (what, before, after)."""
    fields = dict.fromkeys([*before, *after])
    return [
        (field, before.get(field, "nothing"), after.get(field, "nothing"))
        for field in fields
        if before.get(field) != after.get(field)
    ]


def _has_values(study: optuna.Study) -> bool:
    return any(trial.intermediate_values or trial.values for trial in study.get_trials(deepcopy=False))


def _open_storage(folder: Path, url: str) -> BaseStorage:
    try:
        if not url:
            _drop_unfinished_line(folder / JOURNAL)
            return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
        beats = {"heartbeat_interval": HEARTBEAT_SECONDS, "grace_period": 4 * HEARTBEAT_SECONDS}
        return RDBStorage(url, engine_kwargs=options, **beats)
    except Exception as error:  # of whichever driver, and a damaged journal's
        where = f"--storage={_without_password(url)}" if url else str(folder / JOURNAL)
        line = " ".join(str(error).replace(url or "\0", where).split())[:200]
        raise UserError(f"{where} cannot be opened: {type(error).__name__}: {line}") from error


def _drop_unfinished_line(journal: Path) -> None:
    """Removes what a killed worker left of the line that it was writing: Optuna would append the next line to it."""

    def kept() -> int | None:
        """The bytes up to the end of the last whole line, where more follow."""
        content = journal.read_bytes() if journal.exists() else b""
        return content.rfind(b"\n") + 1 if content and not content.endswith(b"\n") else None

    if kept() is None:
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        size = kept()  # another worker may have been writing, and have come to its end
        if size is not None:
            os.truncate(journal, size)
            logger.warning("%s: removed a last line that was not finished", journal)
    finally:
        lock.release()


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{separator}{user.partition(':')[0]}:***{at}{host}" if at and ":" in user else url


def _identity(folder: Path, url: str) -> tuple[str, str]:
    """The study's name, and the token that ties it to its folder. Raises `UserError` for the other kind of storage."""
    path = folder / "study.json"
    kind = "a database" if url else "the journal in its folder"
    known = _read_identity(path)
    if known is None:
        known = {"name": folder.resolve().name, "token": f"{time.time_ns():x}", "storage": kind}
        workdir.write_record(path, known)
    if known["storage"] != kind:
        raise UserError(f"--workdir={folder} holds a study whose storage is {known['storage']}, not {kind}: --storage")
    return known["name"], known["token"]


def _read_identity(path: Path) -> dict[str, str] | None:
    """The content of study.json, or None where there is none. Raises `UserError` if it is damaged."""
    try:
        known = json.loads(path.read_text())
        known["name"], known["token"], known["storage"]  # noqa: B018 (all must be there)
        return known
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no record of a study ({error!r})") from error


def _sampler(experiment: Experiment, seed: int) -> optuna.samplers.BaseSampler:
    if experiment.search == "tpe":
        # Constant liar: what others are playing counts as bad, so that several that are asked for at once differ.
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=10 * len(experiment.seeds), constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(experiment: Experiment) -> optuna.pruners.BasePruner:
    if experiment.prune == "median":
        return optuna.pruners.MedianPruner()
    if experiment.prune == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return optuna.pruners.NopPruner()
