"""Trains and evaluates the runs that have no record yet, through the functions behind `python -m gan.main`."""

import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from experiments.results import records
from experiments.results.entries import Entry, Section
from experiments.sweep import population_size
from gan import data
from gan.errors import Diverged
from gan.evaluation import command
from gan.parallel import compilation
from gan.train import loop, population
from gan.train.population import End

DIVERGED = 3
"""The exit status of a run that diverged; see gan.main."""

RUNS = Path("runs") / "results"
SAVES = 4
"""Checkpoints of a run, from which it is resumed after it was killed."""


def run(chosen: Sequence[tuple[Section, Entry]], runs: Path, folder: Path) -> int:
    """Trains every seed without a record, and writes its record. Returns 0, or 128 + n after signal n.

    Args:
      chosen: the entries.
      runs: holds a folder for each run. What is there already is resumed, or only evaluated.
      folder: of the records.
    """
    compilation.enable_compilation_cache(data.cache.cache_folder() / "programs")
    for section, entry in chosen:
        seeds = [
            seed for seed in entry.seeds if not (folder / records.file_name(section.name, entry.name, seed)).exists()
        ]
        if seeds and (status := _train(section.name, entry, seeds, runs, folder)):
            return status
        jax.clear_caches()
    return 0


def hardware() -> str:
    """The devices of this process."""
    devices = jax.devices()
    return records.hardware_of_cpu() if devices[0].platform == "cpu" else f"{len(devices)} x {devices[0].device_kind}"


def configured(entry: Entry, seed: int) -> ConfigDict:
    """The config of a run that logs and saves rarely, and draws no images."""
    config = entry.configured(seed)
    config.loggers = ()
    config.sample_every = config.evaluate_every = 0
    config.log_every = max(1, config.steps // 20)
    config.checkpoint_every = max(1, config.steps // SAVES)
    return config


def _train(section: str, entry: Entry, seeds: Sequence[int], runs: Path, folder: Path) -> int:
    """Trains an entry with these seeds and writes their records. Returns 0, or 128 + n after signal n."""
    configs = {seed: configured(entry, seed) for seed in seeds}
    is_population = len(seeds) > 1 and population_size.best(configs[seeds[0]]) > 1
    groups = [list(seeds)] if is_population else [[seed] for seed in seeds]
    for group in groups:
        folders = [runs / f"{section}-{entry.name}-seed{seed}" for seed in group]
        _show(f"{section}/{entry.name}, seed {', '.join(map(str, group))}: {configs[group[0]].steps} steps")
        is_new = not any((one / "metrics.jsonl").exists() for one in folders)
        wall, cpu = time.monotonic(), time.process_time()
        ends = _ends([configs[seed] for seed in group], folders, wall)
        cpu_seconds = time.process_time() - cpu if is_new else 0.0
        for seed, one, end in zip(group, folders, ends, strict=True):
            if end.status not in (0, DIVERGED):
                return end.status
            if end.status == 0 and not (one / "evaluation.json").exists():
                command.evaluate(one, count=None, seed=0)
            make = functools.partial(records.of_run, one, section, entry, seed, hardware=hardware())
            record = make(failure=end.why, cpu_seconds=cpu_seconds, together=len(group))
            _show(f"{records.write(record, folder)}: {record.metrics or record.failure}")
    return 0


def _ends(configs: Sequence[ConfigDict], folders: Sequence[Path], launched: float) -> list[End]:
    """Trains one run, or several as a population, and returns how each ended."""
    if len(configs) > 1:
        return population.train(configs, folders, launched)
    try:
        return [End(loop.train(configs[0], folders[0], launched))]
    except Diverged as error:
        return [End(DIVERGED, f"diverged: {error}")]


def _show(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
