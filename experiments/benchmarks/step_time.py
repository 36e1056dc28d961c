"""How long does a training step take? Times steps of several configs alternately, and prints medians.

python -m experiments.benchmarks.step_time
python -m experiments.benchmarks.step_time --configs configs/dcgan.py:digits --override generator.width=64 --json=a.json
python -m experiments.benchmarks.step_time --override discriminator.batch_norm=False --vary penalties.r1=1.0

Data are resident, and the host waits for the last of `--steps` steps. Each round times every config once, so that a
drift of the machine's speed affects all of them alike. With `--vary` each config is timed as it is and with each of
these changes alone: the last column is the median over rounds of the time relative to the config as it is.
"""

import argparse
import operator
import statistics
from pathlib import Path

from experiments import cli
from experiments.benchmarks import program, timing
from experiments.benchmarks.systems import load


def main() -> None:
    """Parses the flags, times, prints a table and writes JSON."""
    arguments = parse()
    programs, unchanged = {}, {}
    for name in arguments.configs:
        for changes in [[], *([change] for change in arguments.vary)]:
            row = " ".join([name, *changes])
            programs[row], unchanged[row] = program.build(load(name, [*arguments.override, *changes])), name
    timers = {name: one.compile() for name, one in programs.items()}
    measured = timing.alternate(timers, dict.fromkeys(timers, arguments.steps), arguments.rounds)
    rows = []
    for name, seconds in measured.items():
        row = {"config": name, **timing.spread(seconds)}
        row["images_per_second"] = 1000 * programs[name].images / row["median_ms"]
        row["gflop"] = programs[name].operations() / 1e9
        row["relative"] = statistics.median(map(operator.truediv, seconds, measured[unchanged[name]]))
        rows.append(row)
    print(", ".join(map(str, program.facts().values())))
    columns = [(row["config"], *(f"{value:.4g}" for value in list(row.values())[1:])) for row in rows]
    print(timing.table(("config", "ms a step: median", "min", "max", "images/s", "GFLOP a step", "relative"), columns))
    timing.write(arguments.json, timing.machine() | program.facts() | {"rows": rows})


def parse() -> argparse.Namespace:
    """The flags."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument(
        "--configs", nargs="+", default=["configs/dcgan.py:digits"], help="config files, FILE or FILE:ARG"
    )
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE, for all configs")
    parser.add_argument("--vary", nargs="*", default=[], help="FIELD=VALUE, each of them in a row of its own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps of one measurement")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
