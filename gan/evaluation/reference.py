"""The real images of an evaluation: the training data, the reference split, their features, and their classifier.

Features and classifiers are computed once and kept in the cache folder.
"""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gan import data
from gan.data.order import evenly_spaced
from gan.errors import UserError
from gan.evaluation.options import MIN_SAMPLES, EvaluationOptions
from gan.io import workdir
from gan.io.progress import progress
from gan.metrics import classifier
from gan.metrics.features import Extractor

logger = logging.getLogger(__name__)

CHUNK = 1000
"""Images that are read from a dataset at a time."""
MAX_RANK, MAX_VALUES = 12_500, 2**30
"""The largest matrix of a Frechet distance, 1.25 GB in float64, whose singular values take minutes on two cores; and
the most values of the features of one side, 4 GiB."""


class RealData(NamedTuple):
    """The datasets of an evaluation."""

    training: Any
    """What the run is trained on."""
    reference: Any
    """What samples are compared with."""
    rows: np.ndarray
    """Indices of the examples of `reference` that are used: int64 [R]."""


class Features(NamedTuple):
    """Features float32 [N, D] of images, with the images' labels int32 [N]."""

    features: np.ndarray
    labels: np.ndarray


def open_data(options: EvaluationOptions) -> RealData:
    """Opens the training data and the reference split.

    If the dataset has no test split and none was asked for by name, the training split is the reference, with a
    warning.

    Raises:
      UserError: a dataset or split that cannot be opened, or fewer than MIN_SAMPLES reference images.
    """
    training = data.open_dataset(options.data)
    try:
        reference = data.open_dataset(options.data, options.split)
    except UserError as error:
        if options.split != "test":
            raise _with_own_field(error) from error
        logger.warning(
            "%s. Samples are compared with the training split %r.", _with_own_field(error), options.data["split"]
        )
        reference = training
    rows = evenly_spaced(len(reference), options.reference_samples or len(reference))
    if len(rows) < MIN_SAMPLES:
        raise UserError(
            f"config.evaluation.split={options.split!r} and reference_samples={options.reference_samples} give "
            f"{len(rows)} images to compare with; expected: {MIN_SAMPLES} or more"
        )
    return RealData(training, reference, rows)


def check_split(options: EvaluationOptions) -> None:
    """Raises `UserError` where `config.evaluation.split`, if it is not the default, is no split of the dataset."""
    if options.split not in ("test", options.data["split"]):
        try:
            data.open_dataset(options.data, options.split)
        except UserError as error:
            raise _with_own_field(error) from error


def _with_own_field(error: UserError) -> UserError:
    """The error of opening a split of `config.data`, for the split of `config.evaluation`."""
    return UserError(str(error).replace("config.data.split", "config.evaluation.split"))


def protocol(options: EvaluationOptions, seed: int, real: RealData) -> dict[str, Any]:
    """The part of an evaluation's protocol that does not depend on the kind of data."""
    return {
        "num_samples": options.num_samples,
        "seed": seed,
        "standing_batches": options.standing_batches,
        "dataset": real.training.name,
        "fingerprint": real.training.fingerprint,
        "reference_split": real.reference.split,
        "reference_examples": len(real.rows),
        "versions": workdir.versions(),
    }


def cached_features(extractor: Extractor, dataset: Any, rows: np.ndarray) -> Features:
    """The features and labels of the examples `rows` of a dataset, from the cache folder if computed before."""
    identity = (dataset.name, dataset.split, dataset.fingerprint, dataset.image_shape, extractor.identity,
                hashlib.sha256(rows.tobytes()).hexdigest())  # fmt: skip
    folder = data.cache.cache_folder() / "features" / hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    cached = None if extractor.is_cheap else data.cache.read_arrays(folder, ("features", "labels"))
    if cached is None:
        images, labels = dataset.arrays()
        of_what = f"features of {len(rows):,} images of {dataset.name} ({dataset.split})"
        if not extractor.is_cheap:
            logger.info("Computing %s, only once.", of_what)
        chunks = range(0, len(rows), CHUNK)
        starts = progress(chunks, total=len(chunks), what=f"Computing {of_what}, in batches")
        features = [extractor.features(np.asarray(images[rows[start : start + CHUNK]])) for start in starts]
        cached = {"features": np.concatenate(features), "labels": np.asarray(labels[rows])}
        if not extractor.is_cheap:
            data.cache.write_arrays(folder, cached)
    return Features(**cached)


def check_size(extractor: Extractor, options: EvaluationOptions, real: RealData) -> None:
    """Raises `UserError` where the features are too many to compare, with what would fit.

    The Frechet distance takes matrices with as many rows as the smaller of the number of images and the dimension; the
    other metrics take the features of all images.
    """
    dimension = extractor.dimension
    largest = max(options.num_samples, len(real.rows))
    if min(largest, dimension) > MAX_RANK or largest * dimension > MAX_VALUES:
        fits = min(MAX_VALUES // dimension, MAX_RANK)
        others = ["classifier"] * (len(real.training.class_names) > 1) + ["inception"]
        raise UserError(
            f"config.evaluation.extractor: {extractor.name!r} has {dimension:,} features of an image, which are too "
            f"many to compare {largest:,} images; expected: {' or '.join(others)}, or up to {fits:,} images by "
            f"config.evaluation.num_samples and reference_samples"
        )


def dataset_classifier(options: EvaluationOptions, real: RealData) -> classifier.Classifier:
    """The classifier of the run's dataset: trained once on the training split, tested on the reference split.

    If both are the same split, every fifth example is kept for the test. For StackedMNIST it is a classifier of MNIST.
    """
    training, reference = real.training, real.reference
    if training.name == data.stacked.NAME:
        training, reference = (data.open_dataset(options.data, split, name="mnist") for split in ("train", "test"))
    train: Sequence[np.ndarray] = training.arrays()
    test: Sequence[np.ndarray] = reference.arrays()
    if reference.split == training.split:
        is_test = np.arange(len(train[1])) % 5 == 4
        train, test = [array[~is_test] for array in train], [array[is_test] for array in train]
    return classifier.load_or_train(
        data.cache.cache_folder() / "classifiers",
        f"{training.fingerprint} {training.split} {reference.split}",
        train[0],
        train[1],
        len(training.class_names),
        np.asarray(test[0]),
        np.asarray(test[1]),
    )
