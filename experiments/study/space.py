"""An experiment as its file states it: a base config, what is fixed, what is searched, seeds, objective, budget.

Plain values, checked against the config before anything runs. Nothing here knows of Optuna or JAX.

A *setting* is one point of the space; its *parameters* {name: value} are what was drawn, and its *changes*
{leaf: value} what that makes of the config. A trial is a setting with a seed: an ordinary run.
"""

import itertools
import math
import os
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gan.config import loading
from gan.config.flattening import flatten
from gan.config.overrides import assign, override
from gan.config.schema import check_kind
from gan.errors import UserError, last_line, nearest

SEARCHES = ("grid", "random", "tpe")
PRUNERS = ("", "median", "halving")

KINDS = {
    "base": str, "search": str, "settings": int, "minimize": str, "maximize": str, "best": bool, "images": int,
    "seconds": float, "reports": int, "prune": str,
}  # fmt: skip
"""What the fields of an experiment are."""

MOST_SETTINGS = 10_000
"""Of a grid."""

AUTO = 4
"""Trials that are played together where it is left to us, and they gain by it: see experiments.study.size."""


@dataclass(frozen=True)
class Among:
    """One of these values."""

    values: tuple


@dataclass(frozen=True)
class Range:
    """A number between two others, both included; drawn evenly, or evenly in its logarithm."""

    low: float
    high: float
    log: bool = False
    integer: bool = False


@dataclass(frozen=True)
class Cases:
    """One of several named cases, each with leaves of its own: values, or spaces that exist in this case only."""

    cases: Mapping[str, Mapping[str, Any]]


Space = Among | Range | Cases


def among(*values: Any) -> Among:
    """One of these values: `among(1e-4, 1e-3)`, `among("hinge", "wasserstein")`."""
    if not values:
        raise UserError("among() names no value")
    return Among(values)


def uniform(low: float, high: float) -> Range:
    """A float in [low, high]."""
    return _range(low, high)


def log_uniform(low: float, high: float) -> Range:
    """A float in [low, high], as likely between 1 and 10 as between 10 and 100."""
    return _range(low, high, log=True)


def integers(low: int, high: int, log: bool = False) -> Range:
    """A whole number in low .. high."""
    return _range(low, high, log=log, integer=True)


def cases(named: Mapping[str, Mapping[str, Any]]) -> Cases:
    """One of several named cases, each of which sets other leaves, to values or to spaces of its own.

    `"penalty": cases({"none": {}, "r1": {"penalties.r1": log_uniform(0.1, 10)}})`; "penalty" is a name of your own.
    """
    if not named or not all(isinstance(case, Mapping) for case in named.values()):
        raise UserError("cases() takes {name: {leaf: value or space}}, at least one")
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


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What an experiment file holds under the name `EXPERIMENT`; its docstring is the question."""

    base: str
    """A config: FILE or FILE:ARG."""
    space: Mapping[str, Space] = field(default_factory=dict)
    """{leaf of the config: what it may be}; under a name of one's own, `cases`."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """{leaf of the config: value}, for all trials."""
    search: str = "grid"
    """How settings are chosen: grid (all there are), random, tpe."""
    settings: int = 0
    """How many settings random and tpe try."""
    seeds: Sequence[int] = (0,)
    """Every setting is run with each of them."""
    minimize: str = ""
    """The objective: NAME, a figure of an evaluation (`fd` stands for fd_classifier, or whichever there is),
    or training.NAME, a figure of metrics.jsonl."""
    maximize: str = ""
    """The objective, if more is better: one of the two is given."""
    best: bool = False
    """A trial's value is the best of its reports; else the last one."""
    images: int = 0
    """A trial's budget: the real images that it sees. 0: the config's `steps`."""
    seconds: float = 0.0
    """A trial's budget: seconds of compiling and training, imports and evaluations not counted, after which it is
    stopped, if the config's `steps` do not end it before."""
    reports: int = 0
    """How often a trial reports its objective, evenly over the run. 0: as the config evaluates, or logs."""
    prune: str = ""
    """Trials that do badly beside the others at the same report are given up: median, halving; "": none are."""
    population: int | str = 1
    """How many trials a worker plays at once in one program, at most, of those that are one game: a number, or auto."""

    def __post_init__(self):
        for name, kind in KINDS.items():
            check_kind(name, getattr(self, name), kind)
        for name in ("space", "fixed"):
            if not isinstance(getattr(self, name), Mapping) or not all(
                isinstance(leaf, str) for leaf in getattr(self, name)
            ):
                raise UserError(f"{name} is no dictionary of leaves of the config")
        if not isinstance(self.seeds, Sequence):
            raise UserError("seeds are no sequence; expected: range(3), (0, 1, 2)")
        if bool(self.minimize) == bool(self.maximize):
            raise UserError("an experiment has one objective: minimize or maximize")
        _check_choice("search", self.search, SEARCHES)
        _check_choice("prune", self.prune, PRUNERS)
        if self.search != "grid" and self.settings < 1:
            raise UserError(f"settings={self.settings}: search={self.search!r} needs to know how many settings to try")
        if self.search == "grid" and self.settings:
            raise UserError(f"settings={self.settings} has no meaning with search='grid', which tries all there are")
        sound = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in self.seeds)
        if (
            not sound
            or not self.seeds
            or len(set(self.seeds)) < len(self.seeds)
            or not 0 <= min(self.seeds) <= max(self.seeds) < 2**32
        ):
            raise UserError(f"seeds={self.seeds!r}; expected: whole numbers of 0 .. 2^32 - 1, at least one, none twice")
        if self.images and self.seconds:
            raise UserError("an experiment has one budget: images or seconds")
        if min(self.images, self.seconds, self.reports) < 0:
            raise UserError("images, seconds and reports must not be negative")
        if self.seconds and self.reports:
            raise UserError("reports divides a budget of images; with seconds, fix evaluate_every or log_every")
        whole = isinstance(self.population, int) and not isinstance(self.population, bool)
        if self.population != "auto" and not (whole and self.population > 0):
            raise UserError(f"population={self.population!r}; expected: a whole number from 1 up, or 'auto'")
        if self.seconds and whole and self.population > 1:
            raise UserError("seconds are a trial's own only where it is played alone; expected: population=1 or 'auto'")
        if self.search == "grid":
            for name, part in _parts(self.space):
                if isinstance(part, Range) and not part.integer:
                    raise UserError(
                        f"space: {name} is a range, which search='grid' cannot exhaust; expected: among(...)"
                    )
            if (count := _count(self.space)) > MOST_SETTINGS:
                raise UserError(
                    f"space: {count} settings, of which search='grid' tries all; expected: {MOST_SETTINGS} or fewer"
                )

    @property
    def objective(self) -> str:
        """The name of the objective."""
        return self.minimize or self.maximize

    @property
    def is_of_training(self) -> bool:
        """Whether the objective stands in metrics.jsonl, rather than in evaluations.jsonl."""
        return self.objective.startswith("training.")

    def together(self, config: ConfigDict) -> int:
        """How many trials are played together at most: one where it is known that more cannot be."""
        if self.seconds or config.data.on_device == "never" or config.microbatches == "auto":
            return 1
        return AUTO if self.population == "auto" else self.population


def load(path: str) -> tuple[Experiment, str]:
    """The experiment of a file, and the question of its docstring."""
    names = _run(path, "the experiment")
    if not isinstance(names.get("EXPERIMENT"), Experiment):
        raise UserError(f"{path} has no EXPERIMENT = Experiment(...)")
    question = (names.get("__doc__") or "").strip()
    if not question:
        raise UserError(f"{path} has no docstring: which question does it answer?")
    return names["EXPERIMENT"], question


def configured(experiment: Experiment, overrides: Sequence[str] = ()) -> tuple[ConfigDict, ConfigDict]:
    """The base config as its file has it, and with what is fixed. Checks every value that the space could set."""
    base = loading.load(experiment.base, flag="base")
    config = base.copy_and_resolve_references()
    try:
        for name, value in experiment.fixed.items():
            _set(config, name, value, "fixed")
        override(config, overrides)
        for name in {*experiment.fixed, *(change.partition("=")[0] for change in overrides)} & _own(experiment):
            raise UserError(f"fixed: {name} is set by the sweep: see seeds, images and reports")
        _check_space(experiment, config, set(experiment.fixed))
    except (SyntaxError, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
    if not experiment.is_of_training and not experiment.reports and not config.evaluate_every:
        raise UserError(
            f"the objective {experiment.objective!r} is a figure of an evaluation, and evaluate_every is 0: "
            f"give reports, or fix evaluate_every"
        )
    return base, config


def trial_config(experiment: Experiment, config: ConfigDict, changes: Mapping[str, Any], seed: int) -> ConfigDict:
    """The config of a trial: with its setting's changes, its seed, and the budget in steps."""
    config = config.copy_and_resolve_references()
    for name, value in (dict(changes) | {"seed": seed}).items():
        assign(config, name, value)
    if config.batch_size < 1 or config.discriminator_steps < 1:
        raise UserError(f"{config.batch_size=}, {config.discriminator_steps=}: both must be at least 1")
    if experiment.images:
        config.steps = max(1, experiment.images // (config.batch_size * config.discriminator_steps))
    if experiment.reports:
        interval = -(-config.steps // experiment.reports)
        config["log_every" if experiment.is_of_training else "evaluate_every"] = interval
        if "checkpoint_every" not in experiment.fixed:
            config.checkpoint_every = interval  # a trial that is cut off goes on from its last report
    return config


def flags(base: ConfigDict, config: ConfigDict) -> list[str]:
    """What makes `config` of `base`, as flags of `python -m gan.main`."""
    before, after = flatten(base), flatten(config)
    return [
        f"--config.{name}={value if isinstance(value, str) else repr(value)}"
        for name, value in after.items()
        if value != before[name] or type(value) is not type(before[name])
    ]


def settle(space: Mapping[str, Any], choose: Callable[[str, Sequence | Range], Any], within: str = "") -> dict:
    """The changes {leaf: value} of one setting, whose every parameter is `choose(name, labels or range)`.

    A parameter of a case has the case before its name, as it exists there only.
    """
    changes = {}
    for name, part in space.items():
        if isinstance(part, Cases):
            case = choose(within + name, tuple(part.cases))
            changes |= settle(part.cases[case], choose, f"{within}{name}={case}: ")
        elif isinstance(part, Among):
            labels = [label(value) for value in part.values]
            changes[name] = part.values[labels.index(choose(within + name, labels))]
        elif isinstance(part, Range):
            changes[name] = choose(within + name, part)
        else:
            changes[name] = part
    return changes


def label(value: Any) -> bool | int | float | str:
    """A value as a database can keep it: numbers and strings as they are, all else as it would be written."""
    return value if isinstance(value, bool | int | float | str) else repr(value)


def grid(space: Mapping[str, Any], within: str = "") -> Iterator[dict[str, Any]]:
    """The parameters {name: label} of all settings of a space without ranges of floats, no case with another's."""
    columns = []
    for name, part in space.items():
        name = within + name
        if isinstance(part, Cases):
            inner = ((case, grid(leaves, f"{name}={case}: ")) for case, leaves in part.cases.items())
            columns.append([{name: case} | rest for case, settings in inner for rest in settings])
        elif isinstance(part, Among):
            columns.append([{name: label(value)} for value in part.values])
        elif isinstance(part, Range):
            columns.append([{name: value} for value in range(part.low, part.high + 1)])
    for row in itertools.product(*columns):
        yield dict(itertools.chain.from_iterable(part.items() for part in row))


def _count(space: Mapping[str, Any]) -> int:
    """How many settings `grid` gives."""
    counts = {Among: lambda part: len(part.values), Range: lambda part: part.high - part.low + 1,
              Cases: lambda part: sum(map(_count, part.cases.values()))}  # fmt: skip
    return math.prod(counts[type(part)](part) for part in space.values() if type(part) in counts)


def record(experiment: Experiment, config: ConfigDict) -> dict[str, Any]:
    """What must not change while a study goes on, in plain words: {what: value}. Seeds, settings, pruning may."""
    space = {f"space: {name}": repr(part) for name, part in experiment.space.items()}
    fixed = {f"config.{name}": repr(value) for name, value in flatten(config).items()}
    names = ("base", "search", "images", "seconds", "reports", "minimize", "maximize", "best")
    return {name: repr(getattr(experiment, name)) for name in names} | space | fixed


def _own(experiment: Experiment) -> set[str]:
    """The leaves that the sweep itself sets."""
    names = {"seed"} | ({"steps"} if experiment.images else set())
    if experiment.reports:
        names.add("log_every" if experiment.is_of_training else "evaluate_every")
    return names


def _check_space(experiment: Experiment, config: ConfigDict, taken: set[str]) -> None:
    for key, part in experiment.space.items():
        if not isinstance(part, Space):
            raise UserError(f"space: {key}={part!r} is a value; a leaf that does not vary stands in fixed")
        if isinstance(part, Cases) and key in flatten(config):
            raise UserError(f"space: {key} is a leaf of the config; cases() needs a name of its own, and sets leaves")
        found = set()
        for name, value in _parts({key: part}):
            if name in taken:
                raise UserError(f"{name} is set twice: in fixed, or in two places of the space")
            if name in _own(experiment):
                raise UserError(f"space: {name} is set by the sweep: see seeds, images and reports")
            if not isinstance(value, Cases):
                found.add(name)
                tried = (value.low, value.high) if isinstance(value, Range) else [value]
                tried = value.values if isinstance(value, Among) else tried
                for one in tried:
                    as_drawn = float(one) if isinstance(value, Range) and not value.integer else one
                    _set(config.copy_and_resolve_references(), name, as_drawn, "space")
        taken |= found


def _parts(space: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every leaf that a space names, with what it may be; and every `Cases` with its key."""
    for name, part in space.items():
        yield name, part
        if isinstance(part, Cases):
            for case in part.cases.values():
                yield from _parts(case)


def _set(config: ConfigDict, name: str, value: Any, where: str) -> None:
    known = flatten(config)
    if name not in known:
        raise UserError(f"{where}: the config has no leaf {name}{nearest(name, known)}")
    now = known[name]
    # A bool is an int to Python, and to ConfigDict.
    sound = isinstance(value, bool) == isinstance(now, bool) and not (isinstance(value, float) and math.isnan(value))
    try:
        if sound:
            assign(config, name, value)
    except (TypeError, ValueError, KeyError):
        sound = False
    if not sound:
        raise UserError(f"{where}: {name}={value!r} is no {type(now).__name__}, as {now!r} is")


def _check_choice(name: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise UserError(
            f"{name}={value!r} is unknown{nearest(value, valid)}; expected: {', '.join(filter(None, valid))}"
        )


def _run(path: str, what: str) -> dict[str, Any]:
    if not os.path.isfile(path):
        folder = Path(path).parent
        found = sorted(map(str, folder.glob("*.py"))) if os.path.isdir(folder) else []
        raise UserError(f"{what}: {path} is not a file{nearest(path, found)}")
    try:
        return runpy.run_path(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:  # code of the user's: whatever it raises is told
        raise UserError(f"{path}: {type(error).__name__}: {last_line(error)}") from error
