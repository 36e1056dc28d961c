"""The metrics of samples that have been gathered: their values, and the spread of these over random halves."""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from gan.evaluation.memorization import TrainingImages
from gan.evaluation.reference import Features
from gan.metrics import frechet, frechet_infinity, halves, inception_score, kernel, modes, neighbors, vendi, wasserstein
from gan.metrics.frechet import Moments, Vectors

SUBSETS, SUBSET_SIZE = 100, 1000
"""Of the kernel distance."""
DEVIATION = "_sampling_std"
"""The end of the name of a metric's error bar."""


class Gathered(NamedTuple):
    """What is known of N samples; None: no metric needs it."""

    features: np.ndarray | None
    """float32 [N, D]"""
    labels: np.ndarray | None
    """int32 [N]"""
    probabilities: np.ndarray | None = None
    """[N, K]"""
    distances: np.ndarray | None = None
    """Of the nearest training image: float64 [N]."""
    are_authentic: np.ndarray | None = None
    """bool [N]"""

    def of(self, rows: np.ndarray) -> "Gathered":
        """Those of some rows: indices or marks."""
        return Gathered(*(None if values is None else values[rows] for values in self))


class Measures:
    """Computes metrics by name. `extractor` is the name that the keys end in."""

    def __init__(
        self, names: Collection[str], extractor: str, reference: Features, training: TrainingImages, *,
        has_equal_modes: bool, seed: int,
    ):  # fmt: skip
        self._names, self._extractor, self._seed = set(names), extractor, seed
        self._reference, self._training = reference, training
        self._has_equal_modes = has_equal_modes
        self.moments = frechet.moments(reference.features)
        """Of the reference images."""

    def of(self, samples: Gathered, moments: Moments | Vectors) -> dict[str, float]:
        """All metrics of samples with these moments."""
        return self._frechet(moments) | self._of_whole(samples) | self._of_parts(samples)

    def deviations(self, samples: Gathered, metrics: dict[str, float], number: int) -> dict[str, float]:
        """{NAME_sampling_std: the standard deviation of each metric over new samples}: see `halves.deviation`."""
        features: Any = samples.features
        count = len(features)
        kept = halves.draw(count, number, self._seed)
        values = []
        for part in (samples.of(marks) for marks in kept):
            features = part.features
            values.append(self._frechet(frechet.moments(features)) | self._of_parts(part))
        shared = set.intersection(*(set(found) for found in values))
        arrays = {name: np.array([found[name] for found in values]) for name in shared}
        arrays |= self._of_pairs_in_halves(samples, kept)
        found = {name: float(halves.deviation(arrays[name], count)) for name in metrics if name in arrays}
        if (name := f"kd_{self._extractor}") in found:  # the mean over random subsets has a deviation of its own
            found[name] = float(np.hypot(found[name], metrics[f"{name}_std"] / np.sqrt(SUBSETS)))
        return {f"{name}{DEVIATION}": value for name, value in found.items() if not name.endswith("_std")}

    def _frechet(self, moments: Moments | Vectors) -> dict[str, float]:
        if "frechet" not in self._names:
            return {}
        return {f"fd_{self._extractor}": frechet.frechet_distance(self.moments, moments)}

    def _of_whole(self, samples: Gathered) -> dict[str, float]:
        """The metrics that have a faster way for many halves, `_of_pairs_in_halves`, or cost too much for each half."""
        fake: Any = samples.features  # None where no metric needs it
        extractor, real, metrics = self._extractor, self._reference.features, dict[str, float]()
        if "intra_class" in self._names:
            of_real = frechet.moments_by_class(real, np.asarray(self._reference.labels))
            of_fake = frechet.moments_by_class(fake, np.asarray(samples.labels))
            metrics[f"intra_fd_{extractor}"] = frechet.intra_class_distance(of_real, of_fake).mean
        if "kernel" in self._names:
            size = min(SUBSET_SIZE, len(real), len(fake))
            distance = kernel.kernel_distance(real, fake, subsets=SUBSETS, subset_size=size, seed=self._seed)
            metrics |= {f"kd_{extractor}": distance.mean, f"kd_{extractor}_std": distance.std}
        if "prdc" in self._names:
            metrics |= neighbors.prdc(real, fake)._asdict()
        if "mind" in self._names:
            metrics[f"mind_{extractor}"] = wasserstein.mind(real, fake, seed=self._seed)
        return metrics

    def _of_pairs_in_halves(self, samples: Gathered, kept: np.ndarray) -> dict[str, np.ndarray]:
        """The values [R] of `_of_whole` for each half of `kept` bool [R, N], up to a constant."""
        fake: Any = samples.features
        extractor, real, values = self._extractor, self._reference.features, dict[str, np.ndarray]()
        if "kernel" in self._names:
            values[f"kd_{extractor}"] = kernel.squared_mmd_of_halves(real, fake, kept)
        if "prdc" in self._names:
            values |= neighbors.prdc_of_halves(real, fake, kept)._asdict()
        if "mind" in self._names:
            values[f"mind_{extractor}"] = wasserstein.mind_of_halves(real, fake, kept, seed=self._seed)
        return values

    def _of_parts(self, samples: Gathered) -> dict[str, float]:
        """The other metrics, which are computed again for each half."""
        features: Any = samples.features
        extractor, metrics = self._extractor, dict[str, float]()
        if "frechet_infinity" in self._names:
            distance = frechet_infinity.frechet_infinity(self.moments, features, seed=self._seed)
            metrics[f"infinity_fd_{extractor}"] = distance
        if "vendi" in self._names:
            metrics[f"vendi_{extractor}"] = vendi.vendi_score(features)
        if samples.distances is not None and "memorization" in self._names:
            metrics |= self._training.memorization(samples.distances)
        if samples.are_authentic is not None:
            metrics["authenticity"] = float(np.mean(samples.are_authentic))
        if samples.probabilities is not None:
            metrics |= self._of_probabilities(samples.probabilities)
        return metrics

    def _of_probabilities(self, probabilities: np.ndarray) -> dict[str, float]:
        extractor, metrics = self._extractor, dict[str, float]()
        if "inception_score" in self._names:
            score = inception_score.inception_score(probabilities)
            metrics |= {f"inception_score_{extractor}": score.mean, f"inception_score_{extractor}_std": score.std}
        if "mode_coverage" in self._names and extractor == "classifier":
            num_classes, labels = probabilities.shape[1], self._reference.labels
            # Published results on StackedMNIST assume that its 1,000 modes are equally frequent.
            shares = None if self._has_equal_modes else np.bincount(labels, minlength=num_classes) / len(labels)
            metrics |= modes.label_coverage(np.argmax(probabilities, axis=-1), num_classes, shares)
        return metrics
