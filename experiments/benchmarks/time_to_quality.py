"""How good are samples after a minute, and after five? Of our config for it, and of PyTorch's DCGAN.

python -m experiments.benchmarks.time_to_quality
python -m experiments.benchmarks.time_to_quality --seconds 60 300 --seeds 0 1 2 --json=time_to_quality.json

A run is launched as its user launches it, start-up and compilation included and no compiled program kept from before,
and gets SIGTERM so many seconds after its launch. PyTorch's DCGAN is the authors' (width 64, Adam 2e-4, batch 64),
tuned for speed (fused Adam, channels_last), and has as many seconds from the launch of its process. Then both draw the
same number of samples, at leisure. The figure is `fd_classifier` against MNIST's test split (docs/evaluation.md),
and beside it stands that of as many real training images. MNIST is decoded and the classifier trained before any clock
starts.
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

import numpy as np

from experiments import cli
from experiments.benchmarks import timing
from experiments.benchmarks.systems import ROOT, load, need_torch

PEER = ("generator.width=64", "discriminator.width=64", "ema_halflife=0.0")


def main() -> None:
    """Parses the flags, launches, evaluates, prints a table and writes JSON."""
    arguments = parse()
    if not arguments.ours_only:
        need_torch()
    if arguments.peer:
        train_peer(arguments)
        return
    from gan.evaluation import evaluator  # late: a peer's process has no use for JAX
    from gan.inference import sampling  # late: a peer's process has no use for JAX

    config = load(arguments.config, ["evaluation.metrics=('frechet',)", f"evaluation.num_samples={arguments.samples}"])
    evaluator = evaluator.Evaluator(config, seed=0)
    floor = evaluator.real_baseline()[evaluator.selection_metric]
    rows = []
    with tempfile.TemporaryDirectory(prefix="gan-bench-") as folder:
        for seconds in arguments.seconds:
            for seed in arguments.seeds:
                run = Path(folder) / f"ours-{seconds}-{seed}"
                steps = train_ours(arguments, run, seconds, seed)
                game, _, ema = sampling.restore(run)
                rows.append(row("ours", seconds, seed, steps, evaluator.compute(game, ema)[evaluator.selection_metric]))
                if arguments.ours_only:
                    continue
                file = Path(folder) / f"peer-{seconds}-{seed}.npz"
                launch(
                    "--peer",
                    str(file),
                    "--seconds",
                    str(seconds),
                    "--seeds",
                    str(seed),
                    "--samples",
                    str(arguments.samples),
                )
                with np.load(file, allow_pickle=False) as kept:
                    figures = evaluator.compute_of(kept["images"], np.zeros(len(kept["images"]), np.int32))
                    rows.append(row("PyTorch", seconds, seed, int(kept["turns"]), figures[evaluator.selection_metric]))
    record = timing.machine() | {"config": arguments.config, "real_training_images": floor, "rows": rows}
    timing.write(arguments.json, record)

    print(
        f"{arguments.config} and PyTorch's DCGAN; {evaluator.selection_metric} of real training images: {floor:.2f}\n"
    )
    cells = []
    for seconds in arguments.seconds:
        medians = {}
        for side in ("ours",) if arguments.ours_only else ("ours", "PyTorch"):
            chosen = [entry for entry in rows if (entry["side"], entry["seconds"]) == (side, seconds)]
            figures = [entry["figure"] for entry in chosen]
            medians[side] = statistics.median(figures)
            turns = statistics.median(entry["turns"] for entry in chosen)
            spread = f"{min(figures):.2f}", f"{max(figures):.2f}"
            cells.append((f"{side}, {seconds:g} s", f"{turns:.0f}", f"{medians[side]:.2f}", *spread))
        beside = "" if arguments.ours_only else f"PyTorch's is {medians['PyTorch'] / medians['ours']:.0f} times ours, "
        print(f"after {seconds:g} s: {beside}ours {medians['ours'] / floor:.1f} times that of real training images")
    print(timing.table(("program", "turns", "median", "min", "max"), cells))


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/fast_mnist.py", help="FILE or FILE:ARG, ours")
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0], help="of wall time, from launch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--ours_only", action="store_true", help="leave PyTorch out")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def row(side: str, seconds: float, seed: int, turns: int, figure: float) -> dict:
    """What one run has reached."""
    return {"side": side, "seconds": seconds, "seed": seed, "turns": turns, "figure": figure}


def train_ours(arguments: argparse.Namespace, workdir: Path, seconds: float, seed: int) -> int:
    """Launches a run and ends it after so many seconds; its turns."""
    command = [sys.executable, "-m", "gan.main", f"--config={arguments.config}", f"--workdir={workdir}",
               f"--config.seed={seed}"]  # fmt: skip
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        _, told = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate()
    if process.returncode not in (0, 128 + signal.SIGTERM):
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{told}")
    return max(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit())


def launch(*flags: str) -> None:
    """Runs this file in a process of its own."""
    subprocess.run([sys.executable, "-m", "experiments.benchmarks.time_to_quality", *flags], cwd=ROOT, check=True)


def train_peer(arguments: argparse.Namespace) -> None:
    """PyTorch's side: trains until the time since launch is over, and keeps its samples."""
    launched = time.time()
    from experiments.benchmarks.torch import peers
    from gan import data

    (seconds,), (seed,) = arguments.seconds, arguments.seeds
    config = load("configs/dcgan.py:mnist", [*PEER, f"seed={seed}"])
    peers.torch.manual_seed(seed)
    program = peers.Program(config, data.open_dataset(config.data).arrays()[0], "fused+channels_last")
    turns = 0
    while time.time() < launched + seconds:
        program.play(1)
        turns += 1
    np.savez(arguments.peer, images=program.samples(arguments.samples), turns=turns)


if __name__ == "__main__":
    cli.run(main)
