"""Runs all benchmarks: prints tables and writes JSON files into a folder.

python -m experiments.benchmarks
python -m experiments.benchmarks --full --out=benchmarks

The benchmarks run one after the other, each in a process of its own. Without `--full` they take minutes: few rounds,
three systems, no torch.compile. Without PyTorch, the benchmarks that need it report that, the others still run, and the
exit status is 2.
"""

import subprocess
import sys
from pathlib import Path

from experiments import cli

SUITE = {
    "step_time": (
        ["--configs", "configs/dcgan.py:digits", "configs/toy.py", "--rounds=3"],
        ["--configs", "configs/dcgan.py:digits", "configs/toy.py", "--rounds=9", "--steps=20"],
    ),
    "compare_torch": (
        ["--systems", "mlp_gan", "conv_gan", "dcgan32", "--rounds=3", "--seconds=0.5", "--variants", "eager", "fused",
         "fused+one_thread", "fused+channels_last"],
        ["--rounds=7", "--seconds=2"],
    ),
    "scaling": (
        ["--batch", "16", "64", "--width", "16", "64", "--resolution", "28", "32", "--rounds=2", "--seconds=0.5"],
        ["--rounds=5", "--bound=30"],
    ),
    "populations": (["--rounds=2", "--seconds=0.5"], ["--systems", "smooth_gan", "mlp_gan", "dcgan32"]),
    "run_costs": ([], ["--steps=1000", "--samples=10000"]),
}  # fmt: skip
"""The modules of the benchmarks, and their flags without and with --full."""


def main() -> int:
    """Runs the benchmarks. Returns the highest of their exit statuses."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all systems and variants, more rounds")
    parser.add_argument("--only", nargs="+", default=list(SUITE), choices=list(SUITE))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="the folder of the JSON files")
    arguments = parser.parse_args()
    worst = 0
    for name in arguments.only:
        command = [sys.executable, "-m", f"experiments.benchmarks.{name}", *SUITE[name][arguments.full]]
        print(f"\n$ python {' '.join(command[1:])}", flush=True)
        worst = max(worst, subprocess.call([*command, f"--json={arguments.out / name}.json"]))
    return worst


if __name__ == "__main__":
    cli.run(main)
