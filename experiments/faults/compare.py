"""Whether a run ended as the undisturbed run did: checkpoints, metrics, images and leftovers."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from experiments.faults.bench import TIMEOUT_SECONDS, Bench, Lost, expect_exit, wait_for_exit

TIME_METRICS = {"seconds", "images_per_second", "seconds_per_step", "share_waiting_for_data"}
"""The metrics of a step that differ between any two launches."""


def resume_and_compare(bench: Bench, workdir: Path, *, metrics: bool = True, **fields: object) -> None:
    """Launches the same command again without a fault, and compares its end as `check_same_result` does."""
    expect_exit(wait_for_exit(bench.launch(workdir, **fields)), 0)
    reference = bench.toy_reference if fields.get("config") == "toy" else bench.reference
    check_same_result(workdir, reference, metrics=metrics)


def check_same_result(workdir: Path, reference: Path, *, metrics: bool = True) -> None:
    """Raises `Lost` if a run did not end as the undisturbed run in `reference` did.

    After a launch that was stopped between two logs, the next log averages over fewer steps: pass `metrics=False`.
    """
    if restored_digests(workdir) != restored_digests(reference):
        raise Lost(f"other bits than those of {reference.name}, at step {restored_digests(workdir)[0]}")
    lines, expected = logged_metrics(workdir), logged_metrics(reference)
    if [line["step"] for line in lines] != [line["step"] for line in expected]:
        raise Lost(f"metrics.jsonl has steps {[line['step'] for line in lines]}")
    negative = [line["seconds"] for line in lines if line["seconds"] < 0]
    if negative:
        raise Lost(f"metrics.jsonl has {negative[0]} seconds")
    if metrics and any(_without_times(a) != _without_times(b) for a, b in zip(lines, expected, strict=True)):
        raise Lost("metrics.jsonl has other metrics")
    for path in sorted((reference / "samples").glob("*.png")):
        copy = workdir / "samples" / path.name
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            raise Lost(f"samples/{path.name} is another image")
    for name in ("losses.png", "training.gif"):
        if (reference / name).exists():
            _check_image(workdir / name)
    if left := unfinished_checkpoints(workdir):
        raise Lost(f"{len(left)} unfinished checkpoints are left, such as {left.pop()[0]}")


def restored_digests(workdir: Path) -> tuple[int, dict[str, int]]:
    """The step of the newest checkpoint as it is restored, and the CRC-32 of every array."""
    from absl import logging as absl_logging

    from gan.io import checkpoint

    absl_logging.set_verbosity(absl_logging.ERROR)
    with checkpoint.open_manager(workdir / "checkpoints", read_only=True) as manager:
        state = checkpoint.restore(manager, _abstract_state(workdir))
    if state is None:
        raise Lost("there is no checkpoint")
    return int(state.step), checkpoint.digests(state)


def print_restored_digests(folders: Iterable[str]) -> None:
    """Prints what `restored_digests` returns for each run folder, one JSON line each.

    For a process of its own: restoring a damaged checkpoint may end the process.
    """
    for folder in folders:
        try:
            found = restored_digests(Path(folder))
        except Exception as error:
            found = (-1, {f"{type(error).__name__}: {error}": 0})
        print(json.dumps(found), flush=True)


def _abstract_state(workdir: Path) -> object:
    """The shapes and shardings of a run's state, which a restore needs."""

    from gan import build
    from gan.inference.model import recorded
    from gan.parallel import sharding

    config, dataset = recorded(workdir)
    setup = build.setup(config, image_shape=tuple(dataset["image_shape"]), num_classes=len(dataset["class_names"]))
    return sharding.abstract(setup.shapes, sharding.replicated(sharding.device_mesh()))


def saved_digests(workdir: Path, step: int) -> dict[str, int]:
    """The CRC-32 of every array when it was saved, under the names of `restored_digests`."""
    recorded = json.loads((workdir / "checkpoints" / str(step) / "digests" / "metadata").read_text())
    return recorded["state"] | {f".ema{name}": value for name, value in recorded["ema"].items()}


def logged_metrics(workdir: Path) -> list[dict]:
    """The lines of `metrics.jsonl`; none if there is no file yet. Raises `ValueError` for an unfinished line."""
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def complete_lines(workdir: Path) -> list[dict]:
    """The lines of `metrics.jsonl` without an unfinished last one."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _without_times(line: dict) -> dict:
    return {name: value for name, value in line.items() if name not in TIME_METRICS}


def _check_image(path: Path) -> None:
    from gan.data import pixels

    try:
        pixels.open_image(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise Lost(f"{path.name} is not an image ({error})") from error


def checkpoint_steps(workdir: Path) -> list[int]:
    """The steps of the finished checkpoints, in order."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal())


def unfinished_checkpoints(workdir: Path) -> set[tuple[str, int]]:
    """Checkpoints that are still being written, or never were finished: names and inodes, as names are used again."""
    found = set()
    for path in (workdir / "checkpoints").glob("*tmp*"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ino))
    return found


def wait_for_metrics(process: subprocess.Popen, workdir: Path) -> None:
    """Waits until the run has logged a step. Raises `Lost` if it ends before."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(ValueError):  # a line that is being written
            if any(line["step"] > 0 for line in logged_metrics(workdir)):
                return
        time.sleep(0.005)
    raise Lost(f"no metrics: {wait_for_exit(process, 1).stderr[-500:]}")
