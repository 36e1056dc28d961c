"""Image grids and plots: PNG files of samples, of points in the plane and of losses, and the animation of a run."""

import json
import logging
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gan.io import animation
from gan.io.atomic import replacing

logger = logging.getLogger(__name__)

PICTURE_SIDE = 768
"""Pixels of the longer side of a picture of pairs, at least."""
MARK = (230, 0, 0)
"""The color of the lines around a marked pair."""
LETTER_WIDTH, LINE_HEIGHT = 6, 15
"""Pixels of PIL's own font."""


MAX_FRAMES, MAX_FRAME_SIDE = 100, 640
"""Of an animation: evenly spaced images are shown where there are more, and reduced to this number of pixels."""


class Landscape(NamedTuple):
    """The discriminator's logits and the generator's gradients at points of the plane."""

    plane: np.ndarray
    """The points [S, S, 2], see `plane`."""
    logits: np.ndarray
    """The discriminator's logits, [S, S]."""
    descent: np.ndarray
    """The negative gradient of the generator's loss with respect to a sample there, [S, S, 2]."""


def grid(images: np.ndarray, columns: int = 0) -> np.ndarray:
    """An image grid [H', W', C] of uint8 [N, H, W, C], with gray lines between them. `columns` 0: nearly square."""
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count * height / width))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), 128, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1) + 1, index % columns * (width + 1) + 1
        sheet[top : top + height, left : left + width] = image
    return sheet


def draw_pairs(pairs: np.ndarray, are_marked: np.ndarray, caption: str) -> np.ndarray:
    """A picture uint8 [H', W', 3] of pairs uint8 [N, 2, H, W, 1 or 3] side by side, below a caption.

    Pairs are separated by lines, red ones around those that are marked, bool [N].
    """
    count, _, height, width, _ = pairs.shape
    color = np.broadcast_to(pairs, (*pairs.shape[:-1], 3))
    columns = math.ceil(math.sqrt(count * height / (2 * width)))
    rows = -(-count // columns)
    line = max(1, height // 32)
    sheet = np.full((rows * (height + 2 * line), columns * (2 * width + 2 * line), 3), 128, np.uint8)
    for index, (sample, nearest) in enumerate(color):
        top, left = index // columns * (height + 2 * line), index % columns * (2 * width + 2 * line)
        if are_marked[index]:
            sheet[top : top + height + 2 * line, left : left + 2 * width + 2 * line] = MARK
        sheet[top + line : top + line + height, left + line : left + line + 2 * width] = np.hstack([sample, nearest])
    scale = -(-PICTURE_SIDE // max(sheet.shape))
    sheet = sheet.repeat(scale, axis=0).repeat(scale, axis=1)
    lines = textwrap.wrap(caption, sheet.shape[1] // LETTER_WIDTH)
    text = Image.new("RGB", (sheet.shape[1], LINE_HEIGHT * len(lines) + 4), "white")
    ImageDraw.Draw(text).multiline_text((2, 2), "\n".join(lines), "black", ImageFont.load_default_imagefont())
    return np.concatenate([np.asarray(text), sheet])


def save_png(path: Path, image: np.ndarray, *, enlarge: bool = True) -> None:
    """Writes an image uint8 [H, W, 1 or 3] as PNG, whole or not at all; a small one is enlarged."""
    png = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    scale = max(1, 1024 // max(png.size)) if enlarge else 1
    png = png.resize((png.width * scale, png.height * scale), Image.Resampling.NEAREST)
    with replacing(path) as tmp:
        png.save(tmp, format="PNG")


def plane(real: np.ndarray, side: int = 41) -> np.ndarray:
    """A square lattice float32 [side, side, 2] around the origin that covers the real points [N, 2]; rows by y."""
    ticks = np.linspace(-1, 1, side, dtype=np.float32) * np.float32(1.25 * np.abs(real).max())
    return np.stack(np.meshgrid(ticks, ticks), axis=-1)


def draw_points(
    samples: np.ndarray, real: np.ndarray | None = None, landscape: Landscape | None = None, title: str = ""
) -> np.ndarray:
    """A plot uint8 [560, 560, 3] of samples [N, 2] (orange), real points (black) and a landscape.

    The gray levels are D's logits, brighter where D finds points more real. The arrows are the directions, without the
    lengths, in which G's loss falls. The limits of the axes are those of the landscape, the same throughout a run.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late, as in draw_losses
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.6), dpi=100)
    axes = figure.add_axes((0.07, 0.05, 0.91, 0.9), title=title, aspect="equal")
    if landscape is not None:
        x, y = np.moveaxis(landscape.plane, -1, 0)
        axes.contourf(x, y, landscape.logits, levels=16, cmap="gray", alpha=0.4)
        length = np.maximum(np.linalg.norm(landscape.descent, axis=-1, keepdims=True), np.finfo(np.float32).tiny)
        sparse = np.s_[1::2, 1::2]
        axes.quiver(
            x[sparse], y[sparse], *np.moveaxis((landscape.descent / length)[sparse], -1, 0),
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
    """Draws `training.gif`, the image grids or plots of points of a run in sequence, at most MAX_FRAMES of them."""
    images = sorted((workdir / "samples").glob("*.png"))
    count = min(len(images), MAX_FRAMES)
    shown = [images[index * (len(images) - 1) // max(count - 1, 1)] for index in range(count)]
    animate(shown, workdir / "training.gif")


def animate(images: Sequence[Path], path: Path, seconds: float = 0.25) -> bool:
    """Writes PNG files of one size as an endless animation, `seconds` per file and two seconds for the last.

    A file that cannot be read is left out, with a warning. Returns whether there was any to write.
    """
    frames = []
    for image in images:
        try:
            frame = animation.reduced(np.asarray(Image.open(image, formats=("PNG",)).convert("RGB")))
            small = Image.fromarray(frame)
            small.thumbnail((MAX_FRAME_SIDE, MAX_FRAME_SIDE), Image.Resampling.BOX)
            frames.append(np.asarray(small))
        except Exception as error:  # PIL raises many kinds
            logger.warning("%s is left out of the animation: %s", image, error)
    if frames:
        animation.save(path, frames, seconds=seconds, hold=2.0)
    return bool(frames)


def draw_losses(workdir: Path) -> None:
    """Draws `losses.png`, both losses over the steps of the run, from `metrics.jsonl`."""
    names = ("step", "discriminator_loss", "generator_loss")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line.keys() >= set(names)]
    if not lines:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late: it takes half a second to load
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    for player in ("discriminator", "generator"):
        axes.plot([line["step"] for line in lines], [line[f"{player}_loss"] for line in lines], label=player)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(workdir / "losses.png") as tmp:
        FigureCanvasAgg(figure).print_png(tmp)


def draw_metrics(path: Path, lines: Sequence[Mapping[str, float]], real: Mapping[str, float]) -> None:
    """Draws a plot of each metric of `lines` over their steps, with that of real images as a dashed line.

    The band of a metric NAME is one standard deviation wide, up and down: of its NAME_sampling_std, or else NAME_std.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late, as in draw_losses
    from matplotlib.figure import Figure

    names = [name for name in lines[0] if name != "step" and not name.endswith("_std")]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 2.8 * rows), layout="constrained")
    steps = [line["step"] for line in lines]
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1, xlabel="step", title=name)
        values = np.array([line.get(name, np.nan) for line in lines], np.float64)
        axes.plot(steps, values, "o-", markersize=3)
        ends = [end for end in ("_sampling_std", "_std") if all(name + end in line for line in lines)]
        if ends:
            deviations = np.array([line[name + ends[0]] for line in lines])
            axes.fill_between(steps, values - deviations, values + deviations, alpha=0.2)
        if name in real:
            axes.axhline(real[name], linestyle="--", linewidth=1, color="gray")
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as tmp:
        FigureCanvasAgg(figure).print_png(tmp)


def draw_spectrum(path: Path, record: dict) -> None:
    """Draws power spectra of data and samples, and their ratio in dB, over the spatial frequency.

    `record` holds the lists `cycles_per_pixel`, `data`, `samples` and `samples_over_data_db`, all of one length.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late, as in draw_losses
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    power, ratio = figure.subplots(1, 2)
    for name, color in (("data", "black"), ("samples", "tab:orange")):
        power.plot(record["cycles_per_pixel"], record[name], label=name, color=color)
    power.set(xlabel="cycles per pixel", ylabel="power", yscale="log")
    power.legend(frameon=False)
    ratio.axhline(0, color="black", linewidth=0.8)
    ratio.plot(record["cycles_per_pixel"], record["samples_over_data_db"], color="tab:orange")
    ratio.set(xlabel="cycles per pixel", ylabel="samples / data (dB)")
    for axes in (power, ratio):
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as tmp:
        FigureCanvasAgg(figure).print_png(tmp)
