"""The figures of a run: samples of its averaged generator against a split of its data. On the spine below `loop`.

Every figure is a number with a protocol: `Evaluator.protocol` says through which features, how many samples, of which
seed, against which images. What is computed of real images is kept in the cache folder and computed once.
"""

import functools
import hashlib
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gan import data
from gan.errors import UserError, nearest
from gan.game import Game
from gan.inference import sampling
from gan.io import plots, workdir, writer
from gan.metrics import classifier, features, frechet, inception_score, kernel, modes, neighbors, wasserstein
from gan.state import GeneratorEMA

logger = logging.getLogger(__name__)

METRICS = ("frechet", "intra_class", "kernel", "neighbors", "inception_score", "labels", "memorization")
"""What `config.evaluation.metrics` may name, for images."""

WHOLE = {"intra_class", "kernel", "neighbors", "memorization"}
"""Those that need the features of all samples at once; the others are added up as samples come."""

SMALLEST = 10
"""Fewer samples or images than this make no figure."""

BATCH = 500
POOL = 10_000
"""Training images among which the nearest to a sample is looked for."""

SHOWN = 64
"""Samples in the picture of samples beside the training images that are nearest."""


def evaluate(
    folder: Path, *, count: int | None, seed: int, extractor: str | None = None, truncation: float | None = None
) -> None:
    """Writes `evaluation.json` of a run: the figures of its last and of its best checkpoint, and of real images.

    For `truncation` see `Game.truncated`.
    """
    config, recorded = sampling.recorded(folder)
    if count is not None:
        config.evaluation.num_samples = count
    if extractor is not None:
        config.evaluation.extractor = extractor
    kept = {"last": sampling.restore(folder, truncation=truncation)}
    if any((folder / "best").glob("[0-9]*")):
        kept["best"] = sampling.restore(folder, "best", truncation=truncation)
    evaluator = Evaluator(config, seed)
    workdir.check_data(folder, recorded, evaluator.fingerprint)
    checkpoints, real = {}, evaluator.real_baseline()
    logger.info("real training images: %s", describe(real))
    for name, (game, step, ema) in kept.items():
        begun = time.perf_counter()
        found = evaluator.compute(game, ema)
        checkpoints[name] = {"step": step, "metrics": found, "seconds": round(time.perf_counter() - begun, 2)}
        if not data.is_point(game.image_shape):
            plots.save_png(folder / f"nearest_{name}.png", evaluator.beside_nearest(game, ema))
        logger.info("the %s checkpoint, step %d: %s", name, step, describe(found))
    protocol = evaluator.protocol() | ({} if truncation is None else {"truncation": truncation})
    record = {"checkpoints": checkpoints, "real_training_images": real, "protocol": protocol}
    workdir.write_record(folder / "evaluation.json", record)
    logger.info("%s", folder / "evaluation.json")


def describe(figures: dict[str, float]) -> str:
    """Figures in one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


class Evaluator:
    """Holds what the figures of a run are taken against, and takes them.

    Raises `UserError` for an unknown metric or extractor, missing weights, or too few images.
    """

    def __init__(self, config: ConfigDict, seed: int):
        settings = config.evaluation
        self._config, self._settings = config, settings
        self._seed, self.count = seed, settings.num_samples
        self._dataset, self._test_accuracy = data.open_dataset(config.data), None
        self._is_of_points = data.is_point(self._dataset.image_shape)
        for name in settings.metrics:
            if name not in METRICS:
                raise UserError(
                    f"config.evaluation.metrics: {name!r} is unknown{nearest(name, METRICS)}; expected: "
                    f"{', '.join(METRICS)}"
                )
        if "intra_class" in settings.metrics and config.generator.conditioning == "none":
            raise UserError(
                "config.evaluation.metrics: 'intra_class' needs samples of a class that was asked for; "
                "valid with config.generator.conditioning: concat, embedding"
            )
        if self.count < SMALLEST:
            raise UserError(f"config.evaluation.num_samples={self.count} is too few; expected: {SMALLEST} or more")
        if self.count > sampling.MOST_SAMPLES:
            raise UserError(f"config.evaluation.num_samples={self.count}; expected: up to {sampling.MOST_SAMPLES}")
        self._reference = _reference(config)
        self._rows = _spread(len(self._reference), settings.reference_samples or len(self._reference))
        if len(self._rows) < SMALLEST:
            raise UserError(
                f"config.evaluation.split={settings.split!r} and reference_samples={settings.reference_samples} give "
                f"{len(self._rows)} images to compare with; expected: {SMALLEST} or more"
            )
        if self._is_of_points:
            return
        has_labels = len(self._dataset.class_names) > 1
        text = settings.extractor
        if text == "auto":
            text = "classifier" if has_labels and min(self._dataset.image_shape[:2]) >= 8 else "pixels"
        self._is_stacked = self._dataset.name == data.stacked.NAME
        setting = features.Setting(
            self._dataset.image_shape, self._classifier if has_labels else None, self._is_stacked
        )
        self._extractor = features.extractor(text, setting, "config.evaluation.extractor")
        self._real = self._kept(self._reference, self._rows)
        self._real_moments = frechet.moments(self._real["features"])

    @property
    def fingerprint(self) -> str:
        """Of the data that the run is trained on."""
        return self._dataset.fingerprint

    @property
    def selection_metric(self) -> str:
        """The figure whose smallest value makes the best checkpoint."""
        if self._is_of_points:
            return "sliced_wasserstein"
        return f"fd_{self._extractor.name}"

    def protocol(self) -> dict[str, Any]:
        """How every figure was taken."""
        protocol = {
            "num_samples": self.count,
            "seed": self._seed,
            "standing_batches": self._settings.get("standing_batches", 0),
            "dataset": self._dataset.name,
            "fingerprint": self.fingerprint,
            "reference_split": self._reference.split,
            "reference_examples": len(self._rows),
            "versions": workdir.versions(),
        }
        if self._is_of_points:
            return protocol | {"sliced_wasserstein": "order 1, 256 projections"}
        protocol |= {
            "extractor": self._extractor.name,
            "extractor_identity": self._extractor.identity,
            "dimension": self._extractor.dimension,
            "metrics": list(self._settings.metrics),
            "kernel": "polynomial of degree 3, unbiased, 100 subsets of at most 1000",
            "neighbors": "precision and recall k=3, density and coverage k=5",
        }
        if self._test_accuracy is not None:
            protocol["classifier_test_accuracy"] = self._test_accuracy
        if shortage := frechet.shortage(min(self.count, len(self._rows)), self._extractor.dimension):
            protocol["warning"] = shortage
        return protocol

    def real_baseline(self) -> dict[str, float]:
        """The figures of as many real training images in the place of samples: what a perfect generator would have."""
        rows = _spread(len(self._dataset), self.count)
        if self._is_of_points:
            return self._of_points(self._dataset.read(rows)[0])
        kept = self._kept(self._dataset, rows)
        return self._of_parts([(kept["features"], kept["labels"])])

    def compute(self, game: Game, ema: GeneratorEMA) -> dict[str, float]:
        """The figures of the averaged generator; where it learns of labels, of those that the training data have."""
        labels = self._training_labels() if game.is_conditional else ()
        drawn = sampling.draw(
            game, ema, seed=self._seed, count=self.count, batch_size=min(BATCH, self.count), labels=labels
        )
        if self._is_of_points:
            return self._of_points(np.concatenate([batch["image"] for batch in drawn]))
        drawn = writer.progress(drawn, total=-(-self.count // BATCH), what="sampling")
        return self._of_parts((self._extractor.features(batch["image"]), batch["label"]) for batch in drawn)

    def compute_of(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The figures of any images uint8 [N, H, W, C], with their labels int32 [N], in the place of samples."""
        return self._of_parts([(self._extractor.features(images), labels)])

    def _training_labels(self) -> list[int]:
        """Of `count` training images: where classes differ in size, even shares would make another distribution."""
        _, labels = self._dataset.arrays()
        return labels[_spread(len(labels), self.count)].tolist()

    def beside_nearest(self, game: Game, ema: GeneratorEMA) -> np.ndarray:
        """A grid of pairs [H, W, C]: a sample, and to its right the training image that is nearest in pixels."""
        samples = next(sampling.draw(game, ema, seed=self._seed, count=SHOWN, batch_size=SHOWN))["image"]
        images, _ = self._dataset.arrays()
        pool = np.asarray(images[_spread(len(images), POOL)])
        found = neighbors.nearest(_pixels(samples), _pixels(pool)).indices[:, 0]
        return plots.grid(np.stack([samples, pool[found]], axis=1).reshape(-1, *samples.shape[1:]), columns=16)

    def _of_parts(self, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """The figures of features [n, D] with labels [n] that come in parts, kept only if a measure needs them all."""
        chosen, name = self._settings.metrics, self._extractor.name
        moments, features, labels, probabilities = frechet.empty(self._extractor.dimension), [], [], []
        for part, label in parts:
            moments = moments.update(part)
            if set(chosen) & WHOLE:
                features.append(part)
                labels.append(label)
            if self._extractor.probabilities is not None and set(chosen) & {"inception_score", "labels"}:
                probabilities.append(self._extractor.probabilities(part))
        figures = {}
        if "frechet" in chosen:
            figures[f"fd_{name}"] = frechet.frechet_distance(self._real_moments, moments)
        if features:
            figures |= self._of_features(np.concatenate(features), np.concatenate(labels))
        if probabilities:
            figures |= self._of_probabilities(np.concatenate(probabilities))
        return {figure: float(value) for figure, value in figures.items()}

    def _of_features(self, fake: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        chosen, name, real = self._settings.metrics, self._extractor.name, self._real["features"]
        figures = {}
        if "intra_class" in chosen:
            sides = ((real, self._real["labels"]), (fake, labels))
            by_class = [frechet.moments_by_class(found, np.asarray(of)) for found, of in sides]
            figures[f"intra_fd_{name}"] = frechet.intra_class_distance(*by_class).mean
        if "kernel" in chosen:
            size = min(1000, len(real), len(fake))
            distance = kernel.kernel_distance(real, fake, subset_size=size, seed=self._seed)
            figures |= {f"kd_{name}": distance.mean, f"kd_{name}_std": distance.sd}
        if "neighbors" in chosen:
            figures |= neighbors.prdc(real, fake)._asdict()
        if "memorization" in chosen:
            figures["nearest_training_ratio"] = self._nearness(fake)
        return figures

    def _of_probabilities(self, probabilities: np.ndarray) -> dict[str, float]:
        chosen, name, figures = self._settings.metrics, self._extractor.name, {}
        if "inception_score" in chosen:
            score = inception_score.inception_score(probabilities)
            figures |= {f"inception_score_{name}": score.mean, f"inception_score_{name}_std": score.sd}
        if "labels" in chosen and name == "classifier":
            count, of_real = probabilities.shape[1], self._real["labels"]
            # The published figures of StackedMNIST take its thousand modes as even.
            shares = None if self._is_stacked else np.bincount(of_real, minlength=count) / len(of_real)
            figures |= modes.label_coverage(np.argmax(probabilities, axis=-1), count, shares)
        return figures

    def _of_points(self, images: np.ndarray) -> dict[str, float]:
        points = images.reshape(len(images), -1)
        real = self._reference.read(_spread(len(self._reference), len(points)))[0].reshape(-1, points.shape[1])
        figures = {"sliced_wasserstein": wasserstein.sliced_wasserstein(points[: len(real)], real, seed=self._seed)}
        if mixture := data.MIXTURES.get(self._dataset.name):
            figures |= modes.mode_coverage(points, mixture.centers, mixture.sd, mixture.shares)
        return {figure: float(value) for figure, value in figures.items()}

    def _nearness(self, fake: np.ndarray) -> float:
        """How near samples come to training images, over how near images come to them that were not trained on.

        The median distance to the nearest training image, of the samples and of the reference: 1 is what fresh images
        would have, and far below 1 is copying.
        """
        return self._distance_to_training(fake) / max(self._distance_of_fresh, float(np.finfo(np.float32).tiny))

    @functools.cached_property
    def _distance_of_fresh(self) -> float:
        return self._distance_to_training(self._real["features"])

    def _distance_to_training(self, queries: np.ndarray) -> float:
        training = self._kept(self._dataset, _spread(len(self._dataset), POOL))["features"]
        return float(np.median(neighbors.nearest(queries, training).distances[:, 0]))

    def _kept(self, dataset: Any, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Features and labels of these images of a dataset, from the cache folder where they were computed before."""
        what = (dataset.name, dataset.split, dataset.fingerprint, dataset.image_shape, self._extractor.identity,
                hashlib.sha256(rows.tobytes()).hexdigest())  # fmt: skip
        folder = data.cache.cache_folder() / "features" / hashlib.sha256(repr(what).encode()).hexdigest()[:16]
        kept = data.cache.read_arrays(folder, ("features", "labels"))
        if kept is None:
            images, labels = dataset.arrays()
            logger.info("Looking at %s images of %s (%s), once.", f"{len(rows):,}", dataset.name, dataset.split)
            found = [self._extractor.features(np.asarray(images[part])) for part in _parts(rows)]
            kept = {"features": np.concatenate(found), "labels": np.asarray(labels[rows])}
            data.cache.write_arrays(folder, kept)
        return kept

    def _classifier(self) -> classifier.Classifier:
        """The dataset's own classifier: trained on the training split, once, and tested on the reference.

        Where both are one split, a fifth of it is kept from the training, for the test.
        """
        source, reference = self._dataset, self._reference
        if self._is_stacked:
            settings = self._config.data
            source, reference = (data.open_dataset(settings, split, name="mnist") for split in ("train", "test"))
        train, test = source.arrays(), reference.arrays()
        if reference.split == source.split:
            is_test = np.arange(len(train[1])) % 5 == 4
            train, test = [leaf[~is_test] for leaf in train], [leaf[is_test] for leaf in train]
        trained = classifier.load_or_train(
            data.cache.cache_folder() / "classifiers",
            f"{source.fingerprint} {source.split} {reference.split}",
            *train,
            len(source.class_names),
            np.asarray(test[0]),
            np.asarray(test[1]),
        )
        self._test_accuracy = trained.test_accuracy
        return trained


def _reference(config: ConfigDict) -> Any:
    """The split that samples are compared with; where there is no test split, the training split, and that is told."""
    split = config.evaluation.split
    try:
        return data.open_dataset(config.data, split)
    except UserError as error:
        if split != "test":  # asked for by name
            raise
        logger.warning("%s. Samples are compared with the training split %r.", error, config.data.split)
        return data.open_dataset(config.data)


def _spread(total: int, count: int) -> np.ndarray:
    """`count` rows, or all there are, evenly spread over `total`."""
    count = min(count, total)
    return np.arange(count, dtype=np.int64) * total // count


def _parts(rows: np.ndarray, size: int = 1000) -> Iterable[np.ndarray]:
    return (rows[first : first + size] for first in range(0, len(rows), size))


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255.0
