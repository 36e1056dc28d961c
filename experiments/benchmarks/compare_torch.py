"""How fast is a training step, compared to an equivalent PyTorch model and to the speed of the machine?

python -m experiments.benchmarks.compare_torch
python -m experiments.benchmarks.compare_torch --systems dcgan32 dcgan64 --rounds 9 --seconds 2 --json=bench.json

Our program and every variant in PyTorch are timed alternately, `--seconds` each, for several rounds. A row has the
median, minimum and maximum over rounds. `times ours` is a program's median divided by ours. `of the machine` is the
rate of a program relative to the fastest product of two large matrices on either side in these rounds; the operations
of a step are counted from our program before compilation (see operations.py) for both sides. Each side has a process
of its own (see processes.py); `--together` runs both in this one.

`--override compute_dtype=bfloat16` switches both sides to bfloat16, PyTorch by autocast, and the product of matrices as
well. In float32 both sides use TF32 on a GPU. See torch/peers.py and torch/variants.py for the PyTorch programs. Needs
PyTorch: pip install -e '.[peers]'
"""

import argparse
import functools
from pathlib import Path
from typing import Any

from experiments import cli
from experiments.benchmarks import processes, systems, timing

MATRIX_SIDES = {"cpu": 2048}
MATRIX_HELP = "size of the matrices that measure the machine's speed; default: 2048 on a CPU, else 8192"


def main() -> None:
    """Parses the flags, times every system, prints its table and writes JSON."""
    arguments = parse()
    systems.need_torch()
    process = processes.SameProcess if arguments.together else processes.OwnProcess
    ours, torch = process(processes.Ours), process(processes.Torch)
    try:
        record = timing.machine() | {"ours": ours.ask("facts"), "torch": torch.ask("facts"), "systems": []}
        print(f"{record['cores']} cores; ours {record['ours']}; PyTorch's {record['torch']}")
        for system in arguments.systems:
            found = measure(ours, torch, system, arguments, arguments.override)
            record["systems"].append(found)
            print(f"\n{format_system(found)}", flush=True)
            timing.write(arguments.json, record)  # after each system, in case the benchmark is stopped
    finally:
        ours.close()
        torch.close()


def parse() -> argparse.Namespace:
    """The flags."""
    parser = cli.Parser(description=__doc__)
    names = list(systems.SYSTEMS)
    parser.add_argument("--systems", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--variants", nargs="+", default=[], help="names of torch/variants.py; default: all that apply")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="approximate length of one measurement")
    parser.add_argument("--steps", type=int, default=0, help="length of one measurement, instead of --seconds")
    parser.add_argument("--matrix", type=int, default=0, help=MATRIX_HELP)
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE of the config, for all systems")
    parser.add_argument("--together", action="store_true", help="both sides in one process")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(ours: Any, torch: Any, system: str, arguments: argparse.Namespace, overrides: list[str]) -> dict:
    """Measures one system: returns the times of its programs and what they are compared to."""
    operations = ours.ask("operations", system, overrides)
    prepared = {side: side.ask("prepare", system, overrides, arguments.variants) for side in (ours, torch)}
    mine, theirs = prepared[ours], prepared[torch]
    if theirs.seconds and mine.parameters != theirs.parameters:
        raise ValueError(f"{system} has {mine.parameters} parameters, and {theirs.parameters} in PyTorch")
    timers = {
        name: functools.partial(side.ask, "time_steps", name)
        for side, found in prepared.items()
        for name in found.seconds
    }
    seconds = mine.seconds | theirs.seconds
    steps = {name: arguments.steps or timing.steps_in(arguments.seconds, seconds[name]) for name in timers}
    rates, dtype = [], systems.configured(system, overrides).compute_dtype
    size = arguments.matrix or matrix_size(ours.ask("facts")["platform"])

    def product(side: Any, _: int) -> float:
        rates.append(side.ask("matrix_rate", size, dtype))
        return 0.0

    products = {side: functools.partial(product, side) for side in (ours, torch)}
    measured = timing.alternate(timers | products, steps | dict.fromkeys(products, 1), arguments.rounds)
    programs = [{"program": name, "steps": steps[name], **timing.spread(measured[name])} for name in timers]
    median = programs[0]["median_ms"]
    for row in programs:
        row["times_ours"] = row["median_ms"] / median
        row["share_of_machine"] = operations / (row["median_ms"] / 1000) / max(rates)
    return {
        "system": system,
        "overrides": overrides,
        "parameters": mine.parameters,
        "images": mine.images,
        "operations": operations,
        "compute_dtype": dtype,
        "matrix_rate": max(rates),
        "programs": programs,
        "failed": theirs.failed,
        "best_torch_over_ours": min((row["times_ours"] for row in programs[1:]), default=None),
    }


def matrix_size(platform: str) -> int:
    """The size of matrices whose product takes much longer than its launch."""
    return MATRIX_SIDES.get(platform, 8192)


def format_system(found: dict) -> str:
    """Formats the record of a system as a table."""
    rows = [
        (row["program"] if row["program"] == "ours" else f"PyTorch {row['program']}",
         f"{row['median_ms']:.2f}", f"{row['min_ms']:.2f}", f"{row['max_ms']:.2f}",
         f"{1000 * found['images'] / row['median_ms']:.0f}",
         f"{row['times_ours']:.2f}", f"{100 * row['share_of_machine']:.1f}%")
        for row in found["programs"]
    ]  # fmt: skip
    heads = ("program", "ms per step: median", "min", "max", "images/s", "times ours", "of the machine")
    (generator, discriminator), best = found["parameters"], found["best_torch_over_ours"]
    lines = [
        f"{found['system']}: G {generator:,}, D {discriminator:,} parameters, {found['operations'] / 1e9:.3g} GFLOP "
        f"a step; matrix product in {found['compute_dtype']} {found['matrix_rate'] / 1e9:.0f} GFLOP/s",
        timing.table(heads, rows),
        *(f"PyTorch {name} failed: {why}" for name, why in found["failed"].items()),
    ]
    return "\n".join(lines + ([f"the fastest PyTorch program takes {best:.2f} times as long as ours"] if best else []))


if __name__ == "__main__":
    cli.run(main)
