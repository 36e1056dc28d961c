"""What a run shows: `metrics.jsonl`, TensorBoard events, sample grids, loss curves, a progress bar. A leaf."""

import json
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter
from tqdm import tqdm


class Report:
    """Writes a run's figures and pictures into its folder, from step `step` on.

    What an earlier launch wrote beyond `step` is cut off: every step stands once, in rising order.
    """

    def __init__(self, workdir: Path, *, step: int, total: int):
        self._workdir = workdir
        (workdir / "samples").mkdir(exist_ok=True)
        _keep_until(workdir / "metrics.jsonl", step)
        self._metrics = open(workdir / "metrics.jsonl", "a")  # noqa: SIM115 (open for the length of the run)
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1 if step else None)
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
        for name, value in figures.items():
            self._events.add_scalar(name, value, step)
        losses = f"D {figures['discriminator_loss']:.3f}, G {figures['generator_loss']:.3f}"
        if self._bar.disable:
            left = (self._bar.total - step) * figures["seconds_per_step"]
            print(
                f"step {step} of {self._bar.total}, {figures['images_per_second']:.0f} images/s, "
                f"{_duration(left)} left, losses {losses}",
                file=sys.stderr,
                flush=True,
            )
        else:
            self._bar.set_postfix_str(losses)

    def samples(self, step: int, images: np.ndarray) -> None:
        """Saves a grid of the samples uint8 [N, H, W, C] of a step."""
        picture = grid(images)
        save_png(self._workdir / "samples" / f"{step:08d}.png", picture)
        self._events.add_image("samples", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Ends the files and draws the curves of both losses."""
        self._bar.close()
        self._metrics.close()
        self._events.close()
        draw_losses(self._workdir)


def grid(images: np.ndarray) -> np.ndarray:
    """Images uint8 [N, H, W, C] in rows, as nearly square as can be, with a grey line between them: [H', W', C]."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count * height / width))
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


def draw_losses(workdir: Path) -> None:
    """Draws `losses.png`, both players' losses over the run, from `metrics.jsonl`."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
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
    FigureCanvasAgg(figure).print_png(workdir / "losses.png")


def _keep_until(path: Path, step: int) -> None:
    """Drops the lines after `step`, and a last line that a killed process left unfinished."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except ValueError:
            break
        kept.append(line + "\n")
    draft = path.with_suffix(".tmp")
    draft.write_text("".join(kept))
    draft.replace(path)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
