"""What an experiment file states, checked against its config before anything runs. Knows neither Optuna nor JAX."""

import copy
import math
import os
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.sweep.space import Cases, Choice, Range, Space, count, parts
from gan.config import loading
from gan.config.flattening import flatten
from gan.config.overrides import assign, override
from gan.config.schema import check_kind
from gan.errors import UserError, last_line, nearest

STUDIES = Path(__file__).parents[1] / "studies"
"""The shipped experiment files, in a checkout as in an installation."""

SEARCHES = ("grid", "random", "tpe")
PRUNERS = ("", "median", "halving")

FIELD_TYPES = {
    "base": str, "search": str, "num_settings": int, "minimize": str, "maximize": str, "best": bool,
    "budget_images": int, "budget_seconds": float, "num_reports": int, "prune": str,
}  # fmt: skip
"""The types of an experiment's fields that are plain values."""

MAX_GRID_SETTINGS = 10_000

AUTO_POPULATION = 4
"""The size of a population="auto" where training together is faster: see experiments.sweep.population_size."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What an experiment file assigns to `EXPERIMENT`. The file's docstring is the question."""

    base: str
    """A config: FILE or FILE:ARG."""
    space: Mapping[str, Space] = field(default_factory=dict)
    """{field of the config: its possible values}, or {a name of your own: `cases`}."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """{field of the config: value}, for all trials."""
    search: str = "grid"
    """How settings are chosen: grid (all of them), random, tpe."""
    num_settings: int = 0
    """How many settings random search and TPE try."""
    seeds: Sequence[int] = (0,)
    """Each setting is trained with each seed."""
    minimize: str = ""
    """The objective: NAME, a metric of an evaluation (`fd` stands for fd_classifier, or the one that there is), or
    training.NAME, a metric of metrics.jsonl."""
    maximize: str = ""
    """The objective, if more is better. Exactly one of the two is given."""
    best: bool = False
    """Whether a trial's value is its best report, rather than its last one."""
    budget_images: int = 0
    """A trial's budget in real images. 0: the config's `steps`."""
    budget_seconds: float = 0.0
    """A trial's budget in seconds of compiling and training, without imports and evaluations. The trial is stopped
    then, if the config's `steps` do not end it before."""
    num_reports: int = 0
    """How often a trial reports its objective, evenly over the run. 0: whenever the config evaluates, or logs."""
    prune: str = ""
    """Which trials are stopped early, compared to the others at the same report: median, halving, or "" for none."""
    population: int | str = 1
    """The largest number of compatible trials that a worker trains at once in one compiled function, or "auto"."""

    def __post_init__(self):
        for name, kind in FIELD_TYPES.items():
            check_kind(name, getattr(self, name), kind)
        self._check_space_and_seeds()
        self._check_objective_and_search()
        self._check_budget()
        if self.search == "grid":
            self._check_grid()

    def _check_space_and_seeds(self) -> None:
        for name in ("space", "fixed"):
            fields = getattr(self, name)
            if not isinstance(fields, Mapping) or not all(isinstance(field, str) for field in fields):
                raise UserError(f"{name} is not a dictionary of fields of the config")
        if not isinstance(self.seeds, Sequence):
            raise UserError("seeds are not a sequence; expected: range(3), (0, 1, 2)")
        are_integers = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in self.seeds)
        if (
            not are_integers
            or not self.seeds
            or len(set(self.seeds)) < len(self.seeds)
            or not 0 <= min(self.seeds) <= max(self.seeds) < 2**32
        ):
            raise UserError(f"seeds={self.seeds!r}; expected: at least one integer in 0 .. 2^32 - 1, no duplicates")

    def _check_objective_and_search(self) -> None:
        if bool(self.minimize) == bool(self.maximize):
            raise UserError("an experiment has one objective: minimize or maximize")
        _check_choice("search", self.search, SEARCHES)
        _check_choice("prune", self.prune, PRUNERS)
        if self.search != "grid" and self.num_settings < 1:
            raise UserError(f"num_settings={self.num_settings}; expected with search={self.search!r}: at least 1")
        if self.search == "grid" and self.num_settings:
            raise UserError(f"num_settings={self.num_settings}: search='grid' tries all settings; expected: 0")

    def _check_budget(self) -> None:
        if self.budget_images and self.budget_seconds:
            raise UserError("an experiment has one budget: budget_images or budget_seconds")
        if min(self.budget_images, self.budget_seconds, self.num_reports) < 0:
            raise UserError("budget_images, budget_seconds and num_reports must not be negative")
        if self.budget_seconds and self.num_reports:
            raise UserError("num_reports does not apply to budget_seconds; fix evaluate_every or log_every")
        is_number = isinstance(self.population, int) and not isinstance(self.population, bool)
        if self.population != "auto" and not (is_number and self.population > 0):
            raise UserError(f"population={self.population!r}; expected: a whole number from 1 up, or 'auto'")
        if self.budget_seconds and is_number and self.population > 1:
            raise UserError("budget_seconds counts a trial that is trained alone; expected: population=1 or 'auto'")

    def _check_grid(self) -> None:
        for name, part in parts(self.space):
            if isinstance(part, Range) and not part.integer:
                raise UserError(
                    f"space: {name} is a range, which search='grid' cannot enumerate; expected: choice(...)"
                )
        if (number := count(self.space)) > MAX_GRID_SETTINGS:
            raise UserError(
                f"space: {number} settings, of which search='grid' tries all; expected: {MAX_GRID_SETTINGS} or fewer"
            )

    @property
    def objective(self) -> str:
        """The name of the objective."""
        return self.minimize or self.maximize

    @property
    def is_training_metric(self) -> bool:
        """Whether the objective is in metrics.jsonl, rather than in evaluations.jsonl."""
        return self.objective.startswith("training.")

    def max_population(self, config: ConfigDict) -> int:
        """The largest number of trials to train together; 1 where the config is known not to allow more."""
        if self.budget_seconds or config.data.on_device == "never" or config.microbatches == "auto":
            return 1
        return AUTO_POPULATION if self.population == "auto" else self.population


def resolved(path: str) -> str:
    """The path of an experiment file; of a shipped one also for its name, or experiments/studies/NAME.py anywhere."""
    known = STUDIES / f"{path.removeprefix('experiments/studies/').removesuffix('.py')}.py"
    return path if os.path.isfile(path) or not known.is_file() else str(known)


def load_experiment(path: str) -> tuple[Experiment, str]:
    """Loads an experiment file, see `resolved`: the experiment, and the question, which is the file's docstring."""
    path = resolved(path)
    names = _run(path, "the experiment")
    if not isinstance(names.get("EXPERIMENT"), Experiment):
        raise UserError(f"{path} has no EXPERIMENT = Experiment(...)")
    question = (names.get("__doc__") or "").strip()
    if not question:
        raise UserError(f"{path} has no docstring: which question does it answer?")
    return names["EXPERIMENT"], question


def load_configs(experiment: Experiment, overrides: Sequence[str] = ()) -> tuple[ConfigDict, ConfigDict]:
    """Returns the base config as its file has it, and with the fixed fields. Checks every value of the space."""
    base = loading.load(experiment.base, flag="base")
    config = copy.deepcopy(base)  # with its references: a schedule may end where the steps do
    try:
        for name, value in experiment.fixed.items():
            _set(config, name, value, "fixed")
        override(config, overrides)
        for name in {*experiment.fixed, *(change.partition("=")[0] for change in overrides)} & _fields_of_the_sweep(
            experiment
        ):
            raise UserError(f"fixed: {name} is set by the sweep; see seeds, budget_images and num_reports")
        _check_space(experiment, config, set(experiment.fixed))
    except (SyntaxError, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
    if not experiment.is_training_metric and not experiment.num_reports and not config.evaluate_every:
        raise UserError(
            f"the objective {experiment.objective!r} is a metric of an evaluation, and evaluate_every is 0; "
            f"set num_reports, or fix evaluate_every"
        )
    return base, config


def trial_config(experiment: Experiment, config: ConfigDict, changes: Mapping[str, Any], seed: int) -> ConfigDict:
    """The config of a trial: with its setting's changes, its seed, and the budget converted to steps."""
    config = copy.deepcopy(config)
    for name, value in (dict(changes) | {"seed": seed}).items():
        assign(config, name, value)
    if config.batch_size < 1 or config.discriminator_steps < 1:
        raise UserError(f"{config.batch_size=}, {config.discriminator_steps=}: both must be at least 1")
    if experiment.budget_images:
        config.steps = max(1, experiment.budget_images // (config.batch_size * config.discriminator_steps))
    if experiment.num_reports:
        interval = -(-config.steps // experiment.num_reports)
        config["log_every" if experiment.is_training_metric else "evaluate_every"] = interval
        if "checkpoint_every" not in experiment.fixed:
            config.checkpoint_every = interval  # a trial that is killed resumes from its last report
    return config


def config_flags(base: ConfigDict, config: ConfigDict) -> list[str]:
    """The flags of `python -m gan.main` that turn `base` into `config`."""
    before, after = flatten(base), flatten(config)
    return [
        f"--config.{name}={value if isinstance(value, str) else repr(value)}"
        for name, value in after.items()
        if value != before[name] or type(value) is not type(before[name])
    ]


def record(experiment: Experiment, config: ConfigDict) -> dict[str, Any]:
    """What must not change during a study: {name: value as text}. Seeds, num_settings and pruning may change."""
    space = {f"space: {name}": repr(part) for name, part in experiment.space.items()}
    fixed = {f"config.{name}": repr(value) for name, value in flatten(config).items()}
    names = ("base", "search", "budget_images", "budget_seconds", "num_reports", "minimize", "maximize", "best")
    return {name: repr(getattr(experiment, name)) for name in names} | space | fixed


def _fields_of_the_sweep(experiment: Experiment) -> set[str]:
    """The fields of the config that the sweep itself sets."""
    names = {"seed"} | ({"steps"} if experiment.budget_images else set())
    if experiment.num_reports:
        names.add("log_every" if experiment.is_training_metric else "evaluate_every")
    return names


def _check_space(experiment: Experiment, config: ConfigDict, taken: set[str]) -> None:
    for key, part in experiment.space.items():
        if not isinstance(part, Space):
            raise UserError(f"space: {key}={part!r} is a value; a field that does not vary belongs in fixed")
        if isinstance(part, Cases) and key in flatten(config):
            raise UserError(f"space: {key} is a field of the config; cases() needs a name of its own, and sets fields")
        found = set()
        for name, value in parts({key: part}):
            if name in taken:
                raise UserError(f"{name} is set twice: in fixed, or in two places of the space")
            if name in _fields_of_the_sweep(experiment):
                raise UserError(f"space: {name} is set by the sweep; see seeds, budget_images and num_reports")
            if not isinstance(value, Cases):
                found.add(name)
                tried = (value.low, value.high) if isinstance(value, Range) else [value]
                tried = value.values if isinstance(value, Choice) else tried
                for one in tried:
                    as_drawn = float(one) if isinstance(value, Range) and not value.integer else one
                    _set(config.copy_and_resolve_references(), name, as_drawn, "space")
        taken |= found


def _set(config: ConfigDict, name: str, value: Any, where: str) -> None:
    known = flatten(config)
    if name not in known:
        raise UserError(f"{where}: the config has no field {name}{nearest(name, known)}")
    now = known[name]
    # A bool is an int to Python, and to ConfigDict.
    is_valid = isinstance(value, bool) == isinstance(now, bool) and not (isinstance(value, float) and math.isnan(value))
    try:
        if is_valid:
            assign(config, name, value)
    except (TypeError, ValueError, KeyError):
        is_valid = False
    if not is_valid:
        raise UserError(f"{where}: {name}={value!r} is not of type {type(now).__name__}, as {now!r} is")


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
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise UserError(f"{path}: {type(error).__name__}: {last_line(error)}") from error
