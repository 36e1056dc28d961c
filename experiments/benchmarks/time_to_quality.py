"""How good are samples after a minute, and after five minutes, here and with a DCGAN in PyTorch?

python -m experiments.benchmarks.time_to_quality
python -m experiments.benchmarks.time_to_quality --seconds 60 300 --seeds 0 1 2 --json=time_to_quality.json
python -m experiments.benchmarks.time_to_quality --ours_only --override data.name=cifar10 data.channels=1

Our run is launched as a user launches it, with start-up and compilation and an empty compilation cache, and gets
SIGTERM after the given seconds. PyTorch's DCGAN is the authors' (width 64, Adam 2e-4, batch 64), tuned for speed (fused
Adam, channels_last), and has the same number of seconds from the launch of its process. Then both generate the same
number of samples without a time limit. The metric is `fd_classifier` against MNIST's test split (docs/evaluation.md),
and the same metric of as many real training images is its baseline. MNIST is decoded, and the classifier trained,
before the time starts.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cli
from experiments.benchmarks import timing
from experiments.benchmarks.systems import ROOT, load, need_torch

TORCH_OVERRIDES = ("generator.width=64", "discriminator.width=64", "ema_halflife=0.0")


def main() -> None:
    """Parses the flags, launches, evaluates, prints a table and writes JSON."""
    arguments = parse()
    if not arguments.ours_only:
        need_torch()
    if arguments.torch:
        train_torch(arguments)
        return
    from gan.evaluation import evaluator as evaluators  # late: the process of PyTorch does not need JAX
    from gan.evaluation.options import evaluation_options

    changes = [*arguments.override, "evaluation.metrics=('frechet',)", f"evaluation.num_samples={arguments.samples}"]
    evaluator = evaluators.create(evaluation_options(load(arguments.config, changes)), seed=0)
    metric, baseline = evaluator.selection_metric, evaluator.real_baseline()[evaluator.selection_metric]
    rows = []
    with tempfile.TemporaryDirectory(prefix="gan-bench-") as folder:
        for seconds in arguments.seconds:
            for seed in arguments.seeds:
                rows.append(measure_ours(arguments, evaluator, Path(folder), seconds, seed))
                if not arguments.ours_only:
                    rows.append(measure_torch(arguments, evaluator, Path(folder), seconds, seed))
    record = timing.machine() | {"config": arguments.config, "override": arguments.override}
    record |= {"real_training_images": baseline, "rows": rows}
    timing.write(arguments.json, record)
    print(f"{arguments.config} and PyTorch's DCGAN; {metric} of real training images: {baseline:.2f}\n")
    print_table(arguments, rows, baseline)


def measure_ours(arguments: argparse.Namespace, evaluator: Any, folder: Path, seconds: float, seed: int) -> dict:
    """Trains and evaluates our config."""
    from gan.inference.model import load

    workdir = folder / f"ours-{seconds}-{seed}"
    steps = train_ours(arguments, workdir, seconds, seed)
    model = load(workdir)
    return row("ours", seconds, seed, steps, evaluator.compute(model.game, model.ema)[evaluator.selection_metric])


def measure_torch(arguments: argparse.Namespace, evaluator: Any, folder: Path, seconds: float, seed: int) -> dict:
    """Trains PyTorch's DCGAN in a process of its own, and evaluates its samples."""
    file = folder / f"torch-{seconds}-{seed}.npz"
    flags = {"torch": file, "seconds": seconds, "seeds": seed, "samples": arguments.samples}
    launch(*(f"--{name}={value}" for name, value in flags.items()))
    with np.load(file, allow_pickle=False) as saved:
        images, steps = saved["images"], int(saved["steps"])
    metrics = evaluator.compute_from_images(images, np.zeros(len(images), np.int32))
    return row("PyTorch", seconds, seed, steps, metrics[evaluator.selection_metric])


def print_table(arguments: argparse.Namespace, rows: list[dict], baseline: float) -> None:
    """Prints medians over seeds, and how both sides compare."""
    cells = []
    for seconds in arguments.seconds:
        medians = {}
        for side in ("ours",) if arguments.ours_only else ("ours", "PyTorch"):
            chosen = [entry for entry in rows if (entry["side"], entry["seconds"]) == (side, seconds)]
            values = [entry["value"] for entry in chosen]
            medians[side] = statistics.median(values)
            steps = statistics.median(entry["steps"] for entry in chosen)
            spread = f"{min(values):.2f}", f"{max(values):.2f}"
            cells.append((f"{side}, {seconds:g} s", f"{steps:.0f}", f"{medians[side]:.2f}", *spread))
        ratio = "" if arguments.ours_only else f"PyTorch's is {medians['PyTorch'] / medians['ours']:.0f} times ours, "
        print(f"after {seconds:g} s: {ratio}ours {medians['ours'] / baseline:.1f} times that of real training images")
    print(timing.table(("program", "steps", "median", "min", "max"), cells))


def parse() -> argparse.Namespace:
    """The flags."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--config", default="configs/fast_mnist.py", help="our config, FILE or FILE:ARG")
    parser.add_argument("--override", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of our config")
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0], help="wall time from launch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--ours_only", action="store_true", help="do not train with PyTorch")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--torch", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def row(side: str, seconds: float, seed: int, steps: int, value: float) -> dict:
    """The record of one run."""
    return {"side": side, "seconds": seconds, "seed": seed, "steps": steps, "value": value}


def train_ours(arguments: argparse.Namespace, workdir: Path, seconds: float, seed: int) -> int:
    """Launches a run and stops it after `seconds`. Returns its steps."""
    command = [sys.executable, "-m", "gan.main", f"--config={arguments.config}", f"--workdir={workdir}",
               f"--config.seed={seed}", *(f"--config.{override}" for override in arguments.override)]  # fmt: skip
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    if process.returncode not in (0, 128 + signal.SIGTERM):
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{errors}")
    return max(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit())


def launch(*flags: str) -> None:
    """Runs this module in a process of its own."""
    subprocess.run([sys.executable, "-m", "experiments.benchmarks.time_to_quality", *flags], cwd=ROOT, check=True)


def train_torch(arguments: argparse.Namespace) -> None:
    """PyTorch's side: trains for the given seconds since launch, and saves its samples."""
    start = time.time()
    from experiments.benchmarks.torch import peers
    from gan import data

    (seconds,), (seed,) = arguments.seconds, arguments.seeds
    config = load("configs/dcgan.py:mnist", [*TORCH_OVERRIDES, f"seed={seed}"])
    peers.torch.manual_seed(seed)
    program = peers.Program(config, data.open_dataset(config.data).arrays()[0], "fused+channels_last")
    steps = 0
    while time.time() < start + seconds:
        program.time_steps(1)
        steps += 1
    np.savez(arguments.torch, images=program.samples(arguments.samples), steps=steps)


if __name__ == "__main__":
    cli.run(main)
