"""Image grids and plots: PNG files of samples, of points in the plane and of losses, and the animation of a run."""

import json
import logging
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gan.io.atomic import replacing

logger = logging.getLogger(__name__)

PICTURE_SIDE = 768
"""Pixels of the longer side of a picture of pairs, at least."""
MARK = (230, 0, 0)
"""The color of the lines around a marked pair."""
LETTER_WIDTH, LINE_HEIGHT = 6, 15
"""Pixels of PIL's own font."""


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


def save_png(path: Path, image: np.ndarray) -> None:
    """Writes an image uint8 [H, W, 1 or 3] as PNG, whole or not at all; a small one is enlarged."""
    png = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    scale = max(1, 1024 // max(png.size))
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
    """Draws `training.gif`, the plots of points of a run in sequence."""
    animate(sorted((workdir / "samples").glob("*.png")), workdir / "training.gif")


def animate(images: Sequence[Path], path: Path, seconds: float = 0.25) -> None:
    """Writes PNG files of one size as an endless GIF, `seconds` per file and two seconds for the last."""
    frames = []
    for image in images:
        try:
            frames.append(Image.open(image, formats=("PNG",)).convert("RGB").quantize(64, dither=Image.Dither.NONE))
        except Exception as error:  # PIL raises many kinds
            logger.warning("%s is left out of the animation: %s", image, error)
    if not frames:
        return
    durations = [round(1000 * seconds)] * (len(frames) - 1) + [2000]
    with replacing(path) as tmp:
        frames[0].save(tmp, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


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
