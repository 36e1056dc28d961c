"""Where there are few images, is it better to begin from a generator of other images, and to freeze D's first layers?

python -m experiments.studies.fine_tuning --flags=FOLDER --workdir=runs/fine_tuning

Trains a narrow DCGAN on MNIST, in color so that every shape is that of the targets, and then on two small datasets: a
folder of flags, and 300 images of one class of CIFAR-10. Each target is trained at random (`scratch`), from the
networks of MNIST (`initialized`), and from them with the first two of D's three convolutions frozen (`frozen`;
FreezeD, Mo et al. 2020, arXiv:2002.10964). The seeds of a row are trained at once, as a population, and the same
command continues an interrupted study.

Metrics are in the features of a classifier of all ten classes of CIFAR-10, since neither target has labels: for
the flags against the flags themselves, and for the class against its test images.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from configs import dcgan
from experiments import cli
from experiments.benchmarks import timing
from gan import data
from gan.errors import UserError
from gan.inference.model import Model, load
from gan.metrics import classifier, frechet, kernel
from gan.train import population

SIDE = 16
"""Pixels of an image. The classifier of CIFAR-10 sees each of them as two by two."""
CLASS = "automobile"
CLASS_IMAGES, REFERENCE_IMAGES = 300, 1000
SAMPLES = 500
FREEZE = {"scratch": "", "initialized": "", "frozen": "discriminator:2"}
"""The rows of a target, with their `config.freeze`. D has three convolutions and a dense layer."""


def main() -> None:
    """Trains and evaluates every row, and prints a table."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--flags", type=Path, required=True, help="a folder of images")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--source_steps", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--width", type=int, default=8)
    arguments = parser.parse_args()
    folder, launched = arguments.workdir, time.monotonic()
    write_class(folder / CLASS)
    source = config_of(arguments.width, 0, arguments.source_steps)
    source.data.name, source.batch_size = "mnist", 64
    train([source], [folder / "mnist"], launched)
    features_of, rows = cifar_features(), []
    for target, (settings, reference) in targets(arguments.flags, folder / CLASS).items():
        real = features_of(reference)
        for name, freeze in FREEZE.items():
            start, configs = time.perf_counter(), []
            for seed in arguments.seeds:
                config = config_of(arguments.width, seed, arguments.steps)
                config.data.update(settings)
                config.initialize_from = "" if name == "scratch" else str(folder / "mnist")
                config.freeze = freeze
                configs.append(config)
            folders = [folder / "runs" / f"{target}-{name}-seed{seed}" for seed in arguments.seeds]
            train(configs, folders, launched)
            found = [metrics_of(load(folder), real, features_of) for folder in folders]
            rows.append((target, name, *(spread([line[metric] for line in found]) for metric in ("fd", "kd"))))
            seconds = round(time.perf_counter() - start, 1)
            print(json.dumps({"target": target, "row": name, "seconds": seconds, "seeds": found}), flush=True)
    print(timing.table(("target", "begins", "fd", "kd"), rows))


def config_of(width: int, seed: int, steps: int) -> ConfigDict:
    """A DCGAN whose D has no batch normalization, with R1."""
    config = dcgan.get_config("digits")
    config.seed, config.steps, config.batch_size = seed, steps, 32
    config.data.image_size, config.data.channels = (SIDE, SIDE), 3
    for player in (config.generator, config.discriminator):
        player.width, player.depth = width, 3
    config.discriminator.batch_norm = False
    config.penalties.r1, config.discriminator.penalty_interval = 1.0, 4
    config.generator.learning_rate, config.discriminator.learning_rate = 1e-3, 5e-4
    config.ema_halflife, config.schedules.ema_halflife = 5000.0, ""
    config.sample_every, config.checkpoint_every = 0, 0
    return config


def targets(flags: Path, images: Path) -> dict[str, tuple[dict, np.ndarray]]:
    """{name: (fields of `config.data`, reference images)} of the small datasets."""
    common = {"name": "folder", "crop": "none"}
    settings = {
        "flags": common | {"dir": str(flags), "split": "train+test"},
        CLASS: common | {"dir": str(images), "split": "train"},
    }
    splits = {"flags": "train+test", CLASS: "test"}
    found = {}
    for name, fields in settings.items():
        opened = data.load(
            name="folder", data_dir=fields["dir"], split=splits[name], image_size=(SIDE, SIDE), channels=3, crop="none"
        )
        found[name] = fields, np.asarray(opened.arrays()[0])
    return found


def write_class(folder: Path) -> None:
    """Writes images of CLASS as a folder of images with the splits train and test."""
    for split, count in (("train", CLASS_IMAGES), ("test", REFERENCE_IMAGES)):
        if (folder / split / CLASS).is_dir():
            continue
        dataset = data.load(name="cifar10", split=split)
        images, labels = dataset.arrays()
        rows = np.flatnonzero(labels == dataset.class_names.index(CLASS))[:count]
        (folder / split / CLASS).mkdir(parents=True)
        for row in rows:
            Image.fromarray(np.asarray(images[row])).save(folder / split / CLASS / f"{row:05d}.png")


def cifar_features() -> Callable[[np.ndarray], np.ndarray]:
    """The function from images uint8 [N, 16, 16, 3] to the features [N, 128] of a classifier of CIFAR-10."""
    parts = [data.load(name="cifar10", split=split) for split in ("train", "test")]
    (images, labels), (test_images, test_labels) = (part.arrays() for part in parts)
    trained = classifier.load_or_train(
        data.cache.cache_folder() / "classifiers", f"{parts[0].fingerprint} train test", images, labels, 10,
        np.asarray(test_images), np.asarray(test_labels),
    )  # fmt: skip
    print(json.dumps({"classifier_test_accuracy": trained.test_accuracy}), flush=True)
    return lambda images: classifier.features(trained.variables, images.repeat(2, axis=1).repeat(2, axis=2))


def train(configs: Sequence[ConfigDict], folders: Sequence[Path], launched: float) -> None:
    """Trains runs together. Raises `UserError` where one does not reach its end."""
    for folder, end in zip(folders, population.train(configs, folders, launched), strict=True):
        if end.status:
            raise UserError(f"{folder} ended with status {end.status}: {end.why}")


def metrics_of(model: Model, real: np.ndarray, features_of: Callable) -> dict[str, float]:
    """The Frechet and the kernel distance of samples to real images with these features [N, 128]."""
    fake = features_of(model.sample(SAMPLES))
    return {
        "fd": frechet.frechet_distance(frechet.moments(real), frechet.moments(fake)),
        "kd": kernel.kernel_distance(real, fake, subset_size=min(len(real), SAMPLES), seed=0).mean,
    }


def spread(values: Sequence[float]) -> str:
    """The mean and the standard deviation."""
    return f"{np.mean(values):.4g} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.2g}"


if __name__ == "__main__":
    cli.run(main)
