"""How does the time of a training step grow with batch size, width and resolution, here and in PyTorch?

python -m experiments.benchmarks.scaling
python -m experiments.benchmarks.scaling --batch 64 256 --width --resolution 32 64 128 --bound=20 --json=scaling.json

A DCGAN of width 64 on batches of 64 images of 32x32x3, with one of the three changed at a time; an axis without values
is skipped. Each point is measured as in compare_torch.py, with fewer variants. A point is skipped, which is reported,
if a step of its slowest program is predicted to take more than `--bound` seconds; the prediction scales the previous
point of the axis by the operations.
"""

import argparse
import sys
from pathlib import Path

from experiments import cli
from experiments.benchmarks import compare_torch, processes, systems, timing

SYSTEM = "dcgan32"
AXES = {
    "batch": ((16, 32, 64, 128, 256, 512, 1024), ("batch_size={0}",)),
    "width": ((16, 32, 64, 128, 256), ("generator.width={0}", "discriminator.width={0}")),
    "resolution": ((28, 32, 64, 96, 128), ("data.image_size=({0}, {0})",)),
}
"""The axes: default values, and the fields of the config that they set."""


def main() -> None:
    """Parses the flags, measures point after point, prints a table and writes JSON."""
    arguments = parse()
    systems.need_torch()
    ours, torch = processes.OwnProcess(processes.Ours), processes.OwnProcess(processes.Torch)
    try:
        record = timing.machine() | {"ours": ours.ask("facts"), "torch": torch.ask("facts"), "points": []}
        skipped = record["skipped"] = []
        for axis, (_, fields) in AXES.items():
            before = None
            for value in sorted(getattr(arguments, axis)):
                overrides = [*arguments.override, *(field.format(value) for field in fields)]
                seconds = predicted_seconds(before, ours.ask("operations", SYSTEM, overrides))
                if seconds > arguments.bound:
                    skipped.append(f"{axis} {value}: a step would take about {seconds:.0f} s")
                    continue
                try:
                    before = compare_torch.measure(ours, torch, SYSTEM, arguments, overrides)
                except RuntimeError as error:
                    skipped.append(f"{axis} {value}: {str(error).strip().splitlines()[-1]}")
                    break
                record["points"].append({"axis": axis, "value": value} | before)
                print(f"{axis} {value}", file=sys.stderr, flush=True)
                timing.write(arguments.json, record)
    finally:
        ours.close()
        torch.close()
    timing.write(arguments.json, record)
    print(table(record["points"]))
    for line in skipped:
        print(f"skipped: {line}")


def parse() -> argparse.Namespace:
    """The flags."""
    parser = cli.Parser(description=__doc__)
    for axis, (values, _) in AXES.items():
        parser.add_argument(f"--{axis}", nargs="*", type=int, default=list(values))
    parser.add_argument("--variants", nargs="+", default=["fused", "fused+channels_last"], help="of torch/variants.py")
    parser.add_argument("--bound", type=float, default=10.0, help="seconds that a step of the slowest program may take")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="approximate length of one measurement")
    parser.add_argument("--steps", type=int, default=0, help="length of one measurement, instead of --seconds")
    parser.add_argument("--matrix", type=int, default=0, help=compare_torch.MATRIX_HELP)
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE of the config, for all points")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def predicted_seconds(before: dict | None, operations: int) -> float:
    """The predicted seconds of a step of the slowest program, from the previous point; 0 if there is none."""
    if before is None:
        return 0.0
    slowest = max(row["median_ms"] for row in before["programs"]) / 1000
    return slowest * operations / before["operations"]


def table(points: list[dict]) -> str:
    """Formats the points as a table: our program and the fastest variant of PyTorch."""
    rows = []
    for point in points:
        mine, *theirs = point["programs"]
        cells = [f"{point['axis']} {point['value']}", f"{point['operations'] / 1e9:.3g}", *_cells(mine)]
        if theirs:
            best = min(theirs, key=lambda row: row["median_ms"])
            cells += [*_cells(best), f"{best['times_ours']:.2f}", best["program"]]
        rows.append(cells + [""] * (8 - len(cells)))
    heads = ("", "GFLOP", "ours: ms", "of the machine", "PyTorch: ms", "of the machine", "times ours", "variant")
    return timing.table(heads, rows)


def _cells(row: dict) -> tuple[str, str]:
    return f"{row['median_ms']:.2f}", f"{100 * row['share_of_machine']:.1f}%"


if __name__ == "__main__":
    cli.run(main)
