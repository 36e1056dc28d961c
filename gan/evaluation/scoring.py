"""The command `--mode=evaluate --samples=PATH`: the metrics of images of any model, by the protocol of a config."""

import dataclasses
import logging
import time
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from gan import checks
from gan.data import is_point, read_images
from gan.data.read_images import Images
from gan.errors import UserError
from gan.evaluation import evaluator
from gan.evaluation.command import options_with
from gan.evaluation.images import ImageEvaluator
from gan.evaluation.options import MIN_SAMPLES
from gan.evaluation.reference import RealData, open_data
from gan.io import plots, workdir

logger = logging.getLogger(__name__)


def score(
    samples: Path, config: ConfigDict, *, out: Path | None = None, count: int | None = None, seed: int = 0,
    extractor: str | None = None, metrics: tuple[str, ...] | None = None, error_bars: int | None = None,
) -> None:  # fmt: skip
    """Writes the metrics of images, those of as many real training images, and the protocol, as of a run.

    No run, checkpoint or generator is needed: `config.data` says what the images are compared with, and
    `config.evaluation` how. Images of another size or number of channels than `config.data` are converted, as the
    images of a dataset are, with a warning; the record says what was done. An NPZ file is scored in its order, which
    the inception score depends on; the files of a folder, whose order is often that of the classes, are permuted.

    Args:
      samples: a folder, ZIP or NPZ file of images: see `read_images`.
      config: of the protocol.
      out: the JSON file to write; None: SAMPLES.evaluation.json, beside the samples. With the metric `memorization`,
        the nearest training images are shown in a PNG file beside it.
      count: the number of images, evenly spaced in their order; None: up to `config.evaluation.num_samples`.
      seed: of the permutation and of the metrics.
      extractor, metrics, error_bars: see `command.evaluate`.

    Raises:
      UserError: images that cannot be read, fewer than `count` or MIN_SAMPLES of them, points in the plane, a config
        in error, or a file that cannot be written.
    """
    out = out or samples.with_name(f"{samples.name.removesuffix('.npz').removesuffix('.zip')}.evaluation.json")
    if out.suffix != ".json":
        raise UserError(f"--out={out} must end in .json")
    if not samples.exists():
        raise UserError(f"--samples={str(samples)!r} does not exist; expected: a folder, ZIP or NPZ file of images")
    checks.check_values(config)
    options = options_with(
        config, count=count, extractor=extractor, metrics=metrics, error_bars=error_bars, are_labeled=True
    )
    real = open_data(options)
    has_labels = "intra_class" in options.metrics
    images, labels, record = _read(samples, real, options.num_samples, seed, config.data.crop, has_labels)
    _check_count(samples, len(images), count, options.num_samples)
    run_evaluator = evaluator.create(dataclasses.replace(options, num_samples=len(images)), seed, real)
    logger.info("Computing the metrics of real training images.")
    baseline = run_evaluator.real_baseline()
    logger.info("real training images: %s", evaluator.describe(baseline))
    start = time.perf_counter()
    found = run_evaluator.compute_from_images(images, labels)
    seconds = round(time.perf_counter() - start, 2)
    logger.info("%s: %s", samples, evaluator.describe(found))
    workdir.write_record(out, {
        "samples": {"metrics": found, "warnings": list(found.warnings), "seconds": seconds},
        "real_training_images": baseline,
        "real_training_images_warnings": list(baseline.warnings),
        "protocol": run_evaluator.protocol() | {"samples": record},
    })  # fmt: skip
    if found.pairs is not None and isinstance(run_evaluator, ImageEvaluator):
        plots.save_png(out.with_suffix(".png"), run_evaluator.picture(images[found.pairs.samples], found.pairs))
    logger.info("%s", out)


def _read(
    samples: Path, real: RealData, count: int, seed: int, crop: str, has_labels: bool
) -> tuple[np.ndarray, np.ndarray, dict]:
    """The images [N, H, W, C] and labels [N] in the order in which they are scored, and the record of both."""
    training = real.training
    if is_point(training.image_shape):
        raise UserError(f"--samples are images, and the data {training.name!r} are points; expected: data of images")
    found = read_images.read_images(samples, training.image_shape, crop, count=count, has_labels=has_labels)
    record = found.record
    labels = _labels(found, training.class_names) if has_labels else np.zeros(len(found.images), np.int32)
    order = np.arange(len(found.images))
    record["order"] = "as in the file"
    if record["format"] != "npz":
        order = np.random.default_rng(seed).permutation(len(order))
        record["order"] = f"permuted at random, seed {seed}"
    logger.info("%s: %s of %s images (%s)", samples, f"{len(order):,}", f"{record['found']:,}", record["choice"])
    for what in ("resized", "converted"):
        if record[what] != "no":
            logger.warning("%s: images are %s: %s. The metrics include that.", samples, what, record[what])
    return found.images[order], labels[order], record


def _labels(found: Images, class_names: tuple[str, ...]) -> np.ndarray:
    """The labels int32 [N] as indices of the dataset's classes: by the names of the classes, or else their numbers."""
    if found.labels is None:
        raise UserError(
            "config.evaluation.metrics: 'intra_class' needs the labels of --samples: `labels` in an NPZ file, a folder "
            "for each class, or a dataset.json"
        )
    names = [found.class_names[label] for label in found.labels.tolist()]
    numbers = {name: number for number, name in enumerate(class_names)}
    if unknown := sorted(set(names) - set(numbers)):
        raise UserError(f"--samples: {unknown[0]!r} is no class of the data; expected: {', '.join(class_names[:25])}")
    return np.array([numbers[name] for name in names], np.int32)


def _check_count(samples: Path, found: int, given: int | None, expected: int) -> None:
    """Raises `UserError` where there are too few images, and warns of fewer than the config's number."""
    if found < max(given or 0, MIN_SAMPLES):
        wanted = f"--num_samples={given}" if given and given > MIN_SAMPLES else f"{MIN_SAMPLES} or more"
        raise UserError(f"--samples={samples} has {found} images; expected: {wanted}")
    if found < expected:
        logger.warning(
            "%s has %s images, fewer than config.evaluation.num_samples=%s: compare metrics with those of as many "
            "samples only.", samples, f"{found:,}", f"{expected:,}",
        )  # fmt: skip
