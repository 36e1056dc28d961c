"""The storage that the workers of a study share.

It is Optuna's journal in the study's folder, or any database that Optuna supports. The folder holds the trials' runs,
so all workers must use the same one. What is stored in it is planned in experiments/sweep/planning.py.
"""

import contextlib
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from experiments.sweep.experiment import Experiment
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
warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")  # sent by `planning.running`


def open_study(experiment: Experiment, record: dict[str, Any], folder: Path, url: str = "") -> optuna.Study:
    """Opens or creates the study in `folder`. Raises `UserError` if the folder holds another study."""
    with locked(folder):
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
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of the study's folder: one worker at a time plans and takes trials."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(workdir.lock(folder))
                break
            except workdir.InUse:
                time.sleep(0.05)
        yield


def _check_trials(study: optuna.Study) -> None:
    """Raises `ValueError` where a trial that counts lacks an attribute, which a damaged journal may have lost."""
    for trial in study.get_trials(deepcopy=False):
        missing = sorted({"seed", "params"} - trial.user_attrs.keys())
        if "setting" in trial.user_attrs and missing:
            raise ValueError(f"trial {trial.number} has no {missing[0]!r}")


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


def _pruner(experiment: Experiment) -> optuna.pruners.BasePruner:
    if experiment.prune == "median":
        return optuna.pruners.MedianPruner()
    if experiment.prune == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return optuna.pruners.NopPruner()
