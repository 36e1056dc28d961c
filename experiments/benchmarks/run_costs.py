"""What does a run cost besides its training steps? Launch, memory, data, sampling, and periodic work.

python -m experiments.benchmarks.run_costs
python -m experiments.benchmarks.run_costs --config=configs/dcgan.py:mnist --steps=2000 --json=run_costs.json

Launches are those of `python -m gan.main`, timed from the start of the process to the first line of metrics.jsonl: with
empty caches, then with decoded data, then with decoded data and compiled functions. Training steps, logging, samples,
evaluations and checkpoints are timed in one short run, in which periodic work happens as often as in a full run. `of a
full run` is the share of each in a run of the config's number of steps, at these costs. A config that never evaluates
is assumed to do so at its checkpoints. Periodic work is timed after the state is computed, so that pending training
steps count as training steps.
"""

import argparse
import contextlib
import functools
import itertools
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
from ml_collections import ConfigDict

from experiments import cli
from experiments.benchmarks import program, timing
from experiments.benchmarks.systems import ROOT, load
from gan import data
from gan.inference import model, sampling
from gan.train import loop, recorder

PARTS = {"_log": "logging", "sample": "samples", "evaluate": "evaluation", "save": "checkpoints"}
"""The methods of gan.train.recorder.Recorder that do the periodic work, which are patched to time it, and its names."""


def main() -> None:
    """Parses the flags, launches, runs, prints tables and writes JSON."""
    arguments = parse()
    for name in ("gan", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="gan-bench-") as folder:
        folder = Path(folder)
        launches = launch(arguments, folder)
        streams = {where: rate_of_data(arguments, where) for where in ("resident", "decoded", "encoded")}
        parts = run(configured(arguments), folder / "run")
        samples = rate_of_samples(folder / "run", arguments.samples)
    record = timing.machine() | program.facts() | {"config": arguments.config, "override": arguments.override}
    record |= {"launches": launches, "parts": parts, "samples_per_second": samples, "images_per_second": streams}
    record["shares"] = shares(parts, load(arguments.config, arguments.override))
    timing.write(arguments.json, record)

    print(f"{arguments.config}, {', '.join(map(str, program.facts().values()))}\n")
    rows = [(what, f"{row['seconds']:.1f}", f"{row['peak_bytes'] / 2**20:.0f}") for what, row in launches.items()]
    print(timing.table(("launch", "seconds to the first step", "peak MiB"), rows), end="\n\n")
    rows = [
        (part, row["calls"], f"{row['seconds']:.2f}", f"{1000 * row['seconds'] / max(1, row['calls']):.1f}",
         f"{100 * share:.1f}%")
        for (part, row), share in zip(parts.items(), record["shares"].values(), strict=True)
    ]  # fmt: skip
    heads = (f"{arguments.steps} steps", "times", "seconds", "ms each", "of a full run")
    print(timing.table(heads, rows), end="\n\n")
    for where, rate in streams.items():
        print(f"{where + ' data':16} {rate:12,.0f} images/s, without training")
    print(f"{'samples':16} {samples:12,.0f} images/s")


def parse() -> argparse.Namespace:
    """The flags."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--config", default="configs/dcgan.py:digits", help="FILE or FILE:ARG")
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE of the config")
    parser.add_argument("--steps", type=int, default=250, help="steps of the timed run")
    parser.add_argument("--samples", type=int, default=2000, help="samples to generate, and to evaluate")
    parser.add_argument("--batches", type=int, default=200, help="batches to read in the timing of the data")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def configured(arguments: argparse.Namespace) -> ConfigDict:
    """The config of the short run, with periodic work as often as in a full run."""
    config = load(arguments.config, arguments.override)
    scale = min(1.0, arguments.steps / config.steps)
    for field in ("sample_every", "checkpoint_every"):
        config[field] = max(1, round(config[field] * scale))
    config.evaluate_every = config.checkpoint_every
    config.evaluation.num_samples = arguments.samples
    config.steps = arguments.steps
    return config


def launch(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Seconds to the first step and peak memory of new processes, with more and more in the caches."""
    cache = {"GAN_CACHE_DIR": str(folder / "data")}
    without_compilation_cache = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    (folder / "data").mkdir()
    first = _launched(arguments, folder / "first", cache | without_compilation_cache)
    again = _launched(arguments, folder / "again", cache | without_compilation_cache)
    _launched(arguments, folder / "filling", cache)
    cached = _launched(arguments, folder / "cached", cache)
    return {"empty caches": first, "data cached": again, "data and compiled functions cached": cached}


def _launched(arguments: argparse.Namespace, workdir: Path, environment: dict[str, str]) -> dict[str, float]:
    flags = [f"--config.{change}" for change in arguments.override]
    command = [sys.executable, "-m", "gan.main", f"--config={arguments.config}", f"--workdir={workdir}", *flags,
               "--config.steps=3", "--config.log_every=1"]  # fmt: skip
    lines = workdir / "metrics.jsonl"
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
    ended, status, used = 0, 0, None
    while not ended and not (lines.is_file() and lines.stat().st_size):
        time.sleep(0.005)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    seconds = time.perf_counter() - start
    errors = process.stderr.read()
    if not ended:
        _, status, used = os.wait4(process.pid, 0)  # of this child alone
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not lines.is_file():
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{errors}")
    return {"seconds": seconds, "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)}


def run(config: ConfigDict, workdir: Path) -> dict[str, dict[str, float]]:
    """Trains in this process. Returns how often each part of the run happened, and its seconds."""
    found = {part: {"calls": 0, "seconds": 0.0} for part in PARTS.values()}
    start, first_step, record = time.perf_counter(), [], recorder.Recorder.record

    def record_and_note(self: object, step: int, count: int, metrics: dict, waited: float) -> None:
        record(self, step, count, metrics, waited)
        if not first_step:
            jax.block_until_ready(metrics)
            before = sum(row["seconds"] for row in found.values())  # samples of step 0 are in a row of their own
            first_step.append(time.perf_counter() - start - before)

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        stack.enter_context(mock.patch.object(recorder.Recorder, "record", record_and_note))
        for method, part in PARTS.items():
            stack.enter_context(_timed(method, found[part]))
        loop.train(config, workdir, time.monotonic())
    total = time.perf_counter() - start
    others = first_step[0] + sum(row["seconds"] for row in found.values())
    return {
        "start": {"calls": 1, "seconds": first_step[0]},  # to the end of the first step
        "steps": {"calls": config.steps - 1, "seconds": total - others},
        **found,
    }


def shares(parts: dict[str, dict[str, float]], config: ConfigDict) -> dict[str, float]:
    """The share of each part in the wall time of a full run of a config, at the measured costs."""

    def calls(every: int) -> int:
        return -(-config.steps // every) if every else 0

    times = {
        "start": 1,
        "steps": config.steps - 1,
        "logging": calls(config.log_every),
        "samples": calls(config.sample_every) + bool(config.sample_every),
        "evaluation": calls(config.evaluate_every or config.checkpoint_every),
        "checkpoints": calls(config.checkpoint_every) or 1,
    }
    seconds = {part: times[part] * row["seconds"] / max(1, row["calls"]) for part, row in parts.items()}
    return {part: value / sum(seconds.values()) for part, value in seconds.items()}


@contextlib.contextmanager
def _timed(name: str, row: dict[str, float]) -> Iterator[None]:
    original = getattr(recorder.Recorder, name)

    def timed(self: object, *arguments: object) -> None:
        jax.block_until_ready(arguments)
        start = time.perf_counter()
        original(self, *arguments)
        row["seconds"] += time.perf_counter() - start
        row["calls"] += 1

    with mock.patch.object(recorder.Recorder, name, timed):
        yield


def rate_of_samples(workdir: Path, count: int) -> float:
    """Samples per second of the run's EMA generator, without its compilation."""
    trained = model.load(workdir)
    draw = functools.partial(sampling.draw, trained.game, trained.ema, seed=0)
    list(draw(count=1))
    start = time.perf_counter()
    drawn = sum(len(batch["image"]) for batch in draw(count=count))
    return drawn / (time.perf_counter() - start)


def rate_of_data(arguments: argparse.Namespace, where: str) -> float:
    """Images per second of a run's batches without training: gathered on the device, or streamed to it."""
    config = load(arguments.config, arguments.override)
    dataset = data.open_dataset(config.data)
    shape = {"seed": config.seed, "batches": config.discriminator_steps, "batch_size": config.batch_size}
    if where == "resident":
        arrays = jax.device_put(dataset.arrays())
        gather = jax.jit(lambda arrays, step: data.gather(*arrays, step=step, **shape))
        batches = (gather(arrays, jax.numpy.int32(step)) for step in itertools.count())
    else:
        dataset = data.Decoded(*dataset.arrays()) if where == "decoded" else dataset
        batches = map(jax.device_put, data.stream(dataset, first_step=0, last_step=2**31 - 1, **shape))
    jax.block_until_ready(next(batches))
    start = time.perf_counter()
    for batch in itertools.islice(batches, arguments.batches):
        jax.block_until_ready(batch)
    return arguments.batches * config.discriminator_steps * config.batch_size / (time.perf_counter() - start)


if __name__ == "__main__":
    cli.run(main)
