"""A worker of a study: takes trials, plays them, tells Optuna how they went, and writes what can be read by then.

It takes one, or as many as can be played together as one population, see experiments.study.together.
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

from experiments.study import page, reading, space, storage, trial
from experiments.study.space import Experiment
from experiments.study.trial import StopSignal
from gan.errors import UserError
from gan.io import workdir


@dataclasses.dataclass(frozen=True)
class Taken:
    """A trial that this worker plays."""

    asked: Trial
    name: str
    folder: Path
    config: ConfigDict
    typed: list[str]
    told: list[trial.Report] = dataclasses.field(default_factory=list)
    """What it has reported so far."""


class Worker:
    """One of those that play a study."""

    def __init__(
        self, experiment: Experiment, question: str, base: ConfigDict, config: ConfigDict, folder: Path,
        study: optuna.Study, interruption: StopSignal
    ):  # fmt: skip
        self._experiment, self._question, self._base, self._config = experiment, question, base, config
        self._folder, self._study, self._interruption = folder, study, interruption
        self._most = experiment.together(config)
        self._is_left_to_us = experiment.population == "auto" and self._most > 1

    def play(self, planning: contextlib.ExitStack) -> None:
        """Asks for trials, ends `planning` once it is known which, and plays them to their end."""
        with contextlib.ExitStack() as held:
            first = self._take(self._study.ask(), held)
            if self._is_left_to_us:
                self._most, self._is_left_to_us = trial.best_together(first.typed), False

            def alike(changes: Mapping[str, Any], seed: int) -> bool:
                config = space.trial_config(self._experiment, self._config, changes, seed)
                return not workdir.hyperparams_that_differ(first.config.to_dict(), config.to_dict())[1]

            others = storage.ask_alike(self._study, self._experiment, alike) if self._most > 1 else ()
            taken = [first, *(self._take(asked, held) for asked in itertools.islice(others, self._most - 1))]
            planning.close()
            self._play(taken)
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

    def _take(self, asked: Trial, held: contextlib.ExitStack) -> Taken:
        experiment = self._experiment
        changes = storage.settle(self._study, experiment, asked)
        name = storage.name_of(asked)
        held.enter_context(storage.playing(self._study, self._folder, asked))
        folder = self._folder / "trials" / name
        config = space.trial_config(experiment, self._config, changes, asked.user_attrs["seed"])
        typed = trial.command(experiment.base, folder, space.flags(self._base, config))
        asked.set_user_attr("command", shlex.join(typed))
        return Taken(asked, name, folder, config, typed)

    def _play(self, taken: Sequence[Taken]) -> None:
        for one in taken:
            _tell(f"{one.name}: {_listed(one.asked.params) or 'the one setting'}")
        if self._experiment.seconds and all(map(self._is_enough, taken)):  # an earlier launch's time, already
            ends = [trial.End(128, True, "")] * len(taken)
        else:
            runs = [trial.Run(one.typed, one.folder, functools.partial(self._is_enough, one)) for one in taken]
            ends = trial.play(runs, self._interruption)
        if len(taken) > 1 and ends[0].is_crash and not self._interruption.signal:
            _tell(f"one by one from here on; as a population: exit {ends[0].status}: {ends[0].last_words}")
            self._most = 1
            for one in taken:
                self._play([one])
            return
        for one, end in zip(taken, ends, strict=True):
            self._conclude(one, end)

    def _is_enough(self, one: Taken) -> bool:
        """Reports what is new of a trial, and says whether it is to end before its time."""
        experiment = self._experiment
        for report in trial.reports(one.folder, experiment)[len(one.told) :]:
            one.told.append(report)
            if math.isfinite(report.value):
                one.asked.report(report.value, len(one.told))
        if experiment.seconds and trial.trained(one.folder)[1] >= experiment.seconds:
            return True
        return bool(experiment.prune and one.told) and one.asked.should_prune()

    def _conclude(self, one: Taken, end: trial.End) -> None:
        """Tells Optuna the trial's value, or that it has none. One that was cut short is left for later."""
        experiment, asked, name = self._experiment, one.asked, one.name
        images_in_step = one.config.batch_size * one.config.discriminator_steps
        asked.set_user_attr("curve", [[report.step * images_in_step, report.value] for report in one.told])
        images, seconds = trial.trained(one.folder)
        spent = bool(experiment.seconds) and seconds >= experiment.seconds
        asked.set_user_attr("images", images)
        asked.set_user_attr("seconds", round(seconds, 1))
        if end.status == trial.DIVERGED:
            # To Optuna a trial that was pruned: the samplers keep away from it, and never from one that failed.
            asked.set_user_attr("why", end.last_words)
            _tell(f"{name}: {end.last_words}")
            self._study.tell(asked, state=TrialState.PRUNED)
        elif end.status and (self._interruption.signal or (end.status in trial.STOPPED and not end.stopped)):
            return
        elif end.status and not end.stopped:
            asked.set_user_attr("why", f"exit {end.status}: {end.last_words}")
            _tell(f"{name}: crashed, exit {end.status}: {end.last_words}")
            self._study.tell(asked, state=TrialState.FAIL)
        elif end.status and not spent:
            _tell(f"{name}: pruned at {images:,} images")
            self._study.tell(asked, state=TrialState.PRUNED)
        elif not one.told:
            raise UserError(f"{one.folder} ended without one report of the objective {experiment.objective!r}")
        elif not math.isfinite(value := trial.value_of(one.told, experiment)):
            asked.set_user_attr("why", f"{experiment.objective} is {value}")
            self._study.tell(asked, state=TrialState.PRUNED)
        else:
            _tell(f"{name}: {experiment.objective} {value:.5g} after {images:,} images, {seconds:.0f} s")
            self._study.tell(asked, value)


def _listed(parameters: dict) -> str:
    return ", ".join(f"{name} {reading.shown(value)}" for name, value in parameters.items())


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
