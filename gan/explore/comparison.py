"""Views of samples beside the data that the run was trained on: nearest training images and power spectra."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gan.errors import UserError
from gan.evaluation import reference
from gan.evaluation.command import options_and_data
from gan.evaluation.reference import CHUNK, RealData, evenly_spaced
from gan.explore.options import Options, default_name, sample_codes, shown_labels
from gan.inference import codes
from gan.inference import spectrum as spectra
from gan.inference.model import Model
from gan.io import atomic, plots, sheets, workdir
from gan.io.progress import progress
from gan.metrics import features
from gan.metrics import neighbors as nearest_neighbors

NEAREST = 7
"""Training images beside each sample."""


def neighbors(options: Options, model: Model) -> list[Path]:
    """Samples, one in each row, and beside each its nearest training images, the nearest first."""
    count = options.number(8, highest=100)
    real, extractor = _opened(options, model)
    latents, labels = sample_codes(options, model, count)
    samples = codes.draw(model, codes.encode(model, latents, labels), labels)
    images, _ = real.training.arrays()
    found = nearest_images(extractor, samples, images, NEAREST)
    shown = np.asarray(images[found.indices.ravel()]).reshape(*found.indices.shape, *samples.shape[1:])
    names = ["sample", *(f"{k + 1}" for k in range(shown.shape[1]))]
    distances = [f"{value:.3g}" for value in found.distances[:, 0]]
    stem = options.stem(default_name(options, model))
    path = stem.with_name(f"{stem.name}.png")
    sheet = sheets.sheet(np.concatenate([samples[:, None], shown], axis=1), distances, names)
    plots.save_png(path, sheet, enlarge=False)
    return [path]


def nearest_images(
    extractor: features.Extractor, samples: np.ndarray, images: np.ndarray, k: int
) -> nearest_neighbors.Neighbors:
    """The k nearest of images uint8 [M, H, W, C] to each of samples [N, H, W, C], by an extractor's features.

    The images are read a part at a time, so that all of a dataset can be searched. Fewer than k: all of them.
    """
    queries = extractor.features(samples)
    indices, distances = np.zeros((len(samples), 0), np.int64), np.zeros((len(samples), 0))
    starts = range(0, len(images), CHUNK)
    for start in progress(starts, total=len(starts), what=f"Searching {len(images):,} images, in batches"):
        part = extractor.features(np.asarray(images[start : start + CHUNK]))
        found = nearest_neighbors.nearest(queries, part, min(k, len(part)))
        indices = np.concatenate([indices, start + found.indices], axis=1)
        distances = np.concatenate([distances, found.distances], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        indices, distances = np.take_along_axis(indices, order, axis=1), np.take_along_axis(distances, order, axis=1)
    return nearest_neighbors.Neighbors(indices, distances)


def spectrum(options: Options, model: Model) -> list[Path]:
    """The mean radial power spectrum of samples and of real images: a plot and a JSON file."""
    count = options.number(1000, lowest=2, highest=100_000)
    real, _ = _opened(options, model)
    images, _ = real.reference.arrays()
    data = np.asarray(images[evenly_spaced(len(images), count)])
    samples = model.sample(count, seed=options.seed, classes=shown_classes(options, model))
    means = {
        name: spectra.radial_spectrum(found).mean(axis=0) for name, found in (("data", data), ("samples", samples))
    }
    side = min(model.game.image_shape[:2])
    stem = options.stem(default_name(options, model))
    plot, table = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.json")
    ratio = 10 * np.log10(np.maximum(means["samples"], 1e-20) / np.maximum(means["data"], 1e-20))
    record = {
        "cycles_per_pixel": [k / side for k in range(1, len(ratio))],
        "data": means["data"][1:].tolist(), "samples": means["samples"][1:].tolist(),
        "samples_over_data_db": ratio[1:].tolist(),
        "num_data": len(data), "num_samples": len(samples), "split": real.reference.split, "step": model.step,
        "seed": options.seed,
    }  # fmt: skip
    atomic.write_json(table, record)
    plots.draw_spectrum(plot, record)
    return [plot, table]


def shown_classes(options: Options, model: Model) -> list[int]:
    """The classes of --classes, by index."""
    return shown_labels(options, model).tolist() if options.classes else []


def differentiable(options: Options, model: Model) -> Callable:
    """The features of the extractor of --extractor, to be differentiated. Raises `UserError` where they cannot be."""
    _, extractor = _opened(options, model)
    if extractor.differentiable is None:
        raise UserError(f"--extractor={options.extractor} cannot be differentiated for this data; expected: pixels")
    return extractor.differentiable


def _opened(options: Options, model: Model) -> tuple[RealData, features.Extractor]:
    """The data of the run, and the extractor of --extractor, by default the pixels."""
    evaluation, real, dataset = options_and_data(options.folder, extractor=options.extractor or "pixels")
    workdir.check_data(options.folder, dataset, real.training.fingerprint)
    has_labels = len(real.training.class_names) > 1
    info = features.DatasetInfo(
        real.training.image_shape,
        (lambda: reference.dataset_classifier(evaluation, real)) if has_labels else None,
        real.training.name == "stacked_mnist",
    )
    return real, features.extractor(evaluation.extractor, info, "--extractor")
