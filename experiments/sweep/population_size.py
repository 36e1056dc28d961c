"""How many trials like this one are trained fastest together on this machine? Used by `population="auto"`.

python -m experiments.sweep.population_size --config=configs/NAME.py[:ARG] [--config.FIELD=VALUE ...]

Runs in a process of its own, so that the worker does not hold the accelerator that its trials need. Prints the number.
"""

import os
import sys

import jax
from ml_collections import ConfigDict

from experiments import cli
from experiments.benchmarks import program
from experiments.sweep.experiment import AUTO_POPULATION
from gan import data
from gan.cli.flags import config_and_workdir
from gan.train import sources

CPU_OPERATIONS = 5e8
"""Above this many floating point operations a step, a member of a population is slower than a run alone on a CPU.

Measured: see docs/sweeps.md.
"""


def best(config: ConfigDict) -> int:
    """AUTO_POPULATION, or 1 if the data are streamed, or if the device is a CPU and the networks are large for it."""
    if not sources.is_resident(data.open_dataset(config.data), config.data.on_device):
        return 1
    if jax.default_backend() == "cpu" and program.build(config).operations() > CPU_OPERATIONS:
        return 1
    return AUTO_POPULATION


def main() -> None:
    """Prints the number for the config of the flags."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as in gan.main
    print(best(config_and_workdir(sys.argv[1:])[0]))


if __name__ == "__main__":
    cli.run(main)
