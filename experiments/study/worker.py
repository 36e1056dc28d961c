"""A worker of a study: takes a trial, plays it, tells Optuna how it went, and writes what can be read by then."""

import contextlib
import math
import shlex
import sys
from pathlib import Path

import optuna
from ml_collections import ConfigDict
from optuna.trial import Trial, TrialState

from experiments.study import page, reading, space, storage, trial
from experiments.study.space import Experiment
from experiments.study.trial import Interruption
from gan.errors import UserError


class CutShort(Exception):
    """The worker is stopped; the trial is left for later."""


class Crashed(Exception):
    """A trial's run ended as no run should."""


class Worker:
    """One of those that play a study."""

    def __init__(
        self, experiment: Experiment, question: str, base: ConfigDict, config: ConfigDict, folder: Path,
        study: optuna.Study, interruption: Interruption
    ):  # fmt: skip
        self._experiment, self._question, self._base, self._config = experiment, question, base, config
        self._folder, self._study, self._interruption = folder, study, interruption

    def play(self, planning: contextlib.ExitStack) -> None:
        """Asks for a trial, ends `planning` once it is known which, and plays it to its end."""
        with contextlib.ExitStack() as held, contextlib.suppress(CutShort):
            # `optimize` for one trial, rather than ask and tell: it sends the heartbeats.
            self._study.optimize(lambda asked: self._play(asked, planning, held), n_trials=1, catch=(Crashed,))
        self.write()

    def write(self) -> None:
        """Writes the tables and the page."""
        read = reading.read(self._study, self._experiment, self._question, self._folder)
        reading.write_tables(read, self._folder)
        page.write(read, self._folder)

    def verdict(self) -> int:
        """The exit status of a study that is done: 0, or 2 where no trial came to a value."""
        trials = storage.standing(self._study.get_trials(deepcopy=False)).values()
        if any(one.state == TrialState.COMPLETE for one in trials):
            return 0
        whys = [one.user_attrs["why"] for one in trials if "why" in one.user_attrs]
        raise UserError(f"no trial of {self._folder} came to a value; {whys[-1] if whys else 'all were pruned'}")

    def _play(self, asked: Trial, planning: contextlib.ExitStack, held: contextlib.ExitStack) -> float:
        experiment = self._experiment
        changes = storage.settle(self._study, experiment, asked)
        name = storage.name_of(asked)
        held.enter_context(storage.lease(self._folder, name))  # until the trial has been told
        planning.close()
        folder = self._folder / "trials" / name
        config = space.trial_config(experiment, self._config, changes, asked.user_attrs["seed"])
        typed = trial.command(experiment.base, folder, space.flags(self._base, config))
        asked.set_user_attr("command", shlex.join(typed))
        _tell(f"{name}: {_listed(asked.params) or 'the one setting'}")

        told: list[trial.Report] = []

        def enough() -> bool:
            """Reports what is new, and says whether the trial is to end before its time."""
            for report in trial.reports(folder, experiment)[len(told) :]:
                told.append(report)
                if math.isfinite(report.value):
                    asked.report(report.value, len(told))
            if experiment.seconds and trial.trained(folder)[1] >= experiment.seconds:
                return True
            return bool(experiment.prune and told) and asked.should_prune()

        if experiment.seconds and enough():  # an earlier launch's time, already
            end = trial.End(128, True, "")
        else:
            end = trial.play(typed, folder, enough, self._interruption)
        images_in_step = config.batch_size * config.discriminator_steps
        asked.set_user_attr("curve", [[report.step * images_in_step, report.value] for report in told])
        return self._told(asked, name, folder, told, end)

    def _told(self, asked: Trial, name: str, folder: Path, told: list[trial.Report], end: trial.End) -> float:
        """The trial's value; or what says to Optuna that it has none."""
        experiment = self._experiment
        images, seconds = trial.trained(folder)
        spent = bool(experiment.seconds) and seconds >= experiment.seconds
        asked.set_user_attr("images", images)
        asked.set_user_attr("seconds", round(seconds, 1))
        if end.status == trial.DIVERGED:
            # To Optuna a trial that was pruned: the samplers keep away from it, and never from one that failed.
            asked.set_user_attr("why", end.last_words)
            _tell(f"{name}: {end.last_words}")
            raise optuna.TrialPruned
        if end.status and (self._interruption.signal or (end.status in trial.STOPPED and not end.stopped)):
            raise CutShort
        if end.status and not end.stopped:
            asked.set_user_attr("why", f"exit {end.status}: {end.last_words}")
            _tell(f"{name}: crashed, exit {end.status}: {end.last_words}")
            raise Crashed
        if end.status and not spent:
            _tell(f"{name}: pruned at {images:,} images")
            raise optuna.TrialPruned
        if not told:
            raise UserError(f"{folder} ended without one report of the objective {experiment.objective!r}")
        value = trial.value_of(told, experiment)
        if not math.isfinite(value):
            asked.set_user_attr("why", f"{experiment.objective} is {value}")
            raise optuna.TrialPruned
        _tell(f"{name}: {experiment.objective} {value:.5g} after {images:,} images, {seconds:.0f} s")
        return value


def _listed(parameters: dict) -> str:
    return ", ".join(f"{name} {reading.shown(value)}" for name, value in parameters.items())


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
