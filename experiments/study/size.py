"""How many trials like this one are best played at once on this machine? What `population="auto"` asks.

python -m experiments.study.size --config=configs/NAME.py[:ARG] [--config.FIELD=VALUE ...]

A process of its own: a worker must not hold the accelerator that its trials need. Prints the number.
"""

import os
import sys

import jax
from ml_collections import ConfigDict

from experiments.benchmarks import step_time
from experiments.study.space import AUTO
from experiments.study.together import parsed
from gan import data
from gan.train import sources

CPU_OPERATIONS = 5e8
"""A turn of more floating point operations takes a member longer than one alone on a CPU, as measured."""


def best(config: ConfigDict) -> int:
    """AUTO, or 1 where the data are streamed, or where the device is a CPU and the game is large for it."""
    if not sources.is_resident(data.open_dataset(config.data), config.data.on_device):
        return 1
    if jax.default_backend() == "cpu" and step_time.build(config).operations() > CPU_OPERATIONS:
        return 1
    return AUTO


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as in gan.main
    print(best(parsed(sys.argv[1:])[0]))
