"""Toy distributions in the plane, where all of a GAN can be seen: mixtures of Gaussians, and a swiss roll.

A point is an image of 1x1 pixel with two channels, float32 and never quantised. A toy is a finite sample, a pure
function of its name and split: it is read, ordered and resumed as every other dataset is.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gan.errors import UserError, lookup

IMAGE_SHAPE = (1, 1, 2)
# Divisible by 8, by 25 and by 36: every mode has its exact share of the points.
POINTS = 100_800
SPLITS = ("train", "test")


class Mixture(NamedTuple):
    """Gaussians of one standard deviation: centers [K, 2], sd, and the share of each in the points [K]."""

    centers: np.ndarray
    sd: float
    shares: np.ndarray


def _ring(weights: Sequence[int]) -> Mixture:
    angles = 2 * np.pi * np.arange(len(weights)) / len(weights)
    shares = np.asarray(weights) / np.sum(weights)
    return Mixture(2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=-1), 0.02, shares)


def _grid(side: int) -> Mixture:
    ticks = 2.0 * np.arange(side) - (side - 1)
    return Mixture(np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2), 0.05, np.full(side**2, 1 / side**2))


MIXTURES: Mapping[str, Mixture] = {"ring8": _ring((1,) * 8), "grid25": _grid(5), "unbalanced": _ring(range(1, 9))}
"""The toys that have modes.

ring8: eight at radius 2, sd 0.02, as in Metz et al. 2017, Unrolled GAN, arXiv:1611.02163, appendix A. Many copies of
it space eight angles over the closed circle, so that the first is also the last; here the eight are distinct.
grid25: five by five from -4 to 4 in steps of 2, sd 0.05, as in Srivastava et al. 2017, VEEGAN, arXiv:1705.07761.
unbalanced: ring8 with shares of 1/36, 2/36, ..., 8/36, counter-clockwise from (2, 0): is what is rare kept?
"""

NAMES = (*MIXTURES, "swissroll")


def swiss_roll(generator: np.random.Generator, count: int) -> np.ndarray:
    """Points [count, 2] of a spiral: (t cos t, t sin t), t uniform in 1.5 pi .. 4.5 pi, noise of sd 0.25, all / 7.5.

    Reference: the toy of Gulrajani et al. 2017, arXiv:1704.00028, which is scikit-learn's roll seen from its end.
    """
    t = 1.5 * np.pi * (1 + 2 * generator.random(count))
    spiral = np.stack([t * np.cos(t), t * np.sin(t)], axis=-1)
    return (spiral + 0.25 * generator.standard_normal((count, 2))) / 7.5


@dataclasses.dataclass(frozen=True)
class Points:
    """One split of a toy, with what a `Dataset` has; images are float32 [N, 1, 1, 2], labels the index of the mode."""

    name: str
    split: str
    class_names: tuple[str, ...]
    fingerprint: str
    _images: np.ndarray = dataclasses.field(repr=False, compare=False)
    _labels: np.ndarray = dataclasses.field(repr=False, compare=False)
    image_shape: tuple[int, int, int] = IMAGE_SHAPE

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """{"image": float32 [1, 1, 2], "label": int32 scalar}; the label is 0 where there are no modes."""
        return {"image": self._images[index], "label": self._labels[index]}

    def read(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The examples at `indices` (a sequence of k): float32 [k, 1, 1, 2] and int32 [k]."""
        indices = np.asarray(indices, np.int64)
        return self._images[indices], self._labels[indices]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The whole split: float32 [N, 1, 1, 2] and int32 [N]."""
        return self._images, self._labels


def load(name: str, split: str = "train", image_size: tuple[int, int] | None = None, channels: int = 0) -> Points:
    """The points of a toy of NAMES; "train" and "test" are two samples of the same distribution.

    Raises:
      UserError: an unknown name or split, or a size or channels, which points do not have.
    """
    lookup(dict.fromkeys(NAMES), name, "config.data.name")
    lookup(dict.fromkeys(SPLITS), split, "config.data.split")
    if image_size or channels:
        field, value, valid = ("image_size", image_size, ()) if image_size else ("channels", channels, 0)
        raise UserError(f"config.data.{field}={value}: the points of {name} are no pictures; expected: {valid}")
    generator = np.random.default_rng(zlib.crc32(f"{name} {split}".encode()))
    mixture = MIXTURES.get(name)
    if mixture is None:
        points, labels = swiss_roll(generator, POINTS), np.zeros(POINTS, np.int32)
    else:
        counts = np.rint(mixture.shares * POINTS).astype(int)
        labels = generator.permutation(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
        points = mixture.centers[labels] + mixture.sd * generator.standard_normal((POINTS, 2))
    images = points.astype(np.float32).reshape(-1, *IMAGE_SHAPE)
    digest = hashlib.sha256(repr((name, split, POINTS)).encode() + images.tobytes() + labels.tobytes())
    modes = () if mixture is None else tuple(str(mode) for mode in range(len(mixture.shares)))
    return Points(name, split, modes, digest.hexdigest()[:32], images, labels)


def is_point(image_shape: Sequence[int]) -> bool:
    """Whether images of this shape [H, W, C] are points of the plane: no picture has two channels."""
    return tuple(image_shape) == IMAGE_SHAPE
