"""Runs of `python -m gan.main` as a user launches them, ended in time, and what they leave behind."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.on_gpu.driver import ROOT

GRACE_SECONDS = 10.0
"""A run that is stopped saves a checkpoint first; after so many seconds it is ended."""

STOPPED = 128 + signal.SIGTERM
ON_DIGITS = {"data.name": "digits", "data.split": "train"}
"""Fields that put the bundled digits in the place of a config's data."""


class Launch(NamedTuple):
    """How a launch of `gan.main` ended."""

    status: int | None
    """Its exit status; None where it had to be ended."""
    seconds: float
    is_stopped: bool
    """Whether it was asked to stop, for its time was over."""
    failure: str
    """One line; empty where it came to its end, or stopped when it was asked to."""


def launch(flags: Sequence[str], *, seconds: float, log: Path, variables: Mapping[str, str] | None = None) -> Launch:
    """Runs `gan.main` with these flags for at most so many seconds, then stops it; its lines are added to `log`.

    `variables` are added to the environment.
    """
    command = [sys.executable, "-m", "gan.main", *flags]
    # Two runs share a device.
    variables = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ | dict(variables or {})
    start, is_stopped = time.monotonic(), False
    with open(log, "a+") as lines:
        first = lines.tell()
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=lines, stderr=subprocess.STDOUT)
        try:
            status = process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            status, is_stopped = _stop(process), True
        lines.seek(first)
        said = [line.strip() for line in lines.read().splitlines() if line.strip()]
    # Before its first step, a run that is asked to stop simply ends.
    expected = (STOPPED, -signal.SIGTERM) if is_stopped else ()
    failure = ""
    if status is None:
        failure = f"it did not stop within {GRACE_SECONDS:g} s of its signal"
    elif status not in (0, *expected):
        line = next((line for line in reversed(said) if line.startswith(("error:", "diverged:"))), (said or [""])[-1])
        failure = f"exit status {status}: {line}"
    return Launch(status, round(time.monotonic() - start, 1), is_stopped, failure)


def _stop(process: subprocess.Popen) -> int | None:
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def train(
    config: str,
    overrides: Mapping[str, Any],
    folder: Path,
    *,
    seconds: float,
    log: Path,
    variables: Mapping[str, str] | None = None,
) -> tuple[Launch, dict[str, Any]]:
    """Trains a config in `folder` for at most so many seconds; how that ended, and what `progress` says of it."""
    flags = [f"--config={config}", f"--workdir={folder}"]
    flags += [f"--config.{field}={_text(value)}" for field, value in overrides.items()]
    ended = launch(flags, seconds=seconds, log=log, variables=variables)
    return ended, progress(folder)


def paced(steps: int) -> dict[str, int]:
    """Fields for a run of so many steps that seldom stops to log or draw, and saves at its end alone."""
    return {
        "steps": steps,
        "log_every": max(1, steps // 40),
        "sample_every": max(1, steps // 8),
        "checkpoint_every": 0,
    }


def progress(folder: Path) -> dict[str, Any]:
    """How far the run in `folder` came, and how fast: the median over its log lines but the first."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    saved = [int(entry.name) for entry in (folder / "checkpoints").glob("*") if entry.name.isdigit()]
    found = {"steps": max([*saved, *(line["step"] for line in lines)], default=0)}
    if lines:
        found |= {"seconds_to_first_log": lines[0]["seconds"], "run_seconds": lines[-1]["seconds"]}
        found |= {name: lines[-1][name] for name in ("discriminator_loss", "generator_loss") if name in lines[-1]}
    if rest := lines[1:]:
        found["ms_per_step"] = 1000 * statistics.median(line["seconds_per_step"] for line in rest)
        found["images_per_second"] = statistics.median(line["images_per_second"] for line in rest)
    return found


def copy_pictures(folder: Path, out: Path, name: str) -> dict[str, Any]:
    """Copies a run's last grid of samples and its losses to `out/NAME_*.png`; their names, and the grid's step."""
    found = {}
    grids = sorted((folder / "samples").glob("*.png"))
    if grids:
        shutil.copyfile(grids[-1], out / f"{name}_samples.png")
        found |= {"samples": f"{name}_samples.png", "samples_step": int(grids[-1].stem)}
    if (folder / "losses.png").exists():
        shutil.copyfile(folder / "losses.png", out / f"{name}_losses.png")
        found["losses"] = f"{name}_losses.png"
    return found


def remove(*paths: Path) -> None:
    """Removes what an earlier command left there: a run's folder would be resumed."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
