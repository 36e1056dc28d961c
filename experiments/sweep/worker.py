"""A worker of a study: takes trials, trains them, reports their results to Optuna, and writes the tables and the page.

It takes one trial, or several that can be trained as one population, see experiments.sweep.population.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from ml_collections import ConfigDict
from optuna.trial import Trial, TrialState

from experiments.sweep import page, planning, results, trial
from experiments.sweep.experiment import Experiment, config_flags, trial_config
from experiments.sweep.trial import StopSignal
from gan.errors import UserError
from gan.io import workdir


@dataclasses.dataclass(frozen=True)
class RunningTrial:
    """A trial that this worker trains."""

    optuna: Trial
    name: str
    folder: Path
    config: ConfigDict
    command: list[str]
    reports: list[trial.Report] = dataclasses.field(default_factory=list)
    """The reports so far."""


class Worker:
    """One worker of a study."""

    def __init__(
        self, experiment: Experiment, question: str, base: ConfigDict, config: ConfigDict, folder: Path,
        study: optuna.Study, stop_signal: StopSignal
    ):  # fmt: skip
        self._experiment, self._question, self._base, self._config = experiment, question, base, config
        self._folder, self._study, self._stop_signal = folder, study, stop_signal
        self._max_population = experiment.max_population(config)
        self._must_choose_population = experiment.population == "auto" and self._max_population > 1

    def run(self, lock: contextlib.ExitStack) -> None:
        """Asks for trials, closes `lock` once they are taken, and trains them to their end."""
        with contextlib.ExitStack() as held:
            first = self._take(self._study.ask(), held)
            if self._must_choose_population:
                self._max_population = trial.best_population(first.command)
                self._must_choose_population = False

            def is_compatible(changes: Mapping[str, Any], seed: int) -> bool:
                config = trial_config(self._experiment, self._config, changes, seed)
                return not workdir.hyperparams_that_differ(first.config.to_dict(), config.to_dict())[1]

            others = planning.ask_compatible(self._study, self._experiment, is_compatible)
            others = itertools.islice(others, self._max_population - 1)
            trials = [first, *(self._take(asked, held) for asked in others)]
            lock.close()
            self._train(trials)
        self.write()

    def write(self) -> None:
        """Writes the tables and the page."""
        found = results.read(self._study, self._experiment, self._question, self._folder)
        results.write_tables(found, self._folder)
        page.write(found, self._folder)

    def exit_status(self) -> int:
        """The exit status of a finished study: 0. Raises `UserError` if no trial has a value."""
        trials = planning.current_trials(self._study.get_trials(deepcopy=False)).values()
        if any(one.state == TrialState.COMPLETE for one in trials):
            return 0
        whys = [one.user_attrs["why"] for one in trials if "why" in one.user_attrs]
        raise UserError(f"no trial of {self._folder} has a value; {whys[-1] if whys else 'all were pruned'}")

    def _take(self, asked: Trial, held: contextlib.ExitStack) -> RunningTrial:
        experiment = self._experiment
        changes = planning.resolve(self._study, experiment, asked)
        name = planning.name_of(asked)
        held.enter_context(planning.running(self._study, self._folder, asked))
        folder = self._folder / "trials" / name
        config = trial_config(experiment, self._config, changes, asked.user_attrs["seed"])
        command = trial.command(experiment.base, folder, config_flags(self._base, config))
        asked.set_user_attr("command", shlex.join(command))
        return RunningTrial(asked, name, folder, config, command)

    def _train(self, trials: Sequence[RunningTrial]) -> None:
        for one in trials:
            _print(f"{one.name}: {_listed(one.optuna.params) or 'the only setting'}")
        if self._experiment.budget_seconds and all(map(self._should_stop, trials)):  # spent by an earlier launch
            ends = [trial.End(128, True, "")] * len(trials)
        else:
            runs = [trial.Run(one.command, one.folder, functools.partial(self._should_stop, one)) for one in trials]
            ends = trial.train(runs, self._stop_signal)
        if len(trials) > 1 and ends[0].is_crash and not self._stop_signal.signal:
            _print(f"the population crashed, exit {ends[0].status}: {ends[0].message}; trials now run one by one")
            self._max_population = 1
            for one in trials:
                self._train([one])
            return
        for one, end in zip(trials, ends, strict=True):
            self._conclude(one, end)

    def _should_stop(self, one: RunningTrial) -> bool:
        """Sends a trial's new reports to Optuna. Returns whether the trial is to be stopped early."""
        experiment = self._experiment
        for report in trial.reports(one.folder, experiment)[len(one.reports) :]:
            one.reports.append(report)
            if math.isfinite(report.value):
                one.optuna.report(report.value, len(one.reports))
        if experiment.budget_seconds and trial.progress(one.folder)[1] >= experiment.budget_seconds:
            return True
        return bool(experiment.prune and one.reports) and one.optuna.should_prune()

    def _conclude(self, one: RunningTrial, end: trial.End) -> None:
        """Reports the trial's value, or its failure, to Optuna. An interrupted trial is left to be queued again."""
        experiment, asked, name = self._experiment, one.optuna, one.name
        images_in_step = one.config.batch_size * one.config.discriminator_steps
        asked.set_user_attr("curve", [[report.step * images_in_step, report.value] for report in one.reports])
        images, seconds = trial.progress(one.folder)
        spent = bool(experiment.budget_seconds) and seconds >= experiment.budget_seconds
        asked.set_user_attr("images", images)
        asked.set_user_attr("seconds", round(seconds, 1))
        if end.status == trial.DIVERGED:
            # Reported as pruned: samplers avoid pruned trials, but ignore failed ones.
            asked.set_user_attr("why", end.message)
            _print(f"{name}: {end.message}")
            self._study.tell(asked, state=TrialState.PRUNED)
        elif end.status and (self._stop_signal.signal or (end.status in trial.STOPPED and not end.stopped)):
            return
        elif end.status and not end.stopped:
            self._fail(one, end)
        elif end.status and not spent:
            _print(f"{name}: pruned at {images:,} images")
            self._study.tell(asked, state=TrialState.PRUNED)
        elif not one.reports:
            raise UserError(f"{one.folder} ended without a report of the objective {experiment.objective!r}")
        elif not math.isfinite(value := trial.value_of(one.reports, experiment)):
            asked.set_user_attr("why", f"{experiment.objective} is {value}")
            self._study.tell(asked, state=TrialState.PRUNED)
        else:
            _print(f"{name}: {experiment.objective} {value:.5g} after {images:,} images, {seconds:.0f} s")
            self._study.tell(asked, value)

    def _fail(self, one: RunningTrial, end: trial.End) -> None:
        """Reports a crash. A killed run is not tried again by this launch: a lack of memory would kill it again."""
        one.optuna.set_user_attr("why", f"exit {end.status}: {end.message}")
        if end.killed_by:
            one.optuna.set_user_attr("killed", True)
            _print(f"{one.name}: killed by {end.killed_by}; the next launch of the same command resumes it")
        else:
            _print(f"{one.name}: crashed, exit {end.status}: {end.message}")
        self._study.tell(one.optuna, state=TrialState.FAIL)


def _listed(parameters: dict) -> str:
    return ", ".join(f"{name} {results.format_value(value)}" for name, value in parameters.items())


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
