"""Is a population cheaper than its members one by one? A turn of each of them, for populations of several sizes.

python -m experiments.benchmarks.populations
python -m experiments.benchmarks.populations --systems mlp_gan dcgan32 --members 2 8 --override generator.width=16

The members are `gan.train.population`'s: they differ in their seeds, have a batch each, and are spread over the devices
where these divide them. Beside them stands the run alone, and each size of population is played in turn with it. A row
says what a member's turn costs, and the ratio is that of a run alone over it: above 1 the population pays.
"""

import argparse
import functools
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import cli
from experiments.benchmarks import step_time, systems, timing
from gan import data, schedules, state
from gan import game as rules
from gan.parallel import compilation, sharding
from gan.train import loop, population


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
    game = rules.build(config, image_shape=dataset.image_shape, num_classes=len(dataset.class_names))
    course, source = schedules.build(config), loop.Resident(dataset, config, mesh)
    state_sharding = population.sharding_of(mesh, count)
    played = compilation.compile_steps(
        functools.partial(
            population.member_steps, game=game, schedules_of_members=[course] * count, batch_of=source.batch_of
        ),
        mesh,
        wrapper="jit",
        batch_size=config.batch_size,
        data_axis=None,
        max_steps=loop.MAX_STEPS_PER_DISPATCH,
        hyperparams=[loop.base_hyperparams(config, course) | {"seed": np.uint32(seed)} for seed in range(count)],
        layout=state_sharding,
        rows_are_split=False,
    )
    arrays, _ = source.take()
    members = [state.create(game, course(0), seed) for seed in range(count)]
    position = jax.jit(population.stacked, out_shardings=state_sharding)(members)

    return step_time.player(played, position, arrays)


if __name__ == "__main__":
    cli.run(main)
