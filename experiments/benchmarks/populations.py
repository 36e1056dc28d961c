"""Is training a population cheaper than training its members one by one? Step times for several population sizes.

python -m experiments.benchmarks.populations
python -m experiments.benchmarks.populations --systems mlp_gan dcgan32 --members 2 8 --override generator.width=16

The members are those of `gan.train.population`: they differ in their seeds, each has a batch of its own, and they are
sharded over the devices if the number of devices divides them. Populations are timed alternately with a run alone. A
row has the time of a member's step; `speedup` is the time of a run alone divided by it.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
from ml_collections import ConfigDict

from experiments import cli
from experiments.benchmarks import program, systems, timing
from gan import data
from gan.parallel import sharding
from gan.train import population, sources


def main() -> None:
    """Parses the flags, times, prints a table and writes JSON."""
    arguments = parse()
    rows = []
    for system in arguments.systems:
        config = systems.configured(system, arguments.override)
        timers = {0: program.build(config).compile()}
        timers |= {count: compiled(config, count) for count in arguments.members}
        steps = {count: timing.steps_in(arguments.seconds, timer(1)) for count, timer in timers.items()}
        measured = timing.alternate(timers, steps, arguments.rounds)
        alone = timing.spread(measured.pop(0))
        rows.append({"system": system, "members": 0, **alone, "speedup": 1.0})
        for count, seconds in measured.items():
            member = timing.spread(value / count for value in seconds)
            rows.append(
                {"system": system, "members": count, **member, "speedup": alone["median_ms"] / member["median_ms"]}
            )
    print(", ".join(map(str, program.facts().values())))
    shown = [
        (row["system"], row["members"] or "alone", *(f"{row[name]:.2f}" for name in ("median_ms", "min_ms", "max_ms")),
         f"{row['speedup']:.2f}")
        for row in rows
    ]  # fmt: skip
    print(timing.table(("system", "members", "ms per member and step: median", "min", "max", "speedup"), shown))
    timing.write(arguments.json, timing.machine() | program.facts() | {"rows": rows})


def parse() -> argparse.Namespace:
    """The flags."""
    parser = cli.Parser(description=__doc__)
    names = list(systems.SYSTEMS)
    parser.add_argument("--systems", nargs="+", default=["smooth_gan", "mlp_gan"], choices=names, metavar="NAME")
    parser.add_argument("--members", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE of the config, for all systems")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="approximate length of one measurement")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def compiled(config: ConfigDict, count: int) -> timing.StepTimer:
    """Compiles the step of a population of `count` runs of a config, with the seeds 0 .. count - 1."""
    mesh = sharding.device_mesh()
    dataset = data.open_dataset(config.data)
    setup = program.setup_of(config, dataset)
    setups = [
        dataclasses.replace(setup, options=dataclasses.replace(setup.options, seed=seed)) for seed in range(count)
    ]
    source, layout = sources.Resident(dataset, setup.options, mesh), population.sharding_of(mesh, count)
    steps = population.compile_members(setups, source, mesh, layout)
    arrays, _ = source.take()
    current = jax.jit(population.stacked, out_shardings=layout)([member.initial_state() for member in setups])
    return program.step_timer(steps, current, arrays)


if __name__ == "__main__":
    cli.run(main)
