"""The fields that every config has, and the type of each.

A config is code, and `config.json` is a file that anyone may have edited. Both are checked against this schema before
they are used. configs/default.py documents what each field means.
"""

import itertools
import types
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from ml_collections import ConfigDict

from gan.config.flattening import flatten
from gan.errors import UserError, nearest

COUNT_OR_AUTO = int | Literal["auto"]
"""A whole number, or "auto": the number is chosen when a run is set up."""

PLAYERS = ("generator", "discriminator")
NUMBERS = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm")

PLAYER: Mapping[str, Any] = {
    "network": str, "conditioning": str, "optimizer": str, "spectral_norm": bool, "penalty_interval": int,
    **dict.fromkeys(NUMBERS, float),
}  # fmt: skip
"""The fields of each player. Its other fields are arguments of its network, which `build.make_game` checks."""

FIELDS: Mapping[str, Any] = {
    "seed": int, "steps": int, "batch_size": int, "microbatches": COUNT_OR_AUTO,
    "data.name": str, "data.dir": str, "data.split": str, "data.image_size": tuple[int, ...], "data.channels": int,
    "data.crop": str, "data.mirror": bool, "data.skip_broken": bool, "data.white": float,
    "data.on_device": str,
    "latent.size": int, "latent.prior": str, "latent.share": bool,
    "output_activation": str, "loss": str, "gradient_estimator": str, "normalize_gradient": bool,
    "weight_clip": float, "top_k": float,
    "augment.policy": str, "augment.p": float, "augment.target": float, "augment.ada_images": float,
    "discriminator_steps": int, "generator_steps": int, "compute_dtype": str, "ema_halflife": float,
    **{f"{player}.{name}": kind for player, (name, kind) in itertools.product(PLAYERS, PLAYER.items())},
    **{f"schedules.{player}.{name}": str for player, name in itertools.product(PLAYERS, NUMBERS)},
    **{f"schedules.{name}": str for name in ("ema_halflife", "weight_clip", "top_k", "augment.p", "augment.target",
                                             "augment.ada_images")},
    "parallel": str, "shard_state": bool,
    "loggers": tuple[str, ...], "log_every": int, "sample_every": int, "checkpoint_every": int, "keep_every": int,
    "evaluate_every": int, "initialize_from": str, "initialize_parts": tuple[str, ...], "freeze": str,
    "evaluation.split": str, "evaluation.reference_samples": int, "evaluation.num_samples": int,
    "evaluation.standing_batches": int, "evaluation.extractor": str, "evaluation.metrics": tuple[str, ...],
    "evaluation.error_bars": int,
}  # fmt: skip
"""Every field and its type, except those of the groups in `NAMED`."""

NAMED: Mapping[str, Any] = {"penalties": float, "schedules.penalties": str}
"""The groups whose fields have the names of penalties, and the type of these fields."""

ADDED: Mapping[str, Any] = {
    "loggers": ("tensorboard",), "data.mirror": False, "data.white": 0.0, "keep_every": 0, "initialize_from": "",
    "initialize_parts": ("generator", "discriminator", "ema"), "freeze": "", "evaluation.error_bars": 0,
    "normalize_gradient": False, "penalties.centering": 0.0, "schedules.penalties.centering": "",
    "penalties.transport": 0.0, "schedules.penalties.transport": "",
}  # fmt: skip
"""Fields that came later than the first runs of this format, and what a run without the field had in its place."""

LARGEST = 2**31 - 1
"""The largest whole number of a field other than a seed: sizes of arrays and numbers of steps are int32."""

LARGEST_SEED = 2**32 - 1
"""A seed is a uint32."""

FLOAT32_MAX = 2.0**128 - 2.0**104


def check(config: Mapping[str, Any] | ConfigDict, *, where: str = "config", recorded: bool = False) -> None:
    """Raises `UserError` where a field is missing, unknown, or holds a value of another type.

    Args:
      config: a `ConfigDict`, or a mapping that was read from JSON.
      where: names the config in the messages.
      recorded: whether the config was read from the folder of a run, which may have fields that are unknown here.
    """
    found = flatten(config, where)
    named = {f"{group}.{name}": kind for group, kind in NAMED.items() for name in _group(config, group, where)}
    valid = {**FIELDS, **named}
    for name, kind in valid.items():
        group, _, last = name.rpartition(".")
        entries = _group(config, group, where)
        if last not in entries:
            raise UserError(f"{where}.{name} is missing; expected: {_NAMES[kind]}. configs/default.py has every field")
        check_kind(f"{where}.{name}", entries[last], kind)
    for name, value in found.items():
        if name not in valid and not recorded and name.partition(".")[0] not in PLAYERS:
            raise UserError(f"{where}.{name} is no field{nearest(name, valid)}; configs/default.py has every field")
        if name not in valid:
            _check_plain(f"{where}.{name}", value)


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of `config.json` with the fields of `ADDED` that it does not have."""
    complete = dict(config)
    for name, value in ADDED.items():
        *groups, field = name.split(".")
        group = complete
        for key in groups:
            group[key] = dict(group[key])
            group = group[key]
        group.setdefault(field, value)
    return complete


def check_kind(field: str, value: Any, kind: Any) -> None:
    """Raises `UserError` where a value is not of a type: int, float, bool, str, a tuple of one, COUNT_OR_AUTO."""
    if get_origin(kind) is tuple:
        is_valid = isinstance(value, tuple) and all(_is(entry, get_args(kind)[0]) for entry in value)
    else:
        is_valid = _is(value, kind)
    if not is_valid:
        raise UserError(f"{field}={_shown(value)}; expected: {kind_name(kind)}")
    entries = value if isinstance(value, tuple) else (value,)
    largest = LARGEST_SEED if field.endswith("seed") else LARGEST
    if any(type(entry) is int and abs(entry) > largest for entry in entries):
        raise UserError(f"{field}={_shown(value)}; expected: at most {largest}")


def whole_number(text: str) -> int:
    """The whole number that a text means: 1000, 1_000 or 1e3. Raises `ValueError` for any other text."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if not number.is_integer() or abs(number) > 2**53:  # beyond, a float is not the number that was written
        raise ValueError(text)
    return int(number)


_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a string",
    COUNT_OR_AUTO: "a whole number or 'auto'",
    tuple[int, ...]: "a tuple of whole numbers",
    tuple[str, ...]: "a tuple of strings",
}


def kind_name(kind: Any) -> str:
    """A type of a field in words."""
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def _group(config: Mapping[str, Any] | ConfigDict, path: str, where: str) -> Mapping[str, Any] | ConfigDict:
    """The fields of the group at a dotted path; "" is the config itself. Raises `UserError` where there is none."""
    group: Any = config
    for part in path.split(".") if path else ():
        where = f"{where}.{part}"
        if part not in group:
            raise UserError(f"{where} is missing; expected: fields. configs/default.py has every field")
        group = group[part]
        if not isinstance(group, Mapping | ConfigDict):
            raise UserError(f"{where}={_shown(group)}; expected: fields. configs/default.py has every field")
    return group


def _is(value: Any, kind: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and abs(value) <= FLOAT32_MAX  # which nan is not
    if kind == COUNT_OR_AUTO:
        return type(value) is int or (type(value) is str and value == "auto")
    return type(value) is kind if kind in (int, bool, str) else True


def _check_plain(field: str, value: Any) -> None:
    """Checks that JSON can hold the value: the type of a network's field is checked where the network is built."""
    entries = value if isinstance(value, tuple | list) else (value,)
    if not all(isinstance(entry, bool | int | float | str | types.NoneType) for entry in entries):
        raise UserError(f"{field}={_shown(value)}; expected: a number, a string, True or False, or a tuple of them")


def _shown(value: Any) -> str:
    try:
        text = repr(value.to_dict() if isinstance(value, ConfigDict) else value)
    except Exception:  # an object whose repr fails, or a number of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
