"""Launches `python -m gan.main` as a user does, stops it in time, and reads its results."""

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

from experiments.on_gpu.driver import ROOT, gpus
from experiments.results import records

GRACE_SECONDS = 10.0
"""A stopped run saves a checkpoint first; after so many seconds it is killed."""

STOPPED = 128 + signal.SIGTERM
ON_DIGITS = {"data.name": "digits", "data.split": "train"}
"""Fields that replace a config's data by the bundled digits."""


class Launch(NamedTuple):
    """How a launch of `gan.main` ended."""

    status: int | None
    """The exit status; None if it was killed."""
    seconds: float
    is_stopped: bool
    """Whether it was stopped because the time was over."""
    failure: str
    """One line; "" if it ended by itself, or stopped as asked."""


def launch(flags: Sequence[str], *, seconds: float, log: Path, variables: Mapping[str, str] | None = None) -> Launch:
    """Runs `gan.main` for at most `seconds`, then stops it. Its output is appended to `log`.

    `variables` are added to the environment.
    """
    command = [sys.executable, "-m", "gan.main", *flags]
    # Several runs may share a device.
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
        printed = [line.strip() for line in lines.read().splitlines() if line.strip()]
    # Before its first step a run has no handler of the signal.
    expected = (STOPPED, -signal.SIGTERM) if is_stopped else ()
    failure = ""
    if status is None:
        failure = f"it did not stop within {GRACE_SECONDS:g} s of SIGTERM"
    elif status not in (0, *expected):
        line = next(
            (line for line in reversed(printed) if line.startswith(("error:", "diverged:"))), (printed or [""])[-1]
        )
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
    """Trains a config in `folder` for at most `seconds`. Returns how it ended, and its `progress`."""
    flags = [f"--config={config}", f"--workdir={folder}"]
    flags += [f"--config.{field}={_text(value)}" for field, value in overrides.items()]
    ended = launch(flags, seconds=seconds, log=log, variables=variables)
    return ended, progress(folder)


def rarely_interrupted(steps: int) -> dict[str, int]:
    """Fields for a run that rarely logs or samples, and saves only at its end."""
    return {
        "steps": steps,
        "log_every": max(1, steps // 40),
        "sample_every": max(1, steps // 8),
        "checkpoint_every": 0,
    }


def progress(folder: Path) -> dict[str, Any]:
    """The last step of the run in `folder`, and its speed: the median over all log lines but the first."""
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


def copy_images(folder: Path, out: Path, name: str) -> dict[str, Any]:
    """Copies a run's last samples and losses to `out/NAME_*.png`. Returns their names and the samples' step."""
    found = {}
    grids = sorted((folder / "samples").glob("*.png"))
    if grids:
        shutil.copyfile(grids[-1], out / f"{name}_samples.png")
        found |= {"samples": f"{name}_samples.png", "samples_step": int(grids[-1].stem)}
    if (folder / "losses.png").exists():
        shutil.copyfile(folder / "losses.png", out / f"{name}_losses.png")
        found["losses"] = f"{name}_losses.png"
    return found


def write_record(folder: Path, out: Path, section: str, name: str) -> Path:
    """Writes the record of a run with seed 0, complete and evaluated, for docs/results.md. Returns its path.

    Args:
      folder: of the run.
      out: the record is written to its subfolder `results`, from where it can be copied to docs/results.
      section, name: the entry of experiments/results/entries.py.
    """
    found = gpus()
    hardware = f"{len(found)} x {found[0].partition(',')[0]}" if found else records.hardware_of_cpu()
    record = records.of_run(folder, section, records.find(section, name), 0, hardware=hardware)
    return records.write(record, out / "results")


def remove(*paths: Path) -> None:
    """Removes files and folders of an earlier command; a run's folder would be resumed."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
