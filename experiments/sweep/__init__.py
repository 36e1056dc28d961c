"""Hyperparameter sweeps. This module exports what an experiment file needs; see docs/sweeps.md."""

from experiments.sweep.experiment import Experiment
from experiments.sweep.space import cases, choice, integers, log_uniform, uniform

__all__ = ["Experiment", "cases", "choice", "integers", "log_uniform", "uniform"]
