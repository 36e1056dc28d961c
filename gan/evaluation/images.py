"""Metrics of images, computed from the features of samples and of real images."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from gan import data
from gan.evaluation import reference, warnings
from gan.evaluation.measures import Gathered, Measures
from gan.evaluation.memorization import Pairs, TrainingImages
from gan.evaluation.options import EvaluationOptions
from gan.evaluation.reference import Features, RealData, cached_features, evenly_spaced
from gan.evaluation.samples import BATCH_SIZE, draw_samples
from gan.evaluation.warnings import Metrics
from gan.game import Game
from gan.io import plots
from gan.io.progress import progress
from gan.metrics import classifier, features, frechet, halves
from gan.metrics.frechet import Moments, Vectors
from gan.state import GeneratorEMA

STREAMED = {"frechet", "inception_score", "mode_coverage"}
"""Metrics that do not need the features of all samples at once: moments and probabilities are kept batch by batch."""
PROBABILITIES = {"inception_score", "mode_coverage"}
"""Metrics that need class probabilities."""
OF_TRAINING_IMAGES = {"memorization", "authenticity"}
"""Metrics that search the training images, which therefore have none."""
METHODS = {
    "mind": "1000 directions, 3 D times the mean squared difference of sorted projections, equally many of both",
    "frechet_infinity": "intercept of a line through the distances of the whole, halves and quarters of the samples",
    "vendi": "cosine kernel, order 1",
}
"""How metrics are computed, for the protocol, besides those that it has always had."""


class ImageEvaluator:
    """Holds the features of the real images, and computes the metrics of samples.

    Raises `UserError` for an unknown extractor, missing weights, or features that are too many to compare.
    """

    def __init__(self, options: EvaluationOptions, seed: int, real: RealData):
        self._options, self._seed, self._real = options, seed, real
        self._metrics = set(options.metrics)
        self._is_stacked = real.training.name == data.stacked.NAME
        self._classifier: classifier.Classifier | None = None
        has_labels = len(real.training.class_names) > 1
        text = options.extractor
        if text == "auto":
            text = "classifier" if has_labels and min(real.training.image_shape[:2]) >= 8 else "pixels"
        info = features.DatasetInfo(
            real.training.image_shape, self._load_classifier if has_labels else None, self._is_stacked
        )
        self._extractor = features.extractor(text, info, "config.evaluation.extractor")
        reference.check_size(self._extractor, options, real)
        self._reference = cached_features(self._extractor, real.reference, real.rows)
        is_searched = not self._metrics.isdisjoint(("memorization", "authenticity"))
        self._training_images = TrainingImages(self._extractor, real, self._reference, is_searched=is_searched)
        self._measures = Measures(
            self._metrics, self._extractor.name, self._reference, self._training_images,
            has_equal_modes=self._is_stacked, seed=seed,
        )  # fmt: skip

    @property
    def selection_metric(self) -> str:
        """The metric whose smallest value determines the best checkpoint."""
        return f"fd_{self._extractor.name}"

    def protocol(self) -> dict[str, Any]:
        """How the metrics are computed."""
        protocol = reference.protocol(self._options, self._seed, self._real) | {
            "extractor": self._extractor.name,
            "extractor_identity": self._extractor.identity,
            "dimension": self._extractor.dimension,
            "metrics": list(self._options.metrics),
            "kernel": "polynomial of degree 3, unbiased, 100 subsets of at most 1000",
            "prdc": "precision and recall k=3, density and coverage k=5",
        }
        if self._extractor.protocol:
            protocol["features"] = self._extractor.protocol
        protocol |= {name: method for name, method in METHODS.items() if name in self._metrics}
        if self._classifier is not None:
            protocol["classifier_test_accuracy"] = self._classifier.test_accuracy
        if "memorization" in self._metrics:
            protocol["memorization"] = self._training_images.protocol()
        if "authenticity" in self._metrics:
            protocol["authenticity"] = self._training_images.authenticity_protocol()
        if self._options.error_bars:
            protocol["error_bars"] = halves.described(self._options.error_bars)
        num_samples = min(self._options.num_samples, len(self._real.rows))
        if warning := frechet.rank_warning(num_samples, self._extractor.dimension):
            protocol["warning"] = warning
        return protocol

    def real_baseline(self) -> Metrics:
        """The metrics of real training images, as many as samples: what a perfect generator would have.

        Those of memorization are left out: the images are training images.
        """
        rows = evenly_spaced(len(self._real.training), self._options.num_samples)
        return self._compute([self._training_images.read(rows)], are_training=True)

    def compute(self, game: Game, ema: GeneratorEMA) -> Metrics:
        """The metrics of samples from the EMA generator; of a conditional one, with labels of the training data."""
        count = self._options.num_samples
        batches = draw_samples(game, ema, self._real.training, seed=self._seed, count=count)
        batches = progress(batches, total=-(-count // BATCH_SIZE), what=f"Drawing {count:,} samples, in batches")
        return self._compute(Features(self._extractor.features(batch["image"]), batch["label"]) for batch in batches)

    def compute_from_images(self, images: np.ndarray, labels: np.ndarray) -> Metrics:
        """The metrics of any images uint8 [N, H, W, C] with labels int32 [N], in place of samples."""
        return self._compute([Features(self._extractor.features(images), labels)])

    def nearest_training_images(self, game: Game, ema: GeneratorEMA, pairs: Pairs | None) -> np.ndarray | None:
        """A picture uint8 [H, W, 3] of the `pairs` of `Metrics`; None where they were not searched for."""
        if pairs is None:
            return None
        training, count = self._real.training, self._options.num_samples
        batches = draw_samples(game, ema, training, seed=self._seed, count=count, rows=pairs.samples)
        return self.picture(np.concatenate([batch["image"] for batch in batches]), pairs)

    def picture(self, samples: np.ndarray, pairs: Pairs) -> np.ndarray:
        """A picture uint8 [H, W, 3] of the samples of `pairs`, each beside its nearest training image."""
        nearest = self._real.training.read(pairs.training)[0]
        return plots.draw_pairs(np.stack([samples, nearest], axis=1), pairs.are_copies, pairs.caption)

    def _compute(self, batches: Iterable[tuple[np.ndarray, np.ndarray]], *, are_training: bool = False) -> Metrics:
        """The metrics of batches of (features [n, D], labels [n]); they are kept only if a metric needs all of them."""
        moments: Moments | Vectors = frechet.empty(self._extractor.dimension)
        all_features, all_labels, probabilities = [], [], []
        for batch, labels in batches:
            moments = moments.update(batch)
            if self._metrics - STREAMED or self._options.error_bars:
                all_features.append(batch)
                all_labels.append(labels)
            if self._extractor.probabilities is not None and self._metrics & PROBABILITIES:
                probabilities.append(self._extractor.probabilities(batch))
        samples = Gathered(*(np.concatenate(p) if p else None for p in (all_features, all_labels, probabilities)))
        found, pairs = None, None
        if self._metrics & OF_TRAINING_IMAGES and not are_training:
            assert samples.features is not None  # these metrics need them
            found = self._training_images.search(samples.features)
            is_decided = "authenticity" in self._metrics
            samples = samples._replace(
                distances=found.distances[:, 0],
                are_authentic=self._training_images.are_authentic(found) if is_decided else None,
            )
            pairs = self._training_images.pairs(found) if "memorization" in self._metrics else None
        metrics = self._measures.of(samples, moments)
        if self._options.error_bars and moments.count >= warnings.FEW:
            metrics |= self._measures.deviations(samples, metrics, self._options.error_bars)
        return Metrics(metrics, tuple(self._warnings(metrics, moments, samples)), pairs)

    def _warnings(self, metrics: Mapping[str, float], moments: Moments | Vectors, samples: Gathered) -> Iterator[str]:
        """Why metrics of samples with these moments, and features where they are kept, have no meaning."""
        num_classes = 0 if samples.probabilities is None else samples.probabilities.shape[1]
        yield from warnings.of_spread(moments, self._measures.moments)
        if "frechet" in self._metrics:
            yield from warnings.of_moments(moments, self._measures.moments)
        if "frechet_infinity" in self._metrics:
            yield from warnings.of_infinity(moments.count, moments.dimension)
        if samples.features is not None:
            yield from warnings.of_sets(samples.features, self._reference.features)
            yield from warnings.of_precision(metrics)
        if "near_copies" in metrics:
            real = self._reference.features
            expected = self._training_images.held_out_share
            yield from warnings.of_copies(metrics["near_copies"], moments.count, expected, len(real))
        if "intra_class" in self._metrics:
            assert samples.labels is not None  # this metric needs them
            yield from warnings.of_classes(samples.labels, self._extractor.dimension)
        if num_classes and "inception_score" in self._metrics:
            yield from warnings.of_score(moments.count, num_classes)
        if "modes" in metrics:
            yield from warnings.of_modes(moments.count, num_classes)
        if self._options.error_bars:
            yield from warnings.of_halves(moments.count)

    def _load_classifier(self) -> classifier.Classifier:
        found = self._classifier = reference.dataset_classifier(self._options, self._real)
        return found
