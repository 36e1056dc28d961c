"""Metrics of images, computed from the features of samples and of real images."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from gan import data
from gan.evaluation import reference, warnings
from gan.evaluation.memorization import Pairs, TrainingImages
from gan.evaluation.options import EvaluationOptions
from gan.evaluation.reference import Features, RealData, cached_features, evenly_spaced
from gan.evaluation.samples import BATCH_SIZE, draw_samples
from gan.evaluation.warnings import Metrics
from gan.game import Game
from gan.io import plots
from gan.io.progress import progress
from gan.metrics import classifier, features, frechet, inception_score, kernel, modes, neighbors
from gan.metrics.frechet import Moments, Vectors
from gan.state import GeneratorEMA

ALL_FEATURES = {"intra_class", "kernel", "prdc", "memorization"}
"""Metrics that need the features of all samples at once. For `frechet` they are accumulated batch by batch."""
PROBABILITIES = {"inception_score", "mode_coverage"}
"""Metrics that need class probabilities."""


class ImageEvaluator:
    """Holds the features of the real images, and computes the metrics of samples.

    Raises `UserError` for an unknown extractor, missing weights, or features that are too many to compare.
    """

    def __init__(self, options: EvaluationOptions, seed: int, real: RealData):
        self._options, self._seed, self._real = options, seed, real
        self._metrics = set(options.metrics)
        self._is_stacked = real.training.name == data.stacked.NAME
        self._classifier = None
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
        self._reference_moments = frechet.moments(self._reference.features)
        self._training_images = TrainingImages(self._extractor, real, self._reference)

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
        if self._classifier is not None:
            protocol["classifier_test_accuracy"] = self._classifier.test_accuracy
        if "memorization" in self._metrics:
            protocol["memorization"] = self._training_images.protocol()
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
        samples = np.concatenate([batch["image"] for batch in batches])
        nearest = training.read(pairs.training)[0]
        return plots.draw_pairs(np.stack([samples, nearest], axis=1), pairs.are_copies, pairs.caption)

    def _compute(self, batches: Iterable[tuple[np.ndarray, np.ndarray]], *, are_training: bool = False) -> Metrics:
        """The metrics of batches of (features [n, D], labels [n]); they are kept only if a metric needs all of them."""
        moments, all_features, all_labels, probabilities = frechet.empty(self._extractor.dimension), [], [], []
        for batch, labels in batches:
            moments = moments.update(batch)
            if self._metrics & ALL_FEATURES:
                all_features.append(batch)
                all_labels.append(labels)
            if self._extractor.probabilities is not None and self._metrics & PROBABILITIES:
                probabilities.append(self._extractor.probabilities(batch))
        metrics, pairs = {}, None
        if "frechet" in self._metrics:
            metrics[self.selection_metric] = frechet.frechet_distance(self._reference_moments, moments)
        fake = Features(np.concatenate(all_features), np.concatenate(all_labels)) if all_features else None
        if fake is not None:
            metrics |= self._from_features(fake)
        if fake is not None and "memorization" in self._metrics and not are_training:
            memorization, pairs = self._training_images.compare(fake.features)
            metrics |= memorization
        if probabilities:
            metrics |= self._from_probabilities(np.concatenate(probabilities))
        num_classes = probabilities[0].shape[1] if probabilities else 0
        return Metrics(metrics, tuple(self._warnings(metrics, moments, fake, num_classes)), pairs)

    def _warnings(
        self, metrics: Mapping[str, float], moments: Moments | Vectors, fake: Features | None, num_classes: int
    ) -> Iterator[str]:
        """Why metrics of samples with these moments, and features where they are kept, have no meaning."""
        yield from warnings.of_spread(moments, self._reference_moments)
        if "frechet" in self._metrics:
            yield from warnings.of_moments(moments, self._reference_moments)
        if fake is not None:
            yield from warnings.of_sets(fake.features, self._reference.features)
            yield from warnings.of_precision(metrics)
        if "near_copies" in metrics:
            real = self._reference.features
            expected = self._training_images.held_out_share
            yield from warnings.of_copies(metrics["near_copies"], moments.count, expected, len(real))
        if "intra_class" in self._metrics:
            yield from warnings.of_classes(fake.labels, self._extractor.dimension)
        if num_classes and "inception_score" in self._metrics:
            yield from warnings.of_score(moments.count, num_classes)
        if "modes" in metrics:
            yield from warnings.of_modes(moments.count, num_classes)

    def _from_features(self, fake: Features) -> dict[str, float]:
        extractor, real, metrics = self._extractor.name, self._reference, {}
        if "intra_class" in self._metrics:
            by_class = [frechet.moments_by_class(side.features, np.asarray(side.labels)) for side in (real, fake)]
            metrics[f"intra_fd_{extractor}"] = frechet.intra_class_distance(*by_class).mean
        if "kernel" in self._metrics:
            size = min(1000, len(real.features), len(fake.features))
            distance = kernel.kernel_distance(real.features, fake.features, subset_size=size, seed=self._seed)
            metrics |= {f"kd_{extractor}": distance.mean, f"kd_{extractor}_std": distance.std}
        if "prdc" in self._metrics:
            metrics |= neighbors.prdc(real.features, fake.features)._asdict()
        return metrics

    def _from_probabilities(self, probabilities: np.ndarray) -> dict[str, float]:
        extractor, metrics = self._extractor.name, {}
        if "inception_score" in self._metrics:
            score = inception_score.inception_score(probabilities)
            metrics |= {f"inception_score_{extractor}": score.mean, f"inception_score_{extractor}_std": score.std}
        if "mode_coverage" in self._metrics and extractor == "classifier":
            num_classes, labels = probabilities.shape[1], self._reference.labels
            # Published results on StackedMNIST assume that its 1,000 modes are equally frequent.
            shares = None if self._is_stacked else np.bincount(labels, minlength=num_classes) / len(labels)
            metrics |= modes.label_coverage(np.argmax(probabilities, axis=-1), num_classes, shares)
        return metrics

    def _load_classifier(self) -> classifier.Classifier:
        self._classifier = reference.dataset_classifier(self._options, self._real)
        return self._classifier
