"""Runs stages one after the other within a time budget, each in a process of its own that can be killed.

A stage gets the time that it needs at most, or the remaining time. So the first stages run completely, and the budget
is kept by dropping the last ones. A stage that fails, hangs or dies costs the others nothing but its time.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks import timing
from experiments.on_gpu.stage import tail_of
from gan.io import workdir
from gan.io.atomic import write_json

ROOT = Path(__file__).parents[2]
MIN_SECONDS = 10.0
"""No stage is started with less remaining time than this."""

GRACE_SECONDS = 5.0
"""Seconds between SIGTERM and SIGKILL."""


class StageSpec(NamedTuple):
    """A stage that can be run."""

    module: str
    """The module whose `run(stage)` is called."""
    seconds: float
    """The time limit on an H100. It grows if the budget exceeds the sum of all limits."""
    min_seconds: float = 0.0
    """With less remaining time the stage is dropped."""


class Ended(NamedTuple):
    """How a stage ended."""

    name: str
    status: str
    """passed, failed, or dropped."""
    seconds: float
    failure: str
    headline: list[str]
    dropped: list[str]


def run_all(
    specs: Mapping[str, StageSpec], out: Path, *, seconds: float, started: float, flags: Sequence[str] = ()
) -> list[Ended]:
    """Runs the stages within `seconds` from the `time.monotonic()` of `started`; writes `out/summary.json`.

    Args:
      specs: the stages by name, in their order.
      out: the folder for all records, images and logs; created if it does not exist.
      flags: further flags of every stage's process.
    """
    out.mkdir(parents=True, exist_ok=True)
    stretch = max(1.0, seconds / sum(spec.seconds for spec in specs.values()))
    ended = []
    for index, (name, spec) in enumerate(specs.items()):
        left = seconds - (time.monotonic() - started)
        is_last = index == len(specs) - 1
        limit = left if is_last else min(left, stretch * spec.seconds)
        if limit < max(MIN_SECONDS, spec.min_seconds):
            (out / f"{name}.json").unlink(missing_ok=True)  # left by an earlier command
            ended.append(Ended(name, "dropped", 0.0, f"{max(left, 0.0):.0f} s remained of {seconds:.0f}", [], []))
        else:
            print(f"{name}: at most {limit:.0f} s; its log is {out / name}.log", flush=True)
            ended.append(run_one(name, spec.module, out, limit, flags))
        last = ended[-1]
        print(f"{name}: {last.status} after {last.seconds:.0f} s {last.failure}".rstrip(), flush=True)
        record = timing.machine() | {"gpus": gpus(), "versions": workdir.versions(), "seconds_given": seconds}
        record |= {"seconds": round(time.monotonic() - started, 1), "stages": [entry._asdict() for entry in ended]}
        write_json(out / "summary.json", record)
    return ended


def gpus() -> list[str]:
    """Name, memory and driver of each NVIDIA GPU; none if nvidia-smi is missing."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return found.stdout.strip().splitlines()


def run_one(name: str, module: str, out: Path, limit: float, flags: Sequence[str] = ()) -> Ended:
    """Runs one stage in a process group of its own, which is killed after `limit` seconds. Returns how it ended."""
    path, start = out / f"{name}.json", time.monotonic()
    path.unlink(missing_ok=True)
    # The stage is given less time, so that it ends by itself.
    command = [sys.executable, "-m", "experiments.on_gpu.stage", f"--name={name}", f"--module={module}",
               f"--out={out.absolute()}", f"--seconds={limit - GRACE_SECONDS - limit / 20:.1f}", *flags]  # fmt: skip
    with open(out / f"{name}.log", "w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(limit - GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        finally:  # also if this process is interrupted, so that no process of a stage remains
            end_group(process)
    record = _read(path)
    failure = _failure(record, status, limit)
    record |= {"stage": name, "status": "failed" if failure else "passed", "failure": failure}
    record["seconds"] = round(time.monotonic() - start, 1)
    if failure and "traceback" not in record:
        record["traceback"] = tail_of((out / f"{name}.log").read_text(errors="replace"))
    write_json(path, record)
    return Ended(name, record["status"], record["seconds"], failure, record.get("headline", []),
                 record.get("dropped", []))  # fmt: skip


def environment() -> dict[str, str]:
    """The environment of a stage: this project on PYTHONPATH, and the CPU in JAX_PLATFORMS besides a device."""
    variables = dict(os.environ)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), variables.get("PYTHONPATH", "")]))
    platforms = variables.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):
        variables["JAX_PLATFORMS"] = f"{platforms},cpu"
    return variables


def end_group(process: subprocess.Popen) -> None:
    """Ends the process group of a process: SIGTERM, and SIGKILL after GRACE_SECONDS."""
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            if not _is_group_alive(process.pid, 2.0):
                return


def _is_group_alive(group: int, seconds: float) -> bool:
    """Whether a process of the group is still alive after at most so many seconds."""
    end = time.monotonic() + seconds
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        if time.monotonic() > end:
            return True
        time.sleep(0.02)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:  # the process died before it wrote anything
        return {}


def _failure(record: Mapping[str, Any], status: int | None, limit: float) -> str:
    """Why a stage failed, from its record and its exit status (None: it was killed); "" if it passed."""
    if record.get("failure"):
        return record["failure"]
    if status is None:
        return f"it was killed at its limit of {limit:.0f} s"
    if status < 0:
        hint = ", perhaps because memory ran out" if -status == signal.SIGKILL else ""
        return f"it was killed by {signal.Signals(-status).name}{hint}"
    if status or record.get("status") != "passed":
        return f"its process ended with status {status} before the stage did"
    return ""


def table(ended: Sequence[Ended]) -> str:
    """Formats the stages as a table."""
    rows = []
    for stage in ended:
        lines = [stage.failure, *stage.headline, *([f"{len(stage.dropped)} dropped"] if stage.dropped else [])]
        first, *others = [line for line in lines if line] or [""]
        rows.append((stage.name, stage.status, f"{stage.seconds:.0f}", first))
        rows += [("", "", "", line) for line in others]
    heads = ("stage", "status", "seconds", "")
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(3)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]), row[3]]).rstrip()
        for row in [heads, *rows]
    )
