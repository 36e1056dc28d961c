"""Is a population cheaper than its members one by one? A turn of each of them, for populations of several sizes.

python -m experiments.benchmarks.populations
python -m experiments.benchmarks.populations --systems mlp_gan dcgan32 --members 2 8 --override generator.width=16

The members are `gan.train.population`'s: they differ in their seeds, have a batch each, and are spread over the devices
where these divide them. Beside them stands the run alone, and each size of population is played in turn with it. A row
says what a member's turn costs, and the ratio is that of a run alone over it: above 1 the population pays.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
from ml_collections import ConfigDict

from experiments import cli
from experiments.benchmarks import step_time, systems, timing
from gan import data
from gan.parallel import sharding
from gan.train import population, sources


def main() -> None:
    """Parses the flags, times, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(systems.SYSTEMS)
    parser.add_argument("--systems", nargs="+", default=["smooth_gan", "mlp_gan"], choices=names, metavar="NAME")
    parser.add_argument("--members", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE of the config, for all systems")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement, about")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for system in arguments.systems:
        config = systems.configured(system, arguments.override)
        plays = {0: step_time.build(config).compile()}
        plays |= {count: compiled(config, count) for count in arguments.members}
        counts = {count: timing.steps_in(arguments.seconds, play(1)) for count, play in plays.items()}
        measured = timing.alternate(plays, counts, arguments.rounds)
        alone = timing.spread(measured.pop(0))
        rows.append({"system": system, "members": 0, **alone, "pays": 1.0})
        for count, seconds in measured.items():
            member = timing.spread(value / count for value in seconds)
            rows.append(
                {"system": system, "members": count, **member, "pays": alone["median_ms"] / member["median_ms"]}
            )
    print(", ".join(map(str, step_time.facts().values())))
    shown = [
        (row["system"], row["members"] or "alone", *(f"{row[name]:.2f}" for name in ("median_ms", "min_ms", "max_ms")),
         f"{row['pays']:.2f}")
        for row in rows
    ]  # fmt: skip
    print(timing.table(("system", "members", "ms per member and turn: median", "min", "max", "pays"), shown))
    timing.write(arguments.json, timing.machine() | step_time.facts() | {"rows": rows})


def compiled(config: ConfigDict, count: int) -> timing.Play:
    """The turn of `count` runs of a config with the seeds 0 .. count - 1, ready to be played."""
    mesh = sharding.device_mesh()
    dataset = data.open_dataset(config.data)
    setup = step_time.build_setup(config, dataset)
    setups = [
        dataclasses.replace(setup, options=dataclasses.replace(setup.options, seed=seed)) for seed in range(count)
    ]
    source, layout = sources.Resident(dataset, setup.options, mesh), population.sharding_of(mesh, count)
    step = population.compile_members(setups, source, mesh, layout)
    arrays, _ = source.take()
    state = jax.jit(population.stacked, out_shardings=layout)([one.initial_state() for one in setups])
    return step_time.player(step, state, arrays)


if __name__ == "__main__":
    cli.run(main)
