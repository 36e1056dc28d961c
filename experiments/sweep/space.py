"""The space of an experiment: what its settings may be. Plain values that know neither Optuna nor JAX.

A *setting* is one point of a space. Its *parameters* {name: value} are the values that were chosen, and its *changes*
{field: value} are the fields of the config that follow from them. A trial is a setting with a seed: an ordinary run.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gan.errors import UserError


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple


@dataclass(frozen=True)
class Range:
    """A number in [low, high], uniform or log-uniform."""

    low: float
    high: float
    log: bool = False
    integer: bool = False


@dataclass(frozen=True)
class Cases:
    """One of several named cases, each with fields of its own: values, or spaces that exist in this case only."""

    cases: Mapping[str, Mapping[str, Any]]


Space = Choice | Range | Cases


def choice(*values: Any) -> Choice:
    """One of these values: `choice(1e-4, 1e-3)`, `choice("hinge", "wasserstein")`."""
    if not values:
        raise UserError("choice() has no values")
    return Choice(values)


def uniform(low: float, high: float) -> Range:
    """A float in [low, high]."""
    return _range(low, high)


def log_uniform(low: float, high: float) -> Range:
    """A float in [low, high] whose logarithm is uniform."""
    return _range(low, high, log=True)


def integers(low: int, high: int, log: bool = False) -> Range:
    """A whole number in low .. high."""
    return _range(low, high, log=log, integer=True)


def cases(named: Mapping[str, Mapping[str, Any]]) -> Cases:
    """One of several named cases, each of which sets other fields of the config, to values or to spaces.

    `"penalty": cases({"none": {}, "r1": {"penalties.r1": log_uniform(0.1, 10)}})`. The name "penalty" is your own.
    """
    if not named or not all(isinstance(case, Mapping) for case in named.values()):
        raise UserError("cases() takes {name: {field: value or space}}, at least one")
    return Cases({str(name): dict(case) for name, case in named.items()})


def _range(low: float, high: float, log: bool = False, integer: bool = False) -> Range:
    kinds = int if integer else int | float
    if any(isinstance(end, bool) or not isinstance(end, kinds) for end in (low, high)):
        raise UserError(f"the range {low!r} to {high!r} is not of {'whole ' if integer else ''}numbers")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"the range {low!r} to {high!r} is empty or has no end; expected: low < high, both finite")
    if log and low <= 0:
        raise UserError(f"the range {low!r} to {high!r} has no logarithm; expected: low > 0")
    return Range(low, high, log, integer)


def resolve(space: Mapping[str, Any], choose: Callable[[str, Sequence | Range], Any], within: str = "") -> dict:
    """The changes {field: value} of one setting. Each of its parameters is `choose(name, labels or range)`.

    The name of a parameter that exists in one case only starts with the name of the case.
    """
    changes = {}
    for name, part in space.items():
        if isinstance(part, Cases):
            case = choose(within + name, tuple(part.cases))
            changes |= resolve(part.cases[case], choose, f"{within}{name}={case}: ")
        elif isinstance(part, Choice):
            labels = [label(value) for value in part.values]
            changes[name] = part.values[labels.index(choose(within + name, labels))]
        elif isinstance(part, Range):
            changes[name] = choose(within + name, part)
        else:
            changes[name] = part
    return changes


def label(value: Any) -> bool | int | float | str:
    """A value as a database can store it: numbers and strings as they are, anything else as its `repr`."""
    return value if isinstance(value, bool | int | float | str) else repr(value)


def grid(space: Mapping[str, Any], within: str = "") -> Iterator[dict[str, Any]]:
    """Yields the parameters {name: label} of all settings of a space without ranges of floats."""
    columns = []
    for name, part in space.items():
        name = within + name
        if isinstance(part, Cases):
            inner = ((case, grid(fields, f"{name}={case}: ")) for case, fields in part.cases.items())
            columns.append([{name: case} | rest for case, settings in inner for rest in settings])
        elif isinstance(part, Choice):
            columns.append([{name: label(value)} for value in part.values])
        elif isinstance(part, Range):
            columns.append([{name: value} for value in range(part.low, part.high + 1)])
    for row in itertools.product(*columns):
        yield dict(itertools.chain.from_iterable(part.items() for part in row))


def count(space: Mapping[str, Any]) -> int:
    """The number of settings of `grid`."""
    sizes = {Choice: lambda part: len(part.values), Range: lambda part: part.high - part.low + 1,
              Cases: lambda part: sum(map(count, part.cases.values()))}  # fmt: skip
    return math.prod(sizes[type(part)](part) for part in space.values() if type(part) in sizes)


def parts(space: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields every field that a space names, with its possible values, and every `Cases` with its name."""
    for name, part in space.items():
        yield name, part
        if isinstance(part, Cases):
            for case in part.cases.values():
                yield from parts(case)
