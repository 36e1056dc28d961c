"""StackedMNIST: three random MNIST digits as the channels of one image, which gives 1,000 modes that can be counted.

Reference: Metz et al. 2017, Unrolled GAN, arXiv:1611.02163, section 3.3; Srivastava et al. 2017, VEEGAN,
arXiv:1705.07761, section 4.2.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from gan.data.labels import count_labels

NAME = "stacked_mnist"
COUNTS = {"train": 128_000, "test": 26_000}
"""Images per split: PacGAN trains on 128,000 and evaluates 26,000 samples (Lin et al. 2018, arXiv:1712.04086)."""

CLASS_NAMES = tuple(f"{number:03d}" for number in range(1000))


@dataclasses.dataclass(frozen=True)
class Stacks:
    """One split, with the interface of `Dataset`. An image [H, W, 3] shows the digits of its label, hundreds in red."""

    split: str
    fingerprint: str
    image_shape: tuple[int, int, int]
    _digits: np.ndarray = dataclasses.field(repr=False, compare=False)
    _digit_labels: np.ndarray = dataclasses.field(repr=False, compare=False)
    _triples: np.ndarray = dataclasses.field(repr=False, compare=False)
    name: str = NAME
    class_names: tuple[str, ...] = dataclasses.field(default=CLASS_NAMES, repr=False)

    def __len__(self) -> int:
        return len(self._triples)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """{"image": uint8 [H, W, 3], "label": int32 scalar}."""
        images, labels = self.read([index])
        return {"image": images[0], "label": labels[0]}

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples at `indices` (length k): uint8 [k, H, W, 3] and int32 [k]."""
        triples = self._triples[np.asarray(indices, np.int64)]
        images = np.stack([self._digits[channel, ..., 0] for channel in triples.T], axis=-1)
        return images, self._labels(triples)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The whole split: uint8 [N, H, W, 3] and int32 [N]."""
        return self.read(np.arange(len(self)))

    def class_counts(self) -> tuple[int, ...]:
        """The number of examples of each class."""
        return count_labels(self._labels(self._triples), self.class_names)

    def _labels(self, triples):
        return (self._digit_labels[triples] @ np.array([100, 10, 1])).astype(np.int32)


def stacks(split: str, digits: Any) -> Stacks:
    """StackedMNIST's `split`, a key of COUNTS, built from `digits`, MNIST's split of the same name. Deterministic."""
    images, labels = digits.arrays()
    rng = np.random.default_rng(zlib.crc32(f"{NAME} {split}".encode()))
    triples = rng.integers(0, len(images), (COUNTS[split], 3), dtype=np.int32)
    digest = f"{zlib.crc32(triples.tobytes()):08x}"
    return Stacks(split, f"{digits.fingerprint}-{digest}", (*images.shape[1:3], 3), images, np.asarray(labels), triples)
