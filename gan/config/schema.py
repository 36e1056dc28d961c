"""The fields that every config has, and what each may hold: looked at where a config comes in. Below everything.

A config is code, and `config.json` a file that anyone may have edited: what reads one may rely on what stands here.
What each field means is told in configs/default.py.
"""

import itertools
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from ml_collections import ConfigDict

from gan.errors import UserError, nearest

COUNT_OR_AUTO = int | Literal["auto"]
"""A whole number, or "auto": it is chosen when a run is set up."""

PLAYERS = ("generator", "discriminator")
NUMBERS = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm")

PLAYER: Mapping[str, Any] = {
    "network": str, "conditioning": str, "optimizer": str, "spectral_norm": bool, "penalty_interval": int,
    **dict.fromkeys(NUMBERS, float),
}  # fmt: skip
"""Of each player. Its other fields are its network's, which `game.build` knows."""

FIELDS: Mapping[str, Any] = {
    "seed": int, "steps": int, "batch_size": int, "microbatches": COUNT_OR_AUTO,
    "data.name": str, "data.dir": str, "data.split": str, "data.image_size": tuple[int, ...], "data.channels": int,
    "data.crop": str, "data.skip_broken": bool, "data.on_device": str,
    "latent.size": int, "latent.prior": str, "latent.share": bool,
    "output_activation": str, "loss": str, "gradient_estimator": str, "weight_clip": float, "top_k": float,
    "augment.policy": str, "augment.p": float, "augment.target": float, "augment.ada_images": float,
    "discriminator_steps": int, "generator_steps": int, "compute_dtype": str, "ema_halflife": float,
    **{f"{player}.{name}": kind for player, (name, kind) in itertools.product(PLAYERS, PLAYER.items())},
    **{f"schedules.{player}.{name}": str for player, name in itertools.product(PLAYERS, NUMBERS)},
    **{f"schedules.{name}": str for name in ("ema_halflife", "weight_clip", "top_k", "augment.p", "augment.target",
                                             "augment.ada_images")},
    "parallel": str, "shard_state": bool,
    "log_every": int, "sample_every": int, "checkpoint_every": int, "evaluate_every": int,
    "evaluation.split": str, "evaluation.reference_samples": int, "evaluation.num_samples": int,
    "evaluation.standing_batches": int, "evaluation.extractor": str, "evaluation.metrics": tuple[str, ...],
}  # fmt: skip
"""Every field and its kind. Besides there are `penalties.NAME`, floats, and to each a `schedules.penalties.NAME`."""

YOUNG: Mapping[str, Any] = {"evaluation.standing_batches": 0, "shard_state": False, "gradient_estimator": "exact"}
"""Fields that the records of older runs may lack, with the values that those runs had."""

DEEPEST = 8
"""Levels of a config: what holds itself has more."""

LARGEST = 2**31 - 1
"""What a whole number may be, a seed excepted: sizes of arrays and counts of turns."""

FLOAT32_MAX = 2.0**128 - 2.0**104


def check(config: Mapping[str, Any] | ConfigDict, *, where: str = "config", recorded: bool = False) -> None:
    """Raises `UserError` where a field is missing, unknown, or holds what it cannot.

    Args:
      config: a `ConfigDict`, or what JSON made of one.
      where: what the fields of the message are called by.
      recorded: whether it is the record of a run: one of an older version may lack YOUNG fields, and have others.
    """
    found = dict(_leaves(config, where))
    valid = FIELDS | {name: float for name in found if name.startswith("penalties.")}
    valid |= {name: str for name in found if name.startswith("schedules.penalties.")}
    for name, kind in valid.items():
        if name in found:
            check_kind(f"{where}.{name}", found[name], kind)
        elif not recorded or name not in YOUNG:
            raise UserError(f"{where}.{name} is missing; expected: {_TOLD[kind]}. configs/default.py has every field")
    for name, value in found.items():
        if name not in valid and not recorded and name.partition(".")[0] not in PLAYERS:
            raise UserError(f"{where}.{name} is no field{nearest(name, valid)}; configs/default.py has every field")
        if name not in valid:
            _check_plain(f"{where}.{name}", value)


def complete(config: dict) -> None:
    """Gives the config of an older run's record the YOUNG fields that it lacks."""
    for name, value in YOUNG.items():
        *groups, last = name.split(".")
        part = config
        for group in groups:
            part = part.get(group) if isinstance(part, dict) else None
        if isinstance(part, dict):
            part.setdefault(last, value)


def check_kind(field: str, value: Any, kind: Any) -> None:
    """Raises `UserError` where a value is none of a kind: int, float, bool, str, a tuple of one, COUNT_OR_AUTO."""
    if get_origin(kind) is tuple:
        sound = isinstance(value, tuple) and all(_is(entry, get_args(kind)[0]) for entry in value)
    else:
        sound = _is(value, kind)
    if not sound:
        raise UserError(f"{field}={_shown(value)}; expected: {_TOLD.get(kind, kind)}")
    whole = value if isinstance(value, tuple) else (value,)
    if not field.endswith("seed") and any(type(entry) is int and abs(entry) > LARGEST for entry in whole):
        raise UserError(f"{field}={_shown(value)}; expected: at most {LARGEST}")


_TOLD = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a string",
    COUNT_OR_AUTO: "a whole number or 'auto'",
    tuple[int, ...]: "a tuple of whole numbers",
    tuple[str, ...]: "a tuple of strings",
}


def _is(value: Any, kind: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and abs(value) <= FLOAT32_MAX  # which nan is not
    if kind == COUNT_OR_AUTO:
        return type(value) is int or (type(value) is str and value == "auto")
    return type(value) is kind if kind in (int, bool, str) else True


def _check_plain(field: str, value: Any) -> None:
    """A network's field is looked at where the network is known; here it is enough that a record can hold it."""
    entries = value if isinstance(value, tuple | list) else (value,)
    if not all(isinstance(entry, bool | int | float | str | types.NoneType) for entry in entries):
        raise UserError(f"{field}={_shown(value)}; expected: a number, a string, True or False, or a tuple of them")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # of an object of the config's own, or a number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _leaves(
    tree: Mapping[str, Any] | ConfigDict, where: str, prefix: str = "", depth: int = 1
) -> Iterator[tuple[str, Any]]:
    if depth > DEEPEST:
        raise UserError(f"{where}.{prefix[:40]}... is nested in itself")
    for name, value in tree.items():
        if not isinstance(name, str):
            raise UserError(f"{where}.{prefix}{_shown(name)} is no name of a field")
        if isinstance(value, Mapping | ConfigDict):
            yield from _leaves(value, where, f"{prefix}{name}.", depth + 1)
        else:
            yield f"{prefix}{name}", value
