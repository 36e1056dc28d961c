"""Seconds from a launch to its first steps, with an empty compilation cache and with a full one."""

import shutil
from pathlib import Path
from typing import Any

from experiments.on_gpu import runs
from experiments.on_gpu.stage import Stage, StageFailed

CONFIG = "configs/dcgan.py:digits"
TARGETS = {"first": 15.0, "second": 8.0}
"""Seconds to the first log line, after at most `STEPS // 40` steps."""

STEPS = 2000
TINY = {"generator.width": 4, "discriminator.width": 4, "batch_size": 8}


def run(stage: Stage) -> None:
    """Launches twice, the second time with the compilation cache of the first."""
    log, cache = stage.out / f"{stage.name}_run.log", stage.out / "runs" / f"{stage.name}_cache"
    runs.remove(log, cache)
    stage.note(config=CONFIG, targets=TARGETS)
    failures = []
    for launch in TARGETS:
        if stage.left() < runs.GRACE_SECONDS:
            stage.drop(f"{launch} launch")
            continue
        row = _launched(stage, f"{stage.name}_{launch}", cache, log)
        stage.add(launch=launch, **row)
        if row["failure"]:
            failures.append(f"{launch} launch: {row['failure']}")
    shutil.rmtree(cache, ignore_errors=True)
    stage.headline(*(_headline(row) for row in stage.record["rows"] if not row["failure"]))
    if failures:
        raise StageFailed("; ".join(failures))


def _launched(stage: Stage, name: str, cache: Path, log: Path) -> dict[str, Any]:
    folder = stage.out / "runs" / name
    runs.remove(folder)
    overrides = runs.rarely_interrupted(40 if stage.tiny else STEPS) | {"sample_every": 0}
    overrides |= TINY if stage.tiny else {}
    variables = {"JAX_COMPILATION_CACHE_DIR": str(cache.absolute())}
    seconds = stage.left() - runs.GRACE_SECONDS / 2
    ended, found = runs.train(CONFIG, overrides, folder, seconds=seconds, log=log, variables=variables)
    stopped = "the time was over" if ended.is_stopped else ""
    return {"failure": ended.failure or stopped, "status": ended.status, "seconds": ended.seconds, **found}


def _headline(row: dict[str, Any]) -> str:
    return (
        f"{row['launch']} launch: first steps after {row['seconds_to_first_log']:.1f} s "
        f"(target {TARGETS[row['launch']]:g}), {row['ms_per_step']:.2f} ms a step"
    )
