"""What the controls of the app show: from seeds, classes and sliders to images, without the page."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.errors import UserError
from gan.game import Normal, Uniform
from gan.inference import codes, directions, interpolation, mixing
from gan.inference.directions import Directions
from gan.inference.model import Model

MAX_SAMPLES = 64
"""Images on the page."""
SIZES = (1, 4, 16, MAX_SAMPLES)
"""Batches that are compiled: an image alone is drawn at once, and no number of images needs a program of its own."""
STEPS = 24
"""Steps of the slider, and frames of the animation, from one image to the other."""
SHOWN_DIRECTIONS = 5
"""Sliders of directions."""


@dataclasses.dataclass(frozen=True, eq=False)
class Editor:
    """A generator with what the controls need. `of` makes one.

    Labels are indices; None: all classes in turn, or of an unconditional generator. `truncation` is psi with styles,
    else the bound of the latents in standard deviations; None: none.
    """

    model: Model
    directions: Directions | None
    """Those that have sliders; None where the network does not state its first layers."""
    mean_style: Array | None
    """[K, L, W] for each class or [1, L, W], to which psi moves the styles; None without styles."""
    groups: Mapping[str, range]
    """The parts of a code that can be mixed; empty where a code has one part."""

    @property
    def truncates(self) -> str:
        """What a truncation is of this generator: "psi", "bound", or "" where there is none."""
        if self.model.game.has_styles:
            return "psi"
        return "bound" if isinstance(self.model.game.prior, Normal) else ""

    def samples(
        self, seed: int, count: int, label: int | None = None, truncation: float | None = None,
        strengths: Sequence[float] = (),
    ) -> np.ndarray:  # fmt: skip
        """Samples uint8 [count, H, W, C] of a seed, each moved along the directions by these strengths."""
        points, labels = self._codes(seed, count, label, truncation)
        if self.directions is not None and any(strengths):
            offset = np.tensordot(np.asarray(strengths, np.float32), self.directions.vectors[: len(strengths)], axes=1)
            points = points + offset[None]
        return self._draw(points, labels)[:count]

    def between(
        self, seeds: tuple[int, int], step: int, label: int | None = None, truncation: float | None = None
    ) -> np.ndarray:
        """Images uint8 [3, H, W, C]: the first sample of each seed, and between them that of a step of 0 to STEPS."""
        points, labels = self._pair(seeds, label, truncation)
        middle = interpolation.path(points, STEPS, kind=self._path())[step]
        return self._draw(jnp.stack([points[0], middle, points[1]]), labels)

    def animation(
        self, seeds: tuple[int, int], label: int | None = None, truncation: float | None = None
    ) -> np.ndarray:
        """Frames uint8 [2 STEPS, H, W, C] from the first sample of one seed to that of the other, and back."""
        points, labels = self._pair(seeds, label, truncation)
        return self._draw(interpolation.path(points, STEPS, kind=self._path(), is_closed=True), labels)

    def mixed(
        self, seeds: tuple[int, int], group: str, label: int | None = None, truncation: float | None = None
    ) -> np.ndarray:
        """Images uint8 [3, H, W, C]: the first with a group of the second's parts between both."""
        points, labels = self._pair(seeds, label, truncation)
        result = mixing.mix(self.model, points[:1], points[1:], group)
        return self._draw(jnp.concatenate([points[:1], result, points[1:]]), labels)

    def _codes(self, seed: int, count: int, label: int | None, truncation: float | None) -> tuple[Array, np.ndarray]:
        """The codes and labels of at least `count` samples: as many as one of SIZES."""
        size, model = _size(count), self.model
        classes = range(max(model.game.num_classes, 1)) if label is None else [label]
        labels = np.resize(np.asarray(classes, np.int32), size)
        if self.mean_style is not None:
            styles = codes.encode(model, model.latents(size, seed=seed), labels)
            psi = 1.0 if truncation is None else truncation  # here, because a psi of the game would be compiled anew
            mean = self.mean_style[labels % len(self.mean_style)]
            return mean + psi * (styles - mean), labels
        bounded = model if truncation is None else model.truncated(truncation)
        return bounded.latents(size, seed=seed), labels

    def _pair(self, seeds: tuple[int, int], label: int | None, truncation: float | None) -> tuple[Array, np.ndarray]:
        """The codes [2, ...] of the first sample of each seed, and their label."""
        points = [self._codes(seed, 1, label or 0, truncation)[0] for seed in seeds]
        return jnp.concatenate(points), np.asarray([label or 0], np.int32)

    def _path(self) -> str:
        """Straight in styles and in uniform latents, whose cube a spherical path would leave."""
        return "linear" if self.model.game.has_styles or isinstance(self.model.game.prior, Uniform) else "slerp"

    def _draw(self, points: Array, labels: np.ndarray) -> np.ndarray:
        count = len(points)
        rows = np.minimum(np.arange(_size(count)), count - 1)
        images = codes.decode(self.model, points[rows], jnp.asarray(np.resize(labels, count)[rows]))
        return jax.device_get(self.model.to_uint8(images))[:count]


def of(model: Model, found: Directions | None = None, method: str = "sefa") -> Editor:
    """The editor of a generator, with these directions, or those that `method` finds ("sefa" or "pca").

    Raises `UserError` for directions of another run.
    """
    if found is None:
        find = {"sefa": directions.sefa, "pca": directions.pca}[method]
        try:
            found = find(model, min(SHOWN_DIRECTIONS, codes.shape(model)[-1]))
        except UserError:  # a network that does not state its first layers
            found = None
    else:
        directions.check(found, model)
    classes = np.arange(max(model.game.num_classes, 1) if model.game.is_conditional else 1)
    mean = model.truncated(0.0).styles(model.latents(len(classes)), classes) if model.game.has_styles else None
    groups = mixing.groups(model) if codes.num_parts(model) > 1 else {}
    return Editor(model, found, mean, groups)


def _size(count: int) -> int:
    return next(size for size in SIZES if size >= count)
