"""A run's folder: its lock, its `config.json`, and whether a config may go on with it. A leaf.

`config.json` holds the resolved config, what it ran with, the dataset's fingerprint, parameter counts, and every
change of a number since the run began.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from gan.config import schema
from gan.errors import UserError

logger = logging.getLogger(__name__)

FREE_FIELDS = ("steps", "log_every", "sample_every", "checkpoint_every", "evaluate_every", "parallel",
               "shard_state", "data.dir", "data.on_device")  # fmt: skip
"""Fields that change nothing of the game or of its course: told, not recorded as a change of the run."""

SCHEDULED_FIELDS = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm", "ema_halflife",
                    "ada_images")  # fmt: skip
"""Numbers that a schedule could have changed too: a run may go on with others, and `config.json` keeps the record."""


class InUse(UserError):
    """Another process holds the folder."""


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Makes the folder and holds it for this process, which the lock never outlives.

    Raises `UserError` where the folder cannot be written, `InUse` where another process trains in it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        handle = open(workdir / ".lock", "a+")  # noqa: SIM115 (closed below, on every way out)
    except OSError as error:
        raise UserError(f"--workdir={workdir} is not writable: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise InUse(f"--workdir={workdir} is in use by process {holder}; wait for it, or take another") from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def read(workdir: Path) -> dict | None:
    """The content of `config.json`, or None where there is no run. Raises `UserError` if the file is damaged."""
    path = workdir / "config.json"
    try:
        record = json.loads(path.read_text())
        _check_record(record)
        schema.complete(record["config"])
        return record
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is no record of a run ({type(error).__name__}: {error})") from error


def write(workdir: Path, record: dict, name: str = "config.json") -> None:
    """Writes a record of a run, whole or not at all."""
    path = workdir / name
    draft = path.with_suffix(".json.tmp")
    try:
        draft.write_text(json.dumps(record, indent=1) + "\n")
        draft.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def continue_with(
    workdir: Path, record: dict, config: dict, dataset: dict, *, also: Collection[str] = ()
) -> list[dict]:
    """What `config` changes in the recorded run, told field by field: the changed numbers, as records to keep.

    `also` names further fields that may change, and are recorded: those that change only how this run is computed.

    Raises `UserError` where it would be another game, or the data are not those that the run began with.
    """
    old, new = _flat(record["config"]), _flat(config)
    changes, refused = [], []
    for field in sorted(old.keys() | new.keys()):
        before, after = old.get(field), new.get(field)
        if before == after:
            continue
        line = f"config.{field}: {before!r} -> {after!r}"
        if field in FREE_FIELDS or field.startswith("evaluation."):
            logger.info("changed: %s", line)
        elif field in also or _is_scheduled_number(field, before, after):
            logger.warning("changed from here on: %s", line)
            changes.append({"field": field, "from": before, "to": after})
        else:
            refused.append(line)
    if refused:
        raise UserError(
            f"--workdir={workdir} holds another run; {'; '.join(refused)}. "
            f"Take another --workdir, or the run's own values"
        )
    check_data(workdir, record["dataset"], dataset["fingerprint"])
    return changes


def hyperparams_that_differ(config: dict, other: dict) -> tuple[list[str], list[str]]:
    """The fields in which two configs differ: those that one compiled program can take as numbers, and the others."""
    old, new = _flat(config), _flat(other)
    differing = sorted(field for field in old.keys() | new.keys() if old.get(field) != new.get(field))
    numbers = [
        field for field in differing if field == "seed" or _is_scheduled_number(field, old.get(field), new.get(field))
    ]
    return numbers, [field for field in differing if field not in numbers]


def check_data(workdir: Path, dataset: dict, fingerprint: str) -> None:
    """Raises `UserError` where the data with this fingerprint are not those that are recorded of the run."""
    if dataset["fingerprint"] != fingerprint:
        raise UserError(
            f"--workdir={workdir} was trained on other data: {dataset['name']}'s fingerprint was "
            f"{dataset['fingerprint']}, is {fingerprint}. Take another --workdir, or restore the data"
        )


def _check_record(record: Any) -> None:
    """Raises `ValueError`, `KeyError` or `TypeError` where a record lacks what is read of it."""
    dataset, changes = record["dataset"], record.get("changes", []) if isinstance(record, dict) else []
    if not isinstance(record["config"], dict) or not isinstance(changes, list):
        raise ValueError("its config is none")
    texts = [dataset[name] for name in ("name", "split", "fingerprint")] + list(dataset["class_names"])
    shape = dataset["image_shape"]
    if not isinstance(dataset["class_names"], list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("its dataset has no names")
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int and 1 <= n < 2**15 for n in shape):
        raise ValueError(f"its dataset's images are {str(shape)[:40]}")


def versions() -> dict[str, str]:
    """The versions that a run's numbers depend on, and the git commit where there is one."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "numpy", "pillow")
    found = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
    try:
        commit = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository: an installed copy
        return found
    return found | {"git_commit": commit.stdout.strip()}


def _is_scheduled_number(field: str, before: Any, after: Any) -> bool:
    if field.startswith("penalties.") or field in ("weight_clip", "augment.p", "augment.target"):
        return bool(before) and bool(after)  # a rule that comes or goes makes another game
    if field == "top_k":
        return before != 1 and after != 1
    return field.startswith("schedules.") or field.rsplit(".", 1)[-1] in SCHEDULED_FIELDS


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            leaves |= _flat(value, f"{prefix}{name}.")
        else:  # JSON has no tuples
            leaves[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return leaves
