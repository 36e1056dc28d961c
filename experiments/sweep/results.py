"""The results of a study so far: mean, standard deviation and n of each setting, paired comparisons, importances."""

import csv
import dataclasses
import functools
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from scipy import stats

from experiments.sweep import planning
from experiments.sweep.experiment import Experiment
from gan.io import atomic

RESAMPLES = 10_000

MIN_SEEDS = 6
"""With fewer pairs a sign test cannot reach 95%: by chance all n signs are equal in 2 of 2^n cases."""

STATES = {
    TrialState.COMPLETE: "done", TrialState.FAIL: "crashed", TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}  # fmt: skip

MAX_COMPARED = 40
"""Up to this many settings, all pairs are compared; of more, only the best one with each other."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A trial."""

    name: str
    setting: int
    seed: int
    state: str
    """done, pruned, diverged, crashed, running, waiting"""
    value: float | None
    why: str
    images: int
    seconds: float
    curve: list
    """[images, objective] at each report."""
    command: str
    samples: str
    """The path of its last samples, relative to the study's folder."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting, with the values of its seeds."""

    number: int
    parameters: dict[str, Any]
    values: dict[int, float]
    mean: float | None
    std: float | None
    states: dict[str, int]
    seconds: float

    @property
    def n(self) -> int:
        """The number of seeds with a value."""
        return len(self.values)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The mean difference of two settings over the seeds that both have, and its 95% interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """Whether the difference is real: real, not shown, or too few seeds."""
        if self.n < MIN_SEEDS:
            return "too few seeds"
        return "real" if self.low > 0 or self.high < 0 else "not shown"


@dataclasses.dataclass(frozen=True)
class Results:
    """What the tables and the page show. Settings and pairs are sorted, the best first."""

    question: str
    objective: str
    less_is_better: bool
    written: str
    settings: list[Setting]
    runs: list[Run]
    comparisons: dict[tuple[int, int], Comparison]
    importances: dict[str, float]


def read(study: optuna.Study, experiment: Experiment, question: str, folder: Path) -> Results:
    """Reads the results of a study."""
    trials = planning.current_trials(study.get_trials(deepcopy=False))
    runs = [_run(trial, folder) for _, trial in sorted(trials.items(), key=lambda item: item[0])]
    parameters = planning.settings_of(list(trials.values()))
    settings = [_setting(number, parameters[number], runs) for number in sorted(parameters)]
    sign = 1 if experiment.minimize else -1
    settings.sort(key=lambda setting: math.inf if setting.mean is None else sign * setting.mean)
    return Results(
        question=question,
        objective=experiment.objective,
        less_is_better=bool(experiment.minimize),
        written=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        settings=settings,
        runs=runs,
        comparisons=_comparisons(settings),
        importances=_importances(study),
    )


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison | None:
    """Compares first - second over the common seeds, with a bootstrap interval; None with fewer than two seeds.

    The percentile bootstrap of few values is too narrow. Its quantiles are widened so that the interval would be
    Student's if the means were normal: alpha' = Phi(-sqrt(n / (n - 1)) t), Hesterberg 2015, arXiv:1411.5279.
    """
    common = sorted(first.keys() & second.keys())
    n = len(common)
    if n < 2:
        return None
    differences = np.array([first[seed] - second[seed] for seed in common])
    tail = stats.norm.cdf(stats.t.ppf(0.025, n - 1) * math.sqrt(n / (n - 1)))
    low, high = np.quantile(_resampling(n) @ differences, [tail, 1 - tail])
    return Comparison(float(differences.mean()), float(low), float(high), n)


@functools.cache
def _resampling(n: int) -> np.ndarray:
    """The weights [RESAMPLES, n] of n values in the means of n draws with replacement."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n


def format_value(value: Any) -> str:
    """A value in a table: four significant digits of a float."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def mean_and_std(setting: Setting) -> str:
    """mean ± standard deviation, as far as they are defined."""
    if setting.mean is None:
        return "–"
    return format_value(setting.mean) + ("" if setting.std is None else f" ± {setting.std:.2g}")


def remarks(setting: Setting) -> str:
    """Why seeds have no value, such as "1 pruned, 2 diverged"."""
    return ", ".join(f"{count} {state}" for state, count in setting.states.items() if state != "done")


def write_tables(results: Results, folder: Path) -> None:
    """Writes table.md and table.csv, each atomically."""
    atomic.write_text(folder / "table.md", markdown(results))
    atomic.write_text(folder / "table.csv", comma_separated(results))


def markdown(results: Results) -> str:
    """The question, a row for each setting, the best one against each other one, and the trials without a value."""
    names = parameter_names(results)
    rows = [["setting", *names, results.objective, "n", "remarks", "seconds a trial"]]
    for setting in results.settings:
        cells = [format_value(setting.parameters[name]) if name in setting.parameters else "" for name in names]
        rest = [mean_and_std(setting), str(setting.n), remarks(setting), f"{setting.seconds:.0f}"]
        rows.append([str(setting.number), *cells, *rest])
    direction = "less is better" if results.less_is_better else "more is better"
    parts = [
        results.question,
        f"{results.objective}: mean ± standard deviation over n seeds; {direction}.",
        _table(rows),
    ]
    rows = [["setting", "against", "mean difference", "95% interval", "n", "verdict"]]
    best = results.settings[0].number if results.settings else 0
    for (first, second), found in results.comparisons.items():
        if first == best:
            interval = f"{found.low:.3g} to {found.high:.3g}"
            rows.append([str(first), str(second), f"{found.mean:.3g}", interval, str(found.n), found.verdict])
    if len(rows) > 1:
        parts += ["The best setting against each other one, over the seeds that both have (bootstrap):", _table(rows)]
    failures = [f"- {run.name}: {run.state}: {run.why}" for run in results.runs if run.why]
    if failures:
        parts.append("\n".join(failures))
    return "\n\n".join(parts) + "\n"


def comma_separated(results: Results) -> str:
    """A row for each setting: its parameters, mean, standard deviation, n, and the value of each seed."""
    names = parameter_names(results)
    seeds = sorted({run.seed for run in results.runs})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    objective = results.objective
    writer.writerow(["setting", *names, f"{objective}_mean", f"{objective}_std", "n", "remarks", "seconds"]
                    + [f"{objective}_seed{seed}" for seed in seeds])  # fmt: skip
    for setting in results.settings:
        cells = [setting.parameters.get(name, "") for name in names]
        rest = [_cell(setting.mean), _cell(setting.std), setting.n, remarks(setting), round(setting.seconds, 1)]
        writer.writerow([setting.number, *cells, *rest, *(_cell(setting.values.get(seed)) for seed in seeds)])
    return text.getvalue()


def parameter_names(results: Results) -> list[str]:
    """The parameters of all settings, in the order of the space."""
    return list(dict.fromkeys(name for setting in results.settings for name in setting.parameters))


def _run(trial: FrozenTrial, folder: Path) -> Run:
    attributes = trial.user_attrs
    name, why = planning.name_of(trial), attributes.get("why", "")
    state = STATES.get(trial.state) or ("diverged" if why else "pruned")
    images = sorted((folder / "trials" / name / "samples").glob("*.png"))
    return Run(
        name=name,
        setting=attributes["setting"],
        seed=attributes["seed"],
        state=state,
        value=trial.value if state == "done" else None,
        why=why,
        images=attributes.get("images", 0),
        seconds=attributes.get("seconds", 0.0),
        curve=[point for point in attributes.get("curve", []) if math.isfinite(point[1])],
        command=attributes.get("command", ""),
        samples=str(images[-1].relative_to(folder)) if images else "",
    )


def _setting(number: int, parameters: dict[str, Any], runs: Sequence[Run]) -> Setting:
    own = [run for run in runs if run.setting == number]
    values = {run.seed: run.value for run in own if run.value is not None}
    states: dict[str, int] = {}
    for run in own:
        states[run.state] = states.get(run.state, 0) + 1
    ended = [run.seconds for run in own if run.seconds]
    return Setting(
        number=number,
        parameters=parameters,
        values=values,
        mean=float(np.mean(list(values.values()))) if values else None,
        std=float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else None,
        states=states,
        seconds=float(np.mean(ended)) if ended else 0.0,
    )


def _comparisons(settings: Sequence[Setting]) -> dict[tuple[int, int], Comparison]:
    found = {}
    for place, first in enumerate(settings if len(settings) <= MAX_COMPARED else settings[:1]):
        for second in settings[place + 1 :]:
            if comparison := paired(first.values, second.values):
                found[first.number, second.number] = comparison
    return found


def _importances(study: optuna.Study) -> dict[str, float]:
    """Each parameter's share of the objective's variance (fANOVA, Hutter et al. 2014), of those in every setting."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    shared = set.intersection(*(set(trial.params) for trial in done)) if done else set()
    varied = [name for name in shared if len({trial.params[name] for trial in done}) > 1]
    if len(done) < 4 or not varied or len({trial.value for trial in done}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=sorted(varied))
    return {name: float(share) for name, share in sorted(found.items(), key=lambda item: -item[1])}


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
