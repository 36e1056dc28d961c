"""What a run writes while it trains: `metrics.jsonl`, `evaluations.jsonl`, sample images and the progress bar."""

import contextlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from gan.errors import UserError
from gan.io import plots
from gan.io.atomic import replacing
from gan.io.loggers import LOGGERS

logger = logging.getLogger(__name__)

EMPTY: Mapping[str, Any] = MappingProxyType({})
LINES = ("metrics.jsonl", "evaluations.jsonl")
"""Files with a line for each step."""


class RunWriter:
    """Writes a run's metrics and sample images into its folder, from step `step` on.

    What an earlier launch wrote after `step` is removed: every step is written once, in ascending order.
    """

    seconds: float
    """The `seconds` of the last step that earlier launches wrote, which this launch counts on from; 0 at first."""

    def __init__(
        self, workdir: Path, *, step: int, total: int, loggers: Sequence[str] = (), config: Mapping[str, Any] = EMPTY
    ):
        """`total` is the last step of the run, `loggers` are names of LOGGERS, and they get the `config`.

        Raises `UserError` where a folder or a link to nothing is in the place of a file.
        """
        self._workdir = workdir
        for path in (workdir / name for name in LINES):
            if os.path.lexists(path) and not path.is_file():
                raise UserError(f"{path} is no file; move it away")
        (workdir / "samples").mkdir(exist_ok=True)
        remove_after(workdir, step)
        self.seconds = max((line.get("seconds", 0.0) for line in _lines(workdir / "metrics.jsonl")), default=0.0)
        self._metrics = open(workdir / "metrics.jsonl", "a")  # noqa: SIM115 (open for the length of the run)
        self._loggers = [LOGGERS[name](workdir, step, config) for name in loggers]
        self._bar = tqdm(
            total=total, initial=step, unit="step", dynamic_ncols=True, smoothing=0.1, disable=not sys.stderr.isatty()
        )

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        self._bar.update(step - self._bar.n)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Writes the metrics of a step."""
        self._metrics.write(json.dumps({"step": step} | values) + "\n")
        self._metrics.flush()
        self._log_scalars(step, values)
        losses = f"D {values['discriminator_loss']:.3f}, G {values['generator_loss']:.3f}"
        if self._bar.disable:
            left = (self._bar.total - step) * values["seconds_per_step"]
            print(
                f"step {step} of {self._bar.total}, {values['images_per_second']:.0f} images/s, "
                f"{_duration(left)} left, {values['share_waiting_for_data']:.1%} waiting for data, losses {losses}",
                file=sys.stderr,
                flush=True,
            )
        else:
            self._bar.set_postfix_str(losses)

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """Writes the metrics of an evaluation."""
        with open(self._workdir / "evaluations.jsonl", "a") as lines:
            lines.write(json.dumps({"step": step} | values) + "\n")
        self._log_scalars(step, {f"evaluation/{name}": value for name, value in values.items()})

    def evaluations(self) -> list[dict[str, float]]:
        """The metrics of all evaluations so far."""
        return _lines(self._workdir / "evaluations.jsonl")

    def samples(self, step: int, images: np.ndarray, columns: int = 0) -> None:
        """Writes an image grid of the samples uint8 [N, H, W, C] of a step, see `plots.grid`."""
        image = plots.grid(images, columns)
        plots.save_png(self._workdir / "samples" / f"{step:08d}.png", image)
        self._log_image(step, image)

    def points(self, step: int, samples: np.ndarray, real: np.ndarray, landscape: plots.Landscape) -> None:
        """Writes a plot of the samples [N, 2] of a step."""
        image = plots.draw_points(samples, real, landscape, title=f"step {step}")
        plots.save_png(self._workdir / "samples" / f"{step:08d}.png", image)
        self._log_image(step, image)

    def close(self) -> None:
        """Closes the files, plots both losses, and makes an animation of the samples."""
        self._bar.close()
        with contextlib.ExitStack() as ends:  # on a full disk closing a file raises, and the others are closed
            ends.callback(self._metrics.close)
            for each in self._loggers:
                ends.callback(each.close)
        finish(self._workdir)

    def _log_scalars(self, step: int, values: dict[str, float]) -> None:
        for each in self._loggers:
            each.scalars(step, values)

    def _log_image(self, step: int, image: np.ndarray) -> None:
        for each in self._loggers:
            each.image(step, "samples", image)


def remove_after(workdir: Path, step: int) -> None:
    """Removes from a run's folder all that was written after `step`, in a history that the run does not continue.

    That is, where a run resumes from an earlier checkpoint, or from the start: lines of metrics and of evaluations,
    sample images, checkpoints in `best/`, and the plot and the animation that show them.
    """
    for name in LINES:
        if _keep_until(workdir / name, step):
            (workdir / "losses.png").unlink(missing_ok=True)
    for image in _of_later_steps(workdir / "samples", step):
        image.unlink(missing_ok=True)
        (workdir / "training.gif").unlink(missing_ok=True)
    for best in _of_later_steps(workdir / "best", step):
        shutil.rmtree(best)


def _of_later_steps(folder: Path, step: int) -> list[Path]:
    """The files and folders in `folder` that are named after a step beyond `step`."""
    return [path for path in folder.glob("*") if path.stem.isdecimal() and int(path.stem) > step]


def finish(workdir: Path) -> None:
    """Makes the plot of the losses and the animation of the samples, where they are missing or older than these."""
    metrics, losses = workdir / "metrics.jsonl", workdir / "losses.png"
    if metrics.exists() and not _is_newer(losses, metrics):
        plots.draw_losses(workdir)
    images = sorted((workdir / "samples").glob("*.png"))
    if images and not _is_newer(workdir / "training.gif", images[-1]):
        plots.draw_animation(workdir)


def _lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _keep_until(path: Path, step: int) -> bool:
    """Removes the lines after `step`, a last line that a killed process left incomplete, and damaged lines.

    Returns whether there were lines after `step`.
    """
    if not path.exists():
        return False
    kept, damaged, is_cut = [], [], False
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            if not isinstance(values, dict) or not all(type(value) in (int, float) for value in values.values()):
                raise ValueError
            if values["step"] > step:
                is_cut = True
                break
        except (ValueError, KeyError, TypeError, RecursionError):
            if line.endswith(b"\n"):
                damaged.append(number)
            continue
        kept.append(line.rstrip(b"\n") + b"\n")
    if damaged:
        logger.warning("%s: removed %d damaged lines, the first is line %d", path, len(damaged), damaged[0])
    with replacing(path) as tmp:
        tmp.write_bytes(b"".join(kept))
    return is_cut


def _is_newer(path: Path, other: Path) -> bool:
    return path.exists() and path.stat().st_mtime_ns >= other.stat().st_mtime_ns


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
