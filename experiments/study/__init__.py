"""What an experiment file is written with. How a study is played, kept and read is in the modules beside."""

from experiments.study.space import Experiment, among, cases, integers, log_uniform, uniform

__all__ = ["Experiment", "among", "cases", "integers", "log_uniform", "uniform"]
