"""The folder of a run: its lock, its `config.json`, and which changes of the config are allowed on resume.

`config.json` holds the resolved config, the versions that the run used, the dataset's fingerprint, parameter counts,
and every change of a hyperparameter since the start of the run. Each checkpoint holds it, too, and must be of this run.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ml_collections import ConfigDict

from gan.config import schema
from gan.config.flattening import flatten
from gan.errors import UserError
from gan.io import identity
from gan.io.atomic import write_json

logger = logging.getLogger(__name__)

FORMAT = 1
"""The format of a run's folder: `config.json`, checkpoints and metrics. A run of another format is rejected."""

FREE_FIELDS = ("steps", "loggers", "log_every", "sample_every", "checkpoint_every", "evaluate_every", "parallel",
               "shard_state", "data.dir", "data.on_device")  # fmt: skip
"""Fields that do not affect the parameters of the networks: a change is logged, and not recorded in `config.json`."""

MEMORY_FIELDS = ("microbatches", "generator.remat", "discriminator.remat")
"""Fields that say how a step is computed, with which memory: a run may resume with others, and it is recorded."""

KEEP_EVERY = "keep_every"
"""A change of this field is recorded, so that what was kept at earlier intervals stays."""

SCHEDULED_FIELDS = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm", "ema_halflife",
                    "ada_images")  # fmt: skip
"""Hyperparameters that a schedule could change, too: a run may resume with others, and `config.json` records it."""

LOCK = ".lock"
"""The file that a process locks while it writes into the folder. It holds the number of the process."""


class InUse(UserError):
    """Another process uses the folder."""


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Creates the folder and locks it. The lock ends with this process at the latest.

    Where nothing else was written into a new folder until then, as by a launch that is rejected, it is removed.
    Raises `UserError` where the folder cannot be written, and `InUse` where another process has locked it.
    """
    handle = None
    while handle is None:
        with _as_user_error(workdir):
            created = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
            before = set(os.listdir(workdir)) if workdir.is_dir() else set()
        handle = _locked(workdir)
    with handle:
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        try:
            yield
        finally:
            if LOCK not in before:
                _remove_traces(workdir, before, created)


def _locked(workdir: Path) -> TextIO | None:
    """The locked file LOCK of the folder, created where there is none; None where its holder removed it meanwhile."""
    with _as_user_error(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        handle = open(workdir / LOCK, "a+")  # noqa: SIM115 (closed by the caller, or below)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        with handle:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
        raise InUse(f"--workdir={workdir} is in use by process {holder}; wait for it, or use another") from error
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(handle.fileno()), os.stat(workdir / LOCK)):
            return handle
    handle.close()
    return None


@contextlib.contextmanager
def _as_user_error(workdir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"--workdir={workdir} is not writable: {error.strerror}") from error


def _remove_traces(workdir: Path, before: set[str], created: Sequence[Path]) -> None:
    """Removes the lock, and what was created with it, where the folder holds nothing else that is new."""
    with contextlib.suppress(OSError):
        new = [path for path in workdir.iterdir() if path.name not in before | {LOCK}]
        if not all(path.is_dir() and not any(path.iterdir()) for path in new):
            return
        for path in new:
            path.rmdir()
        (workdir / LOCK).unlink()
        for folder in created:
            folder.rmdir()


def read(workdir: Path) -> dict | None:
    """The content of `config.json`, or else of the newest checkpoint's record; None where there is no run.

    Fields that are newer than the run are added.

    Raises `UserError` where the record is damaged or of another format, or where there are checkpoints without one.
    """
    path = workdir / "config.json"
    try:
        record = json.loads(path.read_text())
        _check_format(path, record)
        _check_record(record)
        return record | {"config": schema.completed(record["config"])}
    except FileNotFoundError:
        return _read_from_checkpoints(path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not the record of a run ({type(error).__name__}: {error})") from error


def read_config(workdir: Path) -> tuple[ConfigDict, dict] | None:
    """The config of the run in the folder, checked, and the record of its dataset; None where there is no run."""
    record = read(workdir)
    if record is None:
        return None
    config = _with_tuples(record["config"])
    schema.check(config, where=f"{workdir / 'config.json'}: config", recorded=True)
    return ConfigDict(config, convert_dict=True), record["dataset"]


def write(workdir: Path, record: dict) -> None:
    """Writes `config.json`, with the number of its format, whole or not at all."""
    write_record(workdir / "config.json", with_format(record))


def write_record(path: Path, record: dict) -> None:
    """Writes a JSON file of a run, whole or not at all. Raises `UserError` where it cannot be written."""
    try:
        write_json(path, record)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def continue_with(workdir: Path, record: dict, config: dict, dataset: dict) -> list[dict]:
    """Checks that the recorded run may resume with `config`. Logs each change; returns those that are recorded.

    Args:
      workdir: the folder of the run, for the messages.
      record: the content of its `config.json`.
      config: of this launch.
      dataset: of this launch, with its fingerprint.

    Raises `UserError` where another field differs, such as a network or the loss, or the data are not the same.
    """
    if "export" in record:
        raise UserError(f"--workdir={workdir} holds an export, which cannot be trained further; use a new --workdir")
    old, new = _flat(record["config"]), _flat(config)
    free, changes, rejected = [], [], []
    for field in sorted(old.keys() | new.keys()):
        before, after = old.get(field), new.get(field)
        if before == after:
            continue
        change = {"field": field, "from": before, "to": after}
        if is_free(field):
            free.append(change)
        elif field in (*MEMORY_FIELDS, KEEP_EVERY) or _is_hyperparam(field, before, after):
            changes.append(change)
        else:
            rejected.append(_shown(change))
    if rejected:
        raise UserError(
            f"--workdir={workdir} was created with another config: {'; '.join(rejected)}. "
            f"Use a new --workdir, or restore these values"
        )
    check_data(workdir, record["dataset"], dataset["fingerprint"])
    for change in free:
        logger.info("changed: %s", _shown(change))
    for change in changes:
        logger.warning("changed from this step on: %s", _shown(change))
    return changes


def hyperparams_that_differ(config: dict, other: dict) -> tuple[list[str], list[str]]:
    """The fields in which two configs differ: the hyperparameters of one compiled function, and the other fields."""
    old, new = _flat(config), _flat(other)
    differing = sorted(field for field in old.keys() | new.keys() if old.get(field) != new.get(field))
    hyperparams = [
        field for field in differing if field == "seed" or _is_hyperparam(field, old.get(field), new.get(field))
    ]
    return hyperparams, [field for field in differing if field not in hyperparams]


def check_data(workdir: Path, dataset: dict, fingerprint: str) -> None:
    """Raises `UserError` where the fingerprint of the data is not the recorded one."""
    if dataset["fingerprint"] != fingerprint:
        raise UserError(
            f"--workdir={workdir} was trained on other data: the fingerprint of {dataset['name']} was "
            f"{dataset['fingerprint']} and is {fingerprint}. Use a new --workdir, or restore the data"
        )


def with_format(record: dict) -> dict:
    """The record of a run as it is stored, with the number of its format."""
    return {"format": FORMAT} | record


def check_checkpoints(workdir: Path, record: dict, kept_in: str = "checkpoints") -> None:
    """Raises `UserError` where a checkpoint in the subfolder `kept_in` is not of the recorded run."""
    for step in identity.steps(workdir / kept_in):
        check_checkpoint(workdir, record, kept_in, step)


def check_checkpoint(workdir: Path, record: dict, kept_in: str, step: int) -> None:
    """Raises `UserError` where the checkpoint of a step in the subfolder `kept_in` is not of the recorded run.

    The fields that both configs have must be as in the record before its changes from that step on.
    """
    if (own := identity.read(workdir / kept_in, step)) is None:
        return  # it is older than the records in checkpoints, or `restore` finds it damaged
    expected, found = _flat(_config_at(record, step)), _flat(own["config"])
    differing = [
        f"config.{field}: {found[field]!r}, not {expected[field]!r}"
        for field in sorted(expected.keys() & found.keys())
        if found[field] != expected[field] and not is_free(field)
    ]
    if own["dataset"]["fingerprint"] != record["dataset"]["fingerprint"]:
        differing.append(f"data with the fingerprint {own['dataset']['fingerprint']} ({own['dataset']['name']})")
    if differing:
        raise UserError(
            f"{workdir / kept_in / str(step)} is of another run than {workdir / 'config.json'}: "
            f"{'; '.join(differing)}. Move it away, or put the config.json of its run beside it"
        )


def _config_at(record: dict, step: int) -> dict[str, Any]:
    """The fields of the recorded config as they were when the checkpoint of a step was saved."""
    config = flatten(record["config"])
    for change in reversed(record.get("changes", [])):
        if change["step"] >= step:
            config[change["field"]] = change["from"]
    return config


def _read_from_checkpoints(path: Path) -> dict | None:
    checkpoints = path.parent / "checkpoints"
    for step in (steps := identity.steps(checkpoints)):
        if (record := identity.read(checkpoints, step)) is not None:
            _check_format(checkpoints / str(step), record)
            return record | {"config": schema.completed(record["config"])}
    if steps:
        raise UserError(
            f"{path} is missing, and the checkpoints beside it do not say of which run they are; put the config.json "
            f"of their run there, or use a new --workdir"
        )
    return None


def _with_tuples(value: Any) -> Any:
    """Converts lists, as which JSON stores tuples, back to tuples: a network's `layers` must be hashable."""
    if isinstance(value, dict):
        return {name: _with_tuples(entry) for name, entry in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _check_format(path: Path, record: Any) -> None:
    found = record.get("format") if isinstance(record, dict) else None
    if type(found) is not int or found != FORMAT:
        version = "no format number" if found is None else f"format {str(found)[:40]}"
        raise UserError(
            f"{path} has {version}; expected: format {FORMAT}. Use a new --workdir, or the code that created this one"
        )


def _check_record(record: Any) -> None:
    """Raises `ValueError`, `KeyError` or `TypeError` where a record lacks an entry that is used."""
    dataset, changes = record["dataset"], record.get("changes", []) if isinstance(record, dict) else []
    if not isinstance(record["config"], dict) or not isinstance(changes, list):
        raise ValueError("its config is no dictionary")
    if dotted := [name for name in _names(record["config"]) if "." in name]:
        raise ValueError(f"its config has a field named {dotted[0]!r}")
    texts = [dataset[name] for name in ("name", "split", "fingerprint")] + list(dataset["class_names"])
    shape = dataset["image_shape"]
    if not isinstance(dataset["class_names"], list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("its dataset has no names")
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int and 1 <= n < 2**15 for n in shape):
        raise ValueError(f"its dataset's images are {str(shape)[:40]}")
    source = record.get("initialized_from", {"digest": "", "step": 0})
    if not isinstance(source, dict) or not source.keys() >= {"digest", "step"}:
        raise ValueError("its source has no digest")


def _names(tree: Any) -> Iterator[str]:
    for name, value in tree.items() if isinstance(tree, dict) else ():
        yield name
        yield from _names(value)


def versions() -> dict[str, str]:
    """The versions that a run's results depend on, and the commit of a checkout."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "numpy", "pillow")
    found = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may lie within another repository
        return found | {"git_commit": _git("rev-parse", "HEAD")}
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        return found


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _shown(change: dict) -> str:
    return f"config.{change['field']}: {change['from']!r} -> {change['to']!r}"


def is_free(field: str) -> bool:
    """Whether the value of a field does not affect the parameters, so that a run may resume with any."""
    return field in FREE_FIELDS or field.startswith("evaluation.")


def _is_hyperparam(field: str, before: Any, after: Any) -> bool:
    if field.startswith("penalties.") or field in ("weight_clip", "augment.p", "augment.target"):
        return bool(before) and bool(after)  # switching one on or off changes the compiled step
    if field == "top_k":
        return before != 1 and after != 1
    return field.startswith("schedules.") or field.rsplit(".", 1)[-1] in SCHEDULED_FIELDS


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config with lists for tuples: JSON has no tuples."""
    fields = flatten(config)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
