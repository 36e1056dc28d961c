"""What a run shows: `metrics.jsonl`, TensorBoard events, sample grids, loss curves, a progress bar. A leaf."""

import json
import logging
import math
import os
import platform
import struct
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tqdm import tqdm

logger = logging.getLogger(__name__)


class RunWriter:
    """Writes a run's figures and pictures into its folder, from step `step` on.

    What an earlier launch wrote beyond `step` is cut off: every step stands once, in rising order.
    """

    def __init__(self, workdir: Path, *, step: int, total: int):
        self._workdir = workdir
        self._animated = False
        (workdir / "samples").mkdir(exist_ok=True)
        _keep_until(workdir / "metrics.jsonl", step)
        _keep_until(workdir / "evaluations.jsonl", step)
        self._metrics = open(workdir / "metrics.jsonl", "a")  # noqa: SIM115 (open for the length of the run)
        self._events = Events(workdir / "tensorboard", step)
        self._bar = tqdm(
            total=total, initial=step, unit="step", dynamic_ncols=True, smoothing=0.1, disable=not sys.stderr.isatty()
        )

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        self._bar.update(step - self._bar.n)

    def metrics(self, step: int, figures: dict[str, float]) -> None:
        """Records the figures of a step."""
        self._metrics.write(json.dumps({"step": step} | figures) + "\n")
        self._metrics.flush()
        self._events.scalars(step, figures)
        losses = f"D {figures['discriminator_loss']:.3f}, G {figures['generator_loss']:.3f}"
        if self._bar.disable:
            left = (self._bar.total - step) * figures["seconds_per_step"]
            print(
                f"step {step} of {self._bar.total}, {figures['images_per_second']:.0f} images/s, "
                f"{_duration(left)} left, {figures['share_waiting_for_data']:.1%} waiting for data, losses {losses}",
                file=sys.stderr,
                flush=True,
            )
        else:
            self._bar.set_postfix_str(losses)

    def evaluation(self, step: int, figures: dict[str, float]) -> None:
        """Records the figures of an evaluation."""
        with open(self._workdir / "evaluations.jsonl", "a") as lines:
            lines.write(json.dumps({"step": step} | figures) + "\n")
        self._events.scalars(step, {f"evaluation/{name}": value for name, value in figures.items()})

    def evaluations(self) -> list[dict[str, float]]:
        """The figures of all evaluations so far."""
        path = self._workdir / "evaluations.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def samples(self, step: int, images: np.ndarray, columns: int = 0) -> None:
        """Saves a grid of the samples uint8 [N, H, W, C] of a step, see `grid`."""
        picture = grid(images, columns)
        save_png(self._workdir / "samples" / f"{step:08d}.png", picture)
        self._events.image(step, "samples", picture)

    def points(self, step: int, samples: np.ndarray, real: np.ndarray, landscape: "Landscape") -> None:
        """Saves a picture of the samples [N, 2] of a step; at the end of the run they become one animation."""
        picture = draw_points(samples, real, landscape, title=f"step {step}")
        save_png(self._workdir / "samples" / f"{step:08d}.png", picture)
        self._events.image(step, "samples", picture)
        self._animated = True

    def close(self) -> None:
        """Ends the files, draws the curves of both losses, and shows pictures of points in a row."""
        self._bar.close()
        try:
            self._metrics.close()
        finally:  # a disk that is full refuses each of them what it still held
            self._events.close()
        draw_losses(self._workdir)
        if self._animated:
            draw_animation(self._workdir)


class Events:
    """TensorBoard's file of events, written where it is told to, so that what goes wrong comes out there.

    (tensorboardX's own writer leaves that to a thread: when a full disk has ended it, the run waits for it for ever.)
    Records are framed as TFRecords: length uint64, its CRC, content, its CRC.
    """

    def __init__(self, folder: Path, step: int):
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}"
        self._file = open(folder / name, "wb")  # noqa: SIM115 (open for the length of the run)
        self._write(0, file_version="brain.Event:2")
        if step:  # TensorBoard then forgets what an earlier launch wrote after it
            self._write(step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, figures: dict[str, float]) -> None:
        """Figures of a step."""
        for name, value in figures.items():
            self._write(step, summary=summary.scalar(name, value))
        self._file.flush()

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture uint8 [H, W, C] of a step."""
        self._write(step, summary=summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    def _write(self, step: int, **content: object) -> None:
        record = Event(step=step, wall_time=time.time(), **content).SerializeToString()
        length = struct.pack("<Q", len(record))
        for part in (length, record):
            self._file.write(part + struct.pack("<I", masked_crc32c(part)))


def finish(workdir: Path, *, is_of_points: bool) -> None:
    """Draws what a complete run's last launch was kept from drawing: losses that are older than its figures, a GIF."""
    metrics, losses = workdir / "metrics.jsonl", workdir / "losses.png"
    if metrics.exists() and not _is_younger(losses, metrics):
        draw_losses(workdir)
    pictures = sorted((workdir / "samples").glob("*.png"))
    if is_of_points and pictures and not _is_younger(workdir / "training.gif", pictures[-1]):
        draw_animation(workdir)


class Landscape(NamedTuple):
    """What two players make of the plane."""

    plane: np.ndarray
    """Where: points [S, S, 2], see `plane`."""
    logits: np.ndarray
    """The discriminator's, [S, S]."""
    pull: np.ndarray
    """The way in which the generator's loss of a sample falls, [S, S, 2]."""


def progress(parts: Iterable, *, total: int, what: str) -> Iterable:
    """The parts, with a bar on a terminal while they come."""
    return tqdm(parts, total=total, desc=what, leave=False, disable=not sys.stderr.isatty())


def grid(images: np.ndarray, columns: int = 0) -> np.ndarray:
    """Images uint8 [N, H, W, C] in rows of `columns`, with a grey line between them: [H', W', C]; 0: nearly square."""
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count * height / width))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), 128, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1) + 1, index % columns * (width + 1) + 1
        sheet[top : top + height, left : left + width] = image
    return sheet


def save_png(path: Path, image: np.ndarray) -> None:
    """Writes an image uint8 [H, W, 1 or 3], whole or not at all; small ones are enlarged to be seen."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    scale = max(1, 1024 // max(picture.size))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    draft = path.with_suffix(".tmp")
    picture.save(draft, format="PNG")
    draft.replace(path)


def plane(real: np.ndarray, side: int = 41) -> np.ndarray:
    """A square lattice around the real points [N, 2], centered on the origin: float32 [side, side, 2], rows by y."""
    ticks = np.linspace(-1, 1, side, dtype=np.float32) * np.float32(1.25 * np.abs(real).max())
    return np.stack(np.meshgrid(ticks, ticks), axis=-1)


def draw_points(
    samples: np.ndarray, real: np.ndarray | None = None, landscape: Landscape | None = None, title: str = ""
) -> np.ndarray:
    """Samples [N, 2] (orange) over real points (black), D's level sets (the brighter, the more real) and G's pulls.

    Arrows show directions only. The frame is that of the landscape: the same all through a run. uint8 [560, 560, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late, as in draw_losses
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.6), dpi=100)
    axes = figure.add_axes((0.07, 0.05, 0.91, 0.9), title=title, aspect="equal")
    if landscape is not None:
        x, y = np.moveaxis(landscape.plane, -1, 0)
        axes.contourf(x, y, landscape.logits, levels=16, cmap="gray", alpha=0.4)
        length = np.maximum(np.linalg.norm(landscape.pull, axis=-1, keepdims=True), np.finfo(np.float32).tiny)
        sparse = np.s_[1::2, 1::2]
        axes.quiver(
            x[sparse], y[sparse], *np.moveaxis((landscape.pull / length)[sparse], -1, 0),
            color="tab:blue", alpha=0.6, scale=40, width=0.002,
        )  # fmt: skip
        axes.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
    if real is not None:
        axes.plot(*real.T, ".", color="black", markersize=2)
    axes.plot(*samples.T, ".", color="tab:orange", markersize=3, markeredgewidth=0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_animation(workdir: Path) -> None:
    """Draws `training.gif`, the pictures of points of a run in a row."""
    animate(sorted((workdir / "samples").glob("*.png")), workdir / "training.gif")


def animate(pictures: Sequence[Path], path: Path, seconds: float = 0.25) -> None:
    """Shows pictures of one size in a row, `seconds` each and the last for two, over and over, as a GIF."""
    frames = []
    for picture in pictures:
        try:
            frames.append(Image.open(picture, formats=("PNG",)).convert("RGB").quantize(64, dither=Image.Dither.NONE))
        except Exception as error:  # PIL raises many kinds
            logger.warning("%s is left out of the animation: %s", picture, error)
    if not frames:
        return
    durations = [round(1000 * seconds)] * (len(frames) - 1) + [2000]
    draft = path.with_suffix(".tmp")
    frames[0].save(draft, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    draft.replace(path)


def draw_losses(workdir: Path) -> None:
    """Draws `losses.png`, both players' losses over the run, from `metrics.jsonl`."""
    names = ("step", "discriminator_loss", "generator_loss")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line.keys() >= set(names)]
    if not lines:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late: half a second that a start can do without
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    for player in ("discriminator", "generator"):
        axes.plot([line["step"] for line in lines], [line[f"{player}_loss"] for line in lines], label=player)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    draft = workdir / "losses.tmp"
    FigureCanvasAgg(figure).print_png(draft)
    draft.replace(workdir / "losses.png")


def _keep_until(path: Path, step: int) -> None:
    """Drops the lines after `step`, a last line that a killed process left unfinished, and any that is damaged."""
    if not path.exists():
        return
    kept, damaged = [], []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            figures = json.loads(line)
            if not isinstance(figures, dict) or not all(type(value) in (int, float) for value in figures.values()):
                raise ValueError
            if figures["step"] > step:
                break
        except (ValueError, KeyError, TypeError, RecursionError):
            if line.endswith(b"\n"):
                damaged.append(number)
            continue
        kept.append(line.rstrip(b"\n") + b"\n")
    if damaged:
        logger.warning("%s: left out %d damaged lines, the first is line %d", path, len(damaged), damaged[0])
    draft = path.with_suffix(".tmp")
    draft.write_bytes(b"".join(kept))
    draft.replace(path)


def _is_younger(path: Path, other: Path) -> bool:
    return path.exists() and path.stat().st_mtime_ns >= other.stat().st_mtime_ns


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
