"""What does a run cost beside its turns? Launch, memory, data, sampling, and what is done every so many steps.

python -m experiments.benchmarks.run_costs
python -m experiments.benchmarks.run_costs --config=configs/dcgan.py:mnist --steps=2000 --json=run_costs.json

Launches are real ones of `python -m gan.main`, from the start of the process to the first line of metrics.jsonl: with
nothing kept from before, then with the data decoded, then with the compiled programs kept too, which JAX does where
JAX_COMPILATION_CACHE_DIR is set. The shares of a run's wall time are taken in one run of `--steps` turns with the
config's own logging, pictures, evaluations and checkpoints, scaled down with it. What is asked of the state is waited
for before a clock starts, so that turns still under way count as turns.
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

from experiments.benchmarks import timing, turns
from experiments.benchmarks.systems import ROOT, load
from gan import data, evaluation, loop, sampling

PARTS = {"_log": "logging", "sample": "pictures", "evaluate": "evaluation", "_save": "checkpoints"}
"""What a run does every so many steps, by the method that does it."""


def main() -> None:
    """Parses the flags, launches, runs, prints tables and writes JSON."""
    arguments = parse()
    for name in ("gan", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="gan-bench-") as folder:
        folder = Path(folder)
        launches = launch(arguments, folder)
        streams = {where: rate_of_data(arguments, where) for where in ("resident", "streamed")}
        shares = run(configured(arguments), folder / "run")
        samples = rate_of_samples(folder / "run", arguments.samples)
    record = timing.machine() | turns.facts() | {"config": arguments.config, "override": arguments.override}
    record |= {"launches": launches, "parts": shares, "samples_per_second": samples, "images_per_second": streams}
    timing.write(arguments.json, record)

    print(f"{arguments.config}, {', '.join(map(str, turns.facts().values()))}\n")
    rows = [(what, f"{row['seconds']:.1f}", f"{row['peak_bytes'] / 2**20:.0f}") for what, row in launches.items()]
    print(timing.table(("launch", "seconds to the first step", "peak MiB"), rows), end="\n\n")
    rows = [
        (part, row["calls"], f"{row['seconds']:.2f}", f"{1000 * row['seconds'] / max(1, row['calls']):.1f}",
         f"{100 * row['share']:.1f}%")
        for part, row in shares.items()
    ]  # fmt: skip
    print(timing.table((f"{arguments.steps} steps", "times", "seconds", "ms each", "of the run"), rows), end="\n\n")
    for where, rate in streams.items():
        print(f"{where + ' data':16} {rate:12,.0f} images/s, by themselves")
    print(f"{'samples':16} {samples:12,.0f} images/s")


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/dcgan.py", help="FILE or FILE:ARG")
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE of the config")
    parser.add_argument("--steps", type=int, default=250, help="turns of the run whose parts are timed")
    parser.add_argument("--samples", type=int, default=2000, help="samples to draw, and to evaluate with")
    parser.add_argument("--turns", type=int, default=200, help="turns' worth of data to read")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def configured(arguments: argparse.Namespace) -> ConfigDict:
    """The config with all that is done every so many steps as frequent as in the whole run, for its length."""
    config = load(arguments.config, arguments.override)
    scale = arguments.steps / config.steps
    for field in ("sample_every", "checkpoint_every"):
        config[field] = max(1, round(config[field] * scale))
    config.evaluate_every = config.checkpoint_every
    config.evaluation.num_samples = arguments.samples
    config.steps = arguments.steps
    return config


def launch(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Seconds to the first step and peak memory of fresh processes that find more and more kept."""
    kept = {"GAN_CACHE_DIR": str(folder / "data")}
    programs = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    without = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    (folder / "data").mkdir()
    first = _launched(arguments, folder / "first", kept | without)
    again = _launched(arguments, folder / "again", kept | without)
    _launched(arguments, folder / "keeping", kept | programs)
    found = _launched(arguments, folder / "found", kept | programs)
    return {"nothing kept": first, "data kept": again, "data and programs kept": found}


def _launched(arguments: argparse.Namespace, workdir: Path, environment: dict[str, str]) -> dict[str, float]:
    flags = [f"--config.{change}" for change in arguments.override]
    command = [sys.executable, "-m", "gan.main", f"--config={arguments.config}", f"--workdir={workdir}", *flags,
               "--config.steps=3", "--config.log_every=1"]  # fmt: skip
    lines = workdir / "metrics.jsonl"
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
    ended, status, used = 0, 0, None
    while not ended and not (lines.is_file() and lines.stat().st_size):
        time.sleep(0.005)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    seconds = time.perf_counter() - begun
    told = process.stderr.read()
    if not ended:
        _, status, used = os.wait4(process.pid, 0)  # of this child alone
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not lines.is_file():
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{told}")
    return {"seconds": seconds, "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)}


def run(config: ConfigDict, workdir: Path) -> dict[str, dict[str, float]]:
    """Trains in this process; the calls, seconds and share of the wall time of each part, and of all else."""
    found = {part: {"calls": 0, "seconds": 0.0} for part in PARTS.values()}
    begun, started, played = time.perf_counter(), [], loop._Run.played

    def noted(self: object, step: int, metrics: dict, waited: float) -> None:
        played(self, step, metrics, waited)
        if not started:
            jax.block_until_ready(metrics)
            before = sum(row["seconds"] for row in found.values())  # the picture of step 0 has a row of its own
            started.append(time.perf_counter() - begun - before)

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        stack.enter_context(mock.patch.object(loop._Run, "played", noted))
        for method, part in PARTS.items():
            stack.enter_context(_timed(method, found[part]))
        loop.train(config, workdir, time.time())
    total = time.perf_counter() - begun
    others = started[0] + sum(row["seconds"] for row in found.values())
    found = {
        "start, to the end of the first turn": {"calls": 1, "seconds": started[0]},
        "turns": {"calls": config.steps - 1, "seconds": total - others},
        **found,
    }
    return {part: row | {"share": row["seconds"] / total} for part, row in found.items()}


@contextlib.contextmanager
def _timed(name: str, row: dict[str, float]) -> Iterator[None]:
    original = getattr(loop._Run, name)

    def timed(self: object, *arguments: object) -> None:
        jax.block_until_ready(arguments)
        begun = time.perf_counter()
        original(self, *arguments)
        row["seconds"] += time.perf_counter() - begun
        row["calls"] += 1

    with mock.patch.object(loop._Run, name, timed):
        yield


def rate_of_samples(workdir: Path, count: int) -> float:
    """Samples a second of the run's averaged generator, compiled and with one batch drawn before."""
    game, _, average = sampling.restore(workdir)
    draw = functools.partial(sampling.draw, game, average, seed=0)
    list(draw(count=1))
    begun = time.perf_counter()
    drawn = sum(len(batch["image"]) for batch in draw(count=count))
    return drawn / (time.perf_counter() - begun)


def rate_of_data(arguments: argparse.Namespace, where: str) -> float:
    """Images a second of a run's batches, with nothing else to do: gathered on the device, or read and decoded."""
    config = load(arguments.config, arguments.override)
    dataset = evaluation.open_dataset(config)
    shape = {"seed": config.seed, "batches": config.discriminator_steps, "batch_size": config.batch_size}
    if where == "resident":
        arrays = jax.device_put(dataset.arrays())
        gather = jax.jit(lambda arrays, step: data.gather(*arrays, step=step, **shape))
        batches = (gather(arrays, jax.numpy.int32(step)) for step in itertools.count())
    else:
        batches = map(jax.device_put, data.stream(dataset, first_step=0, last_step=2**31 - 1, **shape))
    jax.block_until_ready(next(batches))
    begun = time.perf_counter()
    for batch in itertools.islice(batches, arguments.turns):
        jax.block_until_ready(batch)
    return arguments.turns * config.discriminator_steps * config.batch_size / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
