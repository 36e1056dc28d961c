"""2-D toy distributions, on which every part of a GAN can be plotted: mixtures of Gaussians, and a swiss roll.

A point is stored as an image of 1x1 pixels with two channels, float32, never quantized. A toy dataset is a finite
sample and a pure function of its name and split, so it is read, ordered and resumed like every other dataset.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gan.data.labels import count_labels
from gan.errors import UserError, lookup

IMAGE_SHAPE = (1, 1, 2)
POINTS = 100_800
"""Points per split: divisible by 8, 25 and 36, so that every mode has exactly its share."""
SPLITS = ("train", "test")


class Mixture(NamedTuple):
    """Gaussians with one standard deviation: centers [K, 2], std, and the share of each mode [K]; shares sum to 1."""

    centers: np.ndarray
    std: float
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

ring8: eight modes at radius 2, std 0.02, as in Metz et al. 2017, Unrolled GAN, arXiv:1611.02163, appendix A. Many
  implementations space eight angles over the closed circle, so that the first and the last mode coincide; here the
  eight are distinct.
grid25: 5 x 5 modes from -4 to 4 in steps of 2, std 0.05, as in Srivastava et al. 2017, VEEGAN, arXiv:1705.07761.
unbalanced: ring8 with shares 1/36, 2/36, ..., 8/36, counter-clockwise from (2, 0). It tests whether rare modes are
  kept.
"""

NAMES = (*MIXTURES, "swissroll")


def swiss_roll(rng: np.random.Generator, count: int) -> np.ndarray:
    """Points [count, 2] of a spiral: ((t cos t, t sin t) + noise) / 7.5, t uniform in [1.5 pi, 4.5 pi], noise std 0.25.

    Reference: the toy of Gulrajani et al. 2017, arXiv:1704.00028: two of the three axes of scikit-learn's swiss roll.
    """
    t = 1.5 * np.pi * (1 + 2 * rng.random(count))
    spiral = np.stack([t * np.cos(t), t * np.sin(t)], axis=-1)
    return (spiral + 0.25 * rng.standard_normal((count, 2))) / 7.5


@dataclasses.dataclass(frozen=True)
class Points:
    """One split of a toy, with the interface of `Dataset`: images float32 [N, 1, 1, 2], labels the modes' indices."""

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
        """{"image": float32 [1, 1, 2], "label": int32 scalar}; the label is 0 if the toy has no modes."""
        return {"image": self._images[index], "label": self._labels[index]}

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples at `indices` (length k): float32 [k, 1, 1, 2] and int32 [k]."""
        rows = np.asarray(indices, np.int64)
        return self._images[rows], self._labels[rows]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The whole split: float32 [N, 1, 1, 2] and int32 [N]."""
        return self._images, self._labels

    def class_counts(self) -> tuple[int, ...]:
        """The number of examples of each mode; () for a toy without modes."""
        return count_labels(self._labels, self.class_names)


def load(name: str, split: str = "train", image_size: tuple[int, int] | None = None, channels: int = 0) -> Points:
    """The points of a toy of NAMES; "train" and "test" are two samples of the same distribution.

    Raises:
      UserError: an unknown name or split, or an image size or channels, which points do not have.
    """
    lookup(dict.fromkeys(NAMES), name, "config.data.name")
    lookup(dict.fromkeys(SPLITS), split, "config.data.split")
    if image_size or channels:
        field, value, valid = ("image_size", image_size, ()) if image_size else ("channels", channels, 0)
        raise UserError(f"config.data.{field}={value}: {name} consists of 2-D points, not of images; expected: {valid}")
    rng = np.random.default_rng(zlib.crc32(f"{name} {split}".encode()))
    mixture = MIXTURES.get(name)
    if mixture is None:
        points, labels = swiss_roll(rng, POINTS), np.zeros(POINTS, np.int32)
    else:
        counts = np.rint(mixture.shares * POINTS).astype(int)
        labels = rng.permutation(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
        points = mixture.centers[labels] + mixture.std * rng.standard_normal((POINTS, 2))
    images = points.astype(np.float32).reshape(-1, *IMAGE_SHAPE)
    digest = hashlib.sha256(repr((name, split, POINTS)).encode() + images.tobytes() + labels.tobytes())
    modes = () if mixture is None else tuple(str(mode) for mode in range(len(mixture.shares)))
    return Points(name, split, modes, digest.hexdigest()[:32], images, labels)


def is_point(image_shape: Sequence[int]) -> bool:
    """Whether examples of shape [H, W, C] are 2-D points; no image dataset has two channels."""
    return tuple(image_shape) == IMAGE_SHAPE
