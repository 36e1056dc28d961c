"""The options of a view, and the names of the files that it writes."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gan.errors import UserError
from gan.inference.model import Model
from gan.io import animation

WRITTEN: Mapping[str, tuple[str, ...]] = {
    "interpolation": (".png", ".gif", ".mp4"),
    "directions": (".png", ".npz"),
    "projection": (".png", ".npz", ".gif", ".mp4"),
    "spectrum": (".png", ".json"),
    "timelapse": (".gif", ".mp4"),
}
"""The suffixes of what a view writes; of the views that are not listed, an image."""
MAX_CLASSES = 10
"""Without --classes a view shows at most this many."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a view shows, and where. None: the default of the view."""

    folder: Path
    """Of the run."""
    view: str
    out: Path | None = None
    """A folder, or a file of the kind that the view writes; the view's other files have its stem. None: RUN/explore."""
    seed: int = 0
    classes: Sequence[str] = ()
    truncation: float | None = None
    count: int | None = None
    image: Path | None = None
    path: str | None = None
    method: str = "sefa"
    layers: str | None = None
    extractor: str | None = None
    format: str | None = None
    directions: Path | None = None
    port: int | None = None
    step: int | None = None
    checkpoint: str | None = None

    def number(self, default: int, lowest: int = 1, highest: int = 1000) -> int:
        """`count`, or the default. Raises `UserError` where it is out of range."""
        count = default if self.count is None else self.count
        if not lowest <= count <= highest:
            raise UserError(f"--num_samples={count}; expected with --view={self.view}: {lowest} to {highest}")
        return count

    def animation(self) -> str:
        """The format of the animation: that of `out` where it is one, else `format`, else GIF."""
        suffix = self.out.suffix[1:] if self.out else ""
        of_out = suffix if suffix in animation.FORMATS else None
        if of_out and self.format and of_out != self.format:
            raise UserError(f"--out={self.out} is no {self.format} file; expected: --format={of_out}, or another --out")
        chosen = self.format or of_out or "gif"
        animation.check_format(chosen)
        return chosen

    def stem(self, name: str) -> Path:
        """The path of the view's files without their suffixes; `name` is that of the default. Makes the folder."""
        out, valid = self.out or self.folder / "explore", WRITTEN.get(self.view, (".png",))
        if out.suffix and not out.is_dir():
            if out.suffix not in valid:
                raise UserError(f"--out={out}; expected: a folder, or a file that ends in {', '.join(valid)}")
            stem = out.with_suffix("")
            self._check_replaced(out, [stem.with_suffix(suffix) for suffix in valid])
        else:
            stem = out / name
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out={out} cannot be written: {error.strerror}") from error
        return stem

    def _check_replaced(self, out: Path, files: Sequence[Path]) -> None:
        """Raises `UserError` where a file that --out did not name would be replaced, or the image of --image."""
        for file in files:
            if self.image is not None and file.exists() and file.samefile(self.image):
                raise UserError(f"--out={out} would replace --image={self.image}; expected: another --out")
            if file != out and file.exists() and not out.exists():
                raise UserError(f"--out={out} would also replace {file}; expected: a folder, or another name")


def default_name(options: Options, model: Model) -> str:
    """The name of a view's files: one for each step, seed and choice, so that few overwrite another."""
    parts = [options.view, f"step{model.step}", f"seed{options.seed}"]
    parts += [] if options.truncation is None else [f"truncation{options.truncation:g}"]
    parts += ["classes" + "-".join(map(str, model.class_indices(options.classes)))[:60]] if options.classes else []
    parts += [options.image.stem] if options.image else []
    parts += [options.path] if options.path else []
    parts += [options.method] if options.view == "directions" else []
    parts += [options.layers] if options.layers else []
    return "_".join(parts)


def shown_labels(options: Options, model: Model) -> np.ndarray:
    """The classes that a view shows, int32 [K]: those of --classes, else the first ones; [0] if unconditional."""
    if not model.game.is_conditional:
        if options.classes:
            raise UserError(f"--classes needs a conditional generator; that of {model.source} is unconditional")
        return np.zeros(1, np.int32)
    found = model.class_indices(options.classes) or range(min(model.game.num_classes, MAX_CLASSES))
    return np.asarray(list(found), np.int32)


def sample_codes(options: Options, model: Model, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The latents [N, Z] and labels [N] of the first samples of the seed, whose classes are in turn those shown."""
    labels = np.resize(shown_labels(options, model), count)
    return np.asarray(model.latents(count, seed=options.seed)), labels
