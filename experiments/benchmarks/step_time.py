"""How long does a turn of the game take? Times whole turns of configs, in turn, and prints medians.

python -m experiments.benchmarks.step_time
python -m experiments.benchmarks.step_time --configs configs/dcgan.py --override generator.width=64 --json=turns.json
python -m experiments.benchmarks.step_time --override discriminator.batch_norm=False --vary penalties.r1=1.0

Every turn is timed to its end on the host; data are resident. Each round times all configs once, `--turns` turns
each, so that a drift of the machine's speed meets all of them alike. With `--vary` each config is timed as it is and
with each of these changes alone: the last column is the median over rounds of the time relative to the config as it is.
"""

import argparse
import functools
import operator
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from experiments import cli
from experiments.benchmarks import flops, timing
from experiments.benchmarks.systems import load
from gan import build as setups
from gan import data
from gan.game import parameter_count
from gan.parallel import sharding
from gan.train import loop, sources


def main() -> None:
    """Parses the flags, times, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["configs/dcgan.py"], help="config files, FILE or FILE:ARG")
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE, for all of them")
    parser.add_argument("--vary", nargs="*", default=[], help="FIELD=VALUE, each of them for a row of its own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    programs, plain = {}, {}
    for name in arguments.configs:
        for changes in [[], *([change] for change in arguments.vary)]:
            row = " ".join([name, *changes])
            programs[row], plain[row] = build(load(name, [*arguments.override, *changes])), name
    plays = {name: program.compile() for name, program in programs.items()}
    measured = timing.alternate(plays, dict.fromkeys(plays, arguments.turns), arguments.rounds)
    rows = []
    for name, seconds in measured.items():
        row = {"config": name, **timing.spread(seconds)}
        row["images_per_second"] = 1000 * programs[name].images / row["median_ms"]
        row["gflop"] = programs[name].operations() / 1e9
        row["relative"] = statistics.median(map(operator.truediv, seconds, measured[plain[name]]))
        rows.append(row)
    print(", ".join(map(str, facts().values())))
    columns = [(row["config"], *(f"{value:.4g}" for value in list(row.values())[1:])) for row in rows]
    print(timing.table(("config", "ms a step: median", "min", "max", "images/s", "GFLOP a step", "relative"), columns))
    timing.write(arguments.json, timing.machine() | facts() | {"rows": rows})


class Program(NamedTuple):
    """The turn of a config, as a run with resident data plays it."""

    compile: Callable[[], timing.Play]
    """Compiles it, and plays it once."""
    operations: Callable[[], int]
    """Counts the floating point operations of a turn."""
    images: int
    """Real images in a turn."""
    parameters: tuple[int, int]
    """Of G and of D."""


def build(config: ConfigDict) -> Program:
    """The program of a config. It is the run's own turn, on the run's own arrays, and not a copy of either."""
    mesh = sharding.device_mesh()
    dataset = data.open_dataset(config.data)
    setup = build_setup(config, dataset)
    source = sources.Resident(dataset, setup.options, mesh)
    arrays, _ = source.take()

    def compiled() -> timing.Play:
        step = loop.compile_setup(setup, source, mesh)
        return player(step, setup.initial_state(step_sharding(setup, mesh)), arrays)

    def operations() -> int:
        rows = jax.ShapeDtypeStruct((config.batch_size,), "int32")
        step = functools.partial(
            loop.run_step, game=setup.game, schedules=setup.schedules, batch_of=source.batch_of, axis_name=None
        )
        return flops.count(step, setup.shapes, arrays, rows, setup.base_hyperparams)

    return Program(
        compile=compiled,
        operations=operations,
        images=config.batch_size * setup.game.discriminator.steps,
        parameters=tuple(map(parameter_count, (setup.shapes.generator.params, setup.shapes.discriminator.params))),
    )


def build_setup(config: ConfigDict, dataset: data.Dataset) -> setups.Setup:
    """The setup of a config on its dataset."""
    return setups.setup(config, image_shape=dataset.image_shape, num_classes=len(dataset.class_names))


def step_sharding(setup: setups.Setup, mesh: Any) -> Any:
    """How a run's state lies on the devices."""
    return sharding.state_sharding(setup.shapes, mesh, sharded=setup.options.shard_state)


def player(played: Callable, position: Any, arrays: Any) -> timing.Play:
    """Plays turns of `sharding.compile_steps` on from a state, after one that is not timed."""

    def play(turns: int) -> float:
        nonlocal position
        begun, left = time.perf_counter(), turns
        while left:
            count = min(left, sources.MAX_STEPS_PER_DISPATCH)
            position, metrics = played(position, arrays, count)
            left -= count
        jax.block_until_ready((position, metrics))
        return (time.perf_counter() - begun) / turns

    play(1)
    return play


def facts() -> dict[str, str]:
    """What plays our side."""
    device = jax.devices()[0]
    return {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__}


def matrix_rate(size: int, dtype: str = "float32") -> float:
    """Operations a second of our product of two matrices [size, size]."""
    left, right = jax.random.normal(jax.random.key(0), (2, size, size)).astype(dtype)
    product = jax.jit(lambda a, b: a @ b)
    return timing.best_rate(lambda: product(left, right).block_until_ready(), 2 * size**3)


if __name__ == "__main__":
    cli.run(main)
