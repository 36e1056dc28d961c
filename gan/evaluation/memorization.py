"""Memorization: how near samples are to the training images, and how near images are that were not trained on.

The median distance hides copies among many other samples, so the near copies are counted too. A sample is a near copy
if it is nearer to its nearest training image than nearly all held-out images are to theirs. Meehan et al. 2020,
arXiv:2004.05675, compare the same two sets of distances; Alaa et al. 2021, arXiv:2102.08921, decide for
each sample (`are_authentic`).
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from gan.evaluation.reference import Features, RealData, cached_features
from gan.io.progress import progress
from gan.metrics import neighbors
from gan.metrics.features import Extractor
from gan.metrics.neighbors import Neighbors

QUANTILE = 0.01
"""The share of held-out images that count as near copies, which is what is expected of new images. A lower one would be
the distance of one or two of a few hundred held-out images; a higher one would hide more copies among new images."""
SHOWN = 64
"""Pairs of a sample and a training image that are shown."""
BATCH, VALUES = 8192, 2**24
"""The most training images, and values of their features, that are compared at once: 64 MiB."""


class Pairs(NamedTuple):
    """Samples with their nearest training images, the nearest pair first."""

    samples: np.ndarray
    """Indices of the samples, int [K]."""
    training: np.ndarray
    """Indices of their training images, int [K]."""
    are_copies: np.ndarray
    """bool [K]"""
    caption: str


class TrainingImages:
    """All training images of a run, among which the nearest to samples are searched for.

    Distances are those of features. The reference images are the held-out ones. With `is_searched` False no metric
    needs the features of all training images, and they are not computed.
    """

    def __init__(self, extractor: Extractor, real: RealData, reference: Features, *, is_searched: bool = True):
        self._extractor, self._real, self._reference = extractor, real, reference
        self._is_searched = is_searched

    def __len__(self) -> int:
        return len(self._real.training)

    @property
    def _have_held_out(self) -> bool:
        return self._real.reference.split != self._real.training.split

    @property
    def are_compared(self) -> bool:
        """Whether there are held-out images: training images are at distance 0 from themselves."""
        return self._have_held_out and np.median(self._held_out_distances) > 0.0

    @functools.cached_property
    def bound(self) -> float:
        """The distance up to which a sample is a near copy: the QUANTILE of those of held-out images."""
        return float(np.quantile(self._held_out_distances, QUANTILE, method="inverted_cdf"))

    @functools.cached_property
    def held_out_share(self) -> float:
        """The share of held-out images that count as near copies: QUANTILE, or more where many are copies."""
        return float(np.mean(self._held_out_distances <= self.bound))

    @functools.cached_property
    def held_out_authenticity(self) -> float:
        """The share of held-out images that are authentic: what new images have."""
        return float(np.mean(self.are_authentic(self._held_out)))

    def read(self, rows: np.ndarray) -> Features:
        """The features and labels of the training images `rows`."""
        if self._extractor.is_cheap or not self._is_searched:
            return cached_features(self._extractor, self._real.training, rows)
        return Features(self._features.features[rows], self._features.labels[rows])

    def protocol(self) -> dict[str, Any]:
        """What near copies are counted by."""
        searched = {"training_images": len(self)}
        if not self.are_compared:
            return searched | {"left_out": "the reference images are training images"}
        return searched | {
            "held_out_images": len(self._held_out_distances), "quantile": QUANTILE, "near_copy_distance": self.bound,
            "held_out_near_copies": self.held_out_share,
        }  # fmt: skip

    def authenticity_protocol(self) -> dict[str, Any]:
        """What authenticity is decided by, and that of held-out images."""
        searched: dict[str, Any] = {"training_images": len(self)}
        if not self._have_held_out:
            return searched | {"held_out_left_out": "the reference images are training images"}
        count = len(self._reference.features)
        return searched | {"held_out_images": count, "held_out_authenticity": self.held_out_authenticity}

    def search(self, features: np.ndarray) -> Neighbors:
        """The nearest training image of each sample, of features [N, D]: indices and distances [N, 1]."""
        return self._nearest(features, "samples")

    def memorization(self, distances: np.ndarray) -> dict[str, float]:
        """The metrics of samples whose nearest training images are at distances [N].

        nearest_training_ratio  median of d over samples / median of d over held-out images, d the distance to the
                                nearest training image. 1 is expected of new images, less of copies.
        near_copies             share of samples with d of at most `bound`; `held_out_share` is expected of new images.
        """
        if not self.are_compared:
            return {}
        ratio = np.median(distances) / np.median(self._held_out_distances)
        return {"nearest_training_ratio": float(ratio), "near_copies": float(np.mean(distances <= self.bound))}

    def pairs(self, found: Neighbors) -> Pairs:
        """The pairs to be shown of what `search` found."""
        distances = found.distances[:, 0]
        are_copies = distances <= self.bound if self.are_compared else np.zeros(len(distances), bool)
        first = np.argsort(distances, kind="stable")[:SHOWN]
        caption = self._caption(self.memorization(distances), len(distances))
        return Pairs(first, found.indices[first, 0], are_copies[first], caption)

    def are_authentic(self, found: Neighbors) -> np.ndarray:
        """Whether each sample is farther from its nearest training image than that is from its own nearest: bool [N].

        A sample that is not is a noisy copy by the test of Alaa et al. 2021, arXiv:2102.08921, section 4.3; the share
        of those that are is the AuthPct of Stein et al. 2023, arXiv:2306.04675. Only the training images that are
        nearest to a sample are searched for neighbors of their own.
        """
        rows, positions = np.unique(found.indices[:, 0], return_inverse=True)
        own = self._nearest(self.read(rows).features, "training images", own=rows)
        return found.distances[:, 0] > own.distances[positions.reshape(-1), 0]

    def _caption(self, metrics: dict[str, float], count: int) -> str:
        pairs = f"Samples, nearest first, each with the nearest of {len(self):,} training images on its right."
        if not metrics:
            return f"{pairs} No images are held out that would say which are copies."
        return (
            f"{pairs} {metrics['near_copies']:.1%} of {count:,} samples are near copies (red); of held-out images "
            f"{self.held_out_share:.1%} are."
        )

    @functools.cached_property
    def _held_out(self) -> Neighbors:
        return self._nearest(self._reference.features, "held-out images")

    @property
    def _held_out_distances(self) -> np.ndarray:
        return self._held_out.distances[:, 0]

    def _nearest(self, queries: np.ndarray, what: str, own: np.ndarray | None = None) -> Neighbors:
        size = max(1, min(BATCH, VALUES // self._extractor.dimension))
        batches = progress(
            self._batches(size), total=-(-len(self) // size),
            what=f"Searching {len(self):,} training images for the nearest to {len(queries):,} {what}",
        )  # fmt: skip
        return neighbors.nearest_on_device(queries, batches, own)

    def _batches(self, size: int) -> Iterator[np.ndarray]:
        """The features of all training images, `size` at a time."""
        training = self._real.training
        is_cheap = self._extractor.is_cheap
        arrays = training.arrays()[0] if is_cheap else self._features.features
        for first in range(0, len(self), size):
            part = np.asarray(arrays[first : first + size])
            yield self._extractor.features(part) if is_cheap else part

    @functools.cached_property
    def _features(self) -> Features:
        return cached_features(self._extractor, self._real.training, np.arange(len(self)))
