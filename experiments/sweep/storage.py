"""The storage that the workers of a study share, and the planning of trials.

The storage is Optuna's journal in the study's folder, or any database that Optuna supports. The folder holds the
trials' runs, so all workers must use the same one.

The plan is stored in the trials only. Each trial has its setting, its parameters and its seed, and `plan` adds every
trial that a setting lacks to Optuna's queue. This one rule handles all interruptions: the trial of a killed worker, a
stopped one, a half-written queue, and seeds that are added later.
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
from optuna.storages._heartbeat import get_heartbeat_thread  # public only as a part of `optimize`
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.sweep import space as spaces
from experiments.sweep.experiment import Experiment
from experiments.sweep.space import Range
from gan.errors import UserError
from gan.io import workdir

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 30
"""How often a worker sends a heartbeat to a database. After four missed ones it counts as dead."""

JOURNAL = "study.journal"

Failure = optuna.exceptions.StorageInternalError
"""The error when a database is no longer reachable."""

optuna.logging.set_verbosity(optuna.logging.ERROR)  # the worker prints what happens
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats
warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")  # sent by `running`


def open_study(experiment: Experiment, record: dict[str, Any], folder: Path, url: str = "") -> optuna.Study:
    """Opens or creates the study in `folder`. Raises `UserError` if the folder holds another study."""
    with planning(folder):
        storage = _open_storage(folder, url)
        name, token = _identity(folder, url)
        direction = "minimize" if experiment.minimize else "maximize"
        make = {"storage": storage, "study_name": name, "pruner": _pruner(experiment)}
        try:
            study = optuna.create_study(**make, direction=direction, load_if_exists=True)
            if "record" not in study.user_attrs:
                return _initialize(study, record, token)
            if study.user_attrs["folder"] != token:
                raise UserError(
                    f"--storage holds a study {name!r} of another folder; all workers need the same --workdir; "
                    f"for another study use a --workdir of another name"
                )
            changed = _changes(study.user_attrs["record"], record)
            if not changed:
                _check_trials(study)
                return study
            if {field for field, *_ in changed} <= {"minimize", "maximize", "best"} and not _has_values(study):
                optuna.delete_study(study_name=name, storage=storage)  # a wrong objective; the runs are kept
                return _initialize(optuna.create_study(**make, direction=direction), record, token)
        except UserError:
            raise
        except Exception as error:  # Optuna, databases and damaged journals raise many types
            raise UserError(f"the storage of {folder} fails: {' '.join(str(error).split())[:200]}") from error
    changes = "; ".join(f"{field}: {before} -> {after}" for field, before, after in changed[:3])
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    raise UserError(
        f"--workdir={folder} holds another study; {changes}{more}; use a new --workdir or restore these values"
    )


@contextlib.contextmanager
def planning(folder: Path) -> Iterator[None]:
    """Holds the lock of the study's folder: one worker at a time plans and takes trials."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(workdir.lock(folder))
                break
            except workdir.InUse:
                time.sleep(0.05)
        yield


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

    To be called within `planning`, as are `study.ask` and `resolve`.
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

    To be called within `planning`. New settings are drawn when the queue is empty, as if asked for one by one.
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


def _check_trials(study: optuna.Study) -> None:
    """Raises `ValueError` where a trial that counts lacks an attribute, which a damaged journal may have lost."""
    for trial in study.get_trials(deepcopy=False):
        missing = sorted({"seed", "params"} - trial.user_attrs.keys())
        if "setting" in trial.user_attrs and missing:
            raise ValueError(f"trial {trial.number} has no {missing[0]!r}")


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
            else:  # its worker died within `planning`
                study.tell(trial.number, state=TrialState.FAIL)
    else:
        optuna.storages.fail_stale_trials(study)


def _initialize(study: optuna.Study, record: dict[str, Any], token: str) -> optuna.Study:
    study.set_user_attr("folder", token)
    study.set_user_attr("record", record)
    return study


def _changes(before: dict[str, str], after: dict[str, str]) -> list[tuple[str, str, str]]:
    """The differences of two records, as (name, before, after)."""
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
    except Exception as error:  # of any database driver, or of a damaged journal
        where = f"--storage={_without_password(url)}" if url else str(folder / JOURNAL)
        line = " ".join(str(error).replace(url or "\0", where).split())[:200]
        raise UserError(f"{where} cannot be opened: {type(error).__name__}: {line}") from error


def _drop_unfinished_line(journal: Path) -> None:
    """Removes an unfinished last line of a killed worker. Optuna would append the next line to it."""

    def finished_bytes() -> int | None:
        """The size up to the end of the last complete line; None if nothing follows it."""
        content = journal.read_bytes() if journal.exists() else b""
        return content.rfind(b"\n") + 1 if content and not content.endswith(b"\n") else None

    if finished_bytes() is None:
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        size = finished_bytes()  # again: another worker may have finished its line meanwhile
        if size is not None:
            os.truncate(journal, size)
            logger.warning("%s: removed an unfinished last line", journal)
    finally:
        lock.release()


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{separator}{user.partition(':')[0]}:***{at}{host}" if at and ":" in user else url


def _identity(folder: Path, url: str) -> tuple[str, str]:
    """The study's name, and the token that ties it to its folder. Raises `UserError` if the kind of storage differs."""
    path = folder / "study.json"
    kind = "a database" if url else "the journal in its folder"
    known = _read_identity(path)
    if known is None:
        known = {"name": folder.resolve().name, "token": f"{time.time_ns():x}", "storage": kind}
        workdir.write_record(path, known)
    if known["storage"] != kind:
        raise UserError(
            f"--workdir={folder} holds a study whose storage is {known['storage']}, not {kind}; change --storage"
        )
    return known["name"], known["token"]


def _read_identity(path: Path) -> dict[str, str] | None:
    """The content of study.json, or None if there is none. Raises `UserError` if it is damaged."""
    try:
        known = json.loads(path.read_text())
        known["name"], known["token"], known["storage"]  # noqa: B018 (all are required)
        return known
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not the record of a study ({error!r})") from error


def _sampler(experiment: Experiment, seed: int) -> optuna.samplers.BaseSampler:
    if experiment.search == "tpe":
        # Constant liar: running trials count as bad, so that settings that are drawn at the same time differ.
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=10 * len(experiment.seeds), constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(experiment: Experiment) -> optuna.pruners.BasePruner:
    if experiment.prune == "median":
        return optuna.pruners.MedianPruner()
    if experiment.prune == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return optuna.pruners.NopPruner()
