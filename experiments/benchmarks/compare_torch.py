"""How fast is a turn beside the same game in PyTorch, tuned as its users would, and beside what the machine can do?

python -m experiments.benchmarks.compare_torch
python -m experiments.benchmarks.compare_torch --systems dcgan32 dcgan64 --rounds 9 --seconds 2 --json=bench.json

Ours and every variant of PyTorch's are played in turn, `--seconds` each, for several rounds: a row says the median,
the least and the most of them. `times ours` is a program's median over ours. `of the machine` is its share of the
fastest product of two large matrices that either side has shown in these rounds, with the operations of a turn
counted from our program before compilation (see flops.py) for both sides alike. Each side has a process of its own
(see processes.py); `--together` plays both in this one.

`--override compute_dtype=bfloat16` takes both sides to bfloat16, PyTorch's by autocast; the product of matrices then is
one of bfloat16 too. In float32 both sides compute in TF32 on a GPU. What is in a row of PyTorch's: see torch/peers.py
and torch/variants.py. It needs PyTorch: pip install -e '.[peers]'
"""

import argparse
import functools
from pathlib import Path
from typing import Any

from experiments import cli
from experiments.benchmarks import processes, systems, timing

MATRIX_SIDES = {"cpu": 2048}
MATRIX_HELP = "side of the matrices that show the machine's rate; default: 2048 on a CPU, 8192 elsewhere"


def main() -> None:
    """Parses the flags, times every system, prints its table and writes JSON."""
    arguments = parse()
    systems.need_torch()
    place = processes.Here if arguments.together else processes.Apart
    ours, torch = place(processes.Ours), place(processes.Torch)
    try:
        record = timing.machine() | {"ours": ours.ask("facts"), "torch": torch.ask("facts"), "systems": []}
        print(f"{record['cores']} cores; ours {record['ours']}; PyTorch's {record['torch']}")
        for system in arguments.systems:
            found = measure(ours, torch, system, arguments, arguments.override)
            record["systems"].append(found)
            print(f"\n{told(found)}", flush=True)
            timing.write(arguments.json, record)  # after each, for a long run that does not come to its end
    finally:
        ours.close()
        torch.close()


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(systems.SYSTEMS)
    parser.add_argument("--systems", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--variants", nargs="+", default=[], help="of torch/variants.py; default: all that apply")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement, about")
    parser.add_argument("--turns", type=int, default=0, help="of one measurement, in place of its seconds")
    parser.add_argument("--matrix", type=int, default=0, help=MATRIX_HELP)
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE of the config, for all systems")
    parser.add_argument("--together", action="store_true", help="both sides in one process")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(ours: Any, torch: Any, system: str, arguments: argparse.Namespace, overrides: list[str]) -> dict:
    """The record of one system: its programs, each with its times, and what they are set against."""
    asked = (system, overrides, arguments.variants)
    operations = ours.ask("operations", system, overrides)
    prepared = {side: side.ask("prepare", *asked) for side in (ours, torch)}
    mine, theirs = prepared[ours], prepared[torch]
    if theirs.seconds and mine.parameters != theirs.parameters:
        raise ValueError(f"{system} has {mine.parameters} parameters, and {theirs.parameters} in PyTorch")
    plays = {
        name: functools.partial(side.ask, "play", name) for side, found in prepared.items() for name in found.seconds
    }
    seconds = mine.seconds | theirs.seconds
    turns = {name: arguments.turns or timing.steps_in(arguments.seconds, seconds[name]) for name in plays}
    rates, dtype = [], systems.configured(system, overrides).compute_dtype
    size = arguments.matrix or matrix_size(ours.ask("facts")["platform"])

    def product(side: Any, _: int) -> float:
        rates.append(side.ask("matrix_rate", size, dtype))
        return 0.0

    products = {side: functools.partial(product, side) for side in (ours, torch)}
    measured = timing.alternate(plays | products, turns | dict.fromkeys(products, 1), arguments.rounds)
    programs = [{"program": name, "turns": turns[name], **timing.spread(measured[name])} for name in plays]
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
        "refused": theirs.refused,
        "best_torch_over_ours": min((row["times_ours"] for row in programs[1:]), default=None),
    }


def matrix_size(platform: str) -> int:
    """The side of matrices whose product is long beside its launch."""
    return MATRIX_SIDES.get(platform, 8192)


def told(found: dict) -> str:
    """A system's record as a table."""
    rows = [
        (row["program"] if row["program"] == "ours" else f"PyTorch {row['program']}",
         f"{row['median_ms']:.2f}", f"{row['min_ms']:.2f}", f"{row['max_ms']:.2f}",
         f"{1000 * found['images'] / row['median_ms']:.0f}",
         f"{row['times_ours']:.2f}", f"{100 * row['share_of_machine']:.1f}%")
        for row in found["programs"]
    ]  # fmt: skip
    heads = ("program", "ms per turn: median", "min", "max", "images/s", "times ours", "of the machine")
    (generator, discriminator), best = found["parameters"], found["best_torch_over_ours"]
    lines = [
        f"{found['system']}: G {generator:,}, D {discriminator:,} parameters, {found['operations'] / 1e9:.3g} GFLOP "
        f"a turn; the machine's product in {found['compute_dtype']} {found['matrix_rate'] / 1e9:.0f} GFLOP/s",
        timing.table(heads, rows),
        *(f"PyTorch {name} could not be played: {why}" for name, why in found["refused"].items()),
    ]
    return "\n".join(lines + ([f"PyTorch's best takes {best:.2f} times as long as ours"] if best else []))


if __name__ == "__main__":
    cli.run(main)
