"""How does the cost of a turn grow with the batch, the width and the resolution, ours and PyTorch's best?

python -m experiments.benchmarks.scaling
python -m experiments.benchmarks.scaling --batch 64 256 --width --resolution 32 64 128 --bound=20 --json=growth.json

A DCGAN of width 64 on batches of 64 images of 32x32x3, with one of the three changed at a time; an axis without values
is left out. Each point is measured as compare_torch.py does, in fewer variants. A point whose slowest turn would take
longer than `--bound` seconds, going by the one before it on its axis and the operations of both, is not begun, and that
is said.
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
"""What grows: its values, and the fields of the config that are it."""


def main() -> None:
    """Parses the flags, measures point after point, prints a table and writes JSON."""
    arguments = parse()
    systems.need_torch()
    ours, torch = processes.Apart(processes.Ours), processes.Apart(processes.Torch)
    try:
        record = timing.machine() | {"ours": ours.ask("facts"), "torch": torch.ask("facts"), "points": []}
        left_out = record["left_out"] = []
        for axis, (_, fields) in AXES.items():
            before = None
            for value in sorted(getattr(arguments, axis)):
                overrides = [*arguments.override, *(field.format(value) for field in fields)]
                seconds = foreseen(before, ours.ask("operations", SYSTEM, overrides))
                if seconds > arguments.bound:
                    left_out.append(f"{axis} {value}: a turn would take about {seconds:.0f} s")
                    continue
                try:
                    before = compare_torch.fn(ours, torch, SYSTEM, arguments, overrides)
                except RuntimeError as error:
                    left_out.append(f"{axis} {value}: {str(error).strip().splitlines()[-1]}")
                    break
                record["points"].append({"axis": axis, "value": value} | before)
                print(f"{axis} {value}", file=sys.stderr, flush=True)
                timing.write(arguments.json, record)
    finally:
        ours.close()
        torch.close()
    timing.write(arguments.json, record)
    print(table(record["points"]))
    for line in left_out:
        print(f"left out: {line}")


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for axis, (values, _) in AXES.items():
        parser.add_argument(f"--{axis}", nargs="*", type=int, default=list(values))
    parser.add_argument("--variants", nargs="+", default=["fused", "fused+channels_last"], help="of torch/variants.py")
    parser.add_argument("--bound", type=float, default=10.0, help="seconds that the slowest turn of a point may take")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement, about")
    parser.add_argument("--turns", type=int, default=0, help="of one measurement, in place of its seconds")
    parser.add_argument("--matrix", type=int, default=0, help=compare_torch.MATRIX_HELP)
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE of the config, for all points")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def foreseen(before: dict | None, operations: int) -> float:
    """Seconds that a turn of the slowest program may take, by the point before; 0 where there is none."""
    if before is None:
        return 0.0
    slowest = max(row["median_ms"] for row in before["programs"]) / 1000
    return slowest * operations / before["operations"]


def table(points: list[dict]) -> str:
    """Points as a table: ours beside the variant of PyTorch's with the least median."""
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
