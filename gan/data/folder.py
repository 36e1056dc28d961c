"""A folder or ZIP file of images as a TFDS dataset: checked once, prepared in the cache folder, known by its contents.

The folder itself is only read. Its subfolders are the classes, or the splits with the classes below them; a folder
without subfolders is one class. Labels in a `dataset.json` (see `dataset_json`) are the classes instead. Every slice of
a split has its share of every class.
"""

import collections
import hashlib
import io
import logging
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from gan.data import dataset_json, image_files, listing, pixels, values, work
from gan.data.encoded_files import FolderFiles, ZipFiles
from gan.data.reasons import one_line, warn_once
from gan.errors import UserError

logger = logging.getLogger(__name__)

VERSION = "2.0.0"
SHARD_BYTES = 128 << 20
"""TFDS holds the encoded images of one shard in memory while it writes them."""
HELD_OUT = 10
"""One in HELD_OUT images becomes the split "test" of a folder that has no splits, so that a generator is compared with
images that it has not been trained on."""
MIN_TEST_IMAGES = 10
"""Nothing is held out from a folder where this would be fewer."""


class Example(NamedTuple):
    """An image to be stored."""

    file: image_files.ImageFile
    split: str
    label: int
    digest: str
    """Of the file's content."""


def builder(
    data_dir: str | os.PathLike, root: pathlib.Path, skip_broken: bool, white: float = 0.0
) -> tfds.core.DatasetBuilder:
    """The TFDS builder for the images in the folder or ZIP file `data_dir`, prepared or to be prepared under `root`.

    Args:
      data_dir: the folder of images, or a ZIP file of it.
      root: the parent of prepared folders, one for each distinct content.
      skip_broken: skip unreadable files with one warning instead of stopping.
      white: the value that is white in images of more than 8 bits; 0: found from their values.

    Raises:
      UserError: no folder or ZIP file, fewer than two images, an unreadable file, images beside class folders, an
        image without a label in `dataset.json`, or images whose white is unknown.
    """
    files, names = list_files(data_dir)
    labels = read_labels(files, names)
    places = listing.places(files.source, names, labels)
    class_names = names_of_classes(places, labels)
    digests, whole = files.digests(names, root / "seen")
    options = (VERSION, skip_broken, class_names, *([float(white)] if white else []))
    identity = hashlib.sha256(repr(options).encode())
    if labels is not None or whole:
        identity.update(repr((labels, whole)).encode())
    for name, digest in zip(names, digests, strict=True):
        identity.update(f"{name}\0{digest}\0".encode(errors="surrogateescape"))
    data_root = root / f"folder-{identity.hexdigest()[:32]}"
    if (found := prepared(data_root)) is not None:
        return found
    return checked(files, names, places, class_names, digests, skip_broken, white, data_root)


def checked(
    files: Any,
    names: Sequence[str],
    places: Sequence[listing.Place],
    class_names: Sequence[str],
    digests: Sequence[str],
    skip_broken: bool,
    white: float,
    data_root: pathlib.Path,
) -> tfds.core.DatasetBuilder:
    """The builder that prepares images in `data_root`, each of which is decoded once to check it.

    Args:
      files: where they come from, see `encoded_files`.
      names, places, digests: of each image.
      class_names: of all classes.
      skip_broken, white: as of `builder`.
    """
    images = image_files.check_images(files, names, skip_broken)
    whites = values.whites(files.source, {name: image.values for name, image in images.items()}, white)
    numbers = {name: number for number, name in enumerate(class_names)}
    examples = [
        Example(images[name], place.split, numbers[place.class_name], digest)
        for name, place, digest in zip(names, places, digests, strict=True)
        if name in images
    ]
    return Folder(files=files, examples=examples, class_names=class_names, whites=whites, data_dir=data_root)


def prepared(data_root: pathlib.Path) -> tfds.core.DatasetBuilder | None:
    """The builder of what a `Folder` has prepared in `data_root`, or None."""
    folder = data_root / Folder.name / VERSION
    return tfds.builder_from_directory(folder) if (folder / "dataset_info.json").exists() else None


def read_labels(files: Any, names: Sequence[str]) -> list[int] | None:
    """The label of each image by a `dataset.json` beside them, or None."""
    if not files.has(dataset_json.NAME):
        return None
    where = str(files.source / dataset_json.NAME)
    try:
        content = files.read(dataset_json.NAME)
    except Exception as error:  # ZIP files raise many kinds
        raise UserError(f"{where} cannot be read ({one_line(error)})") from error
    return dataset_json.read_labels(where, content, names)


def names_of_classes(places: Sequence[listing.Place], labels: Sequence[int] | None) -> list[str]:
    """The names in natural order; by labels, "0" to the largest of them, whether or not there is an image of each."""
    if labels is not None and max(labels) >= 0:
        return [str(label) for label in range(max(labels) + 1)]
    return sorted({place.class_name for place in places}, key=listing.natural_order)


def list_files(data_dir: str | os.PathLike) -> tuple[FolderFiles | ZipFiles, list[str]]:
    """The files of a folder or ZIP file, and the names of its images; other files are counted in one warning."""
    if not data_dir:
        raise UserError("config.data.name='folder' needs config.data.dir: the folder of images, or a ZIP file")
    source = pathlib.Path(os.path.expanduser(data_dir)).absolute()
    if source.suffix == ".npz" and source.is_file():
        raise UserError(f"config.data.dir={str(data_dir)!r} is an NPZ file; expected for it: config.data.name=npz")
    files = FolderFiles(source) if os.path.isdir(source) else ZipFiles(source)
    ignored: collections.Counter[str] = collections.Counter()
    names = files.images(ignored)
    if files.has(dataset_json.NAME):
        ignored -= collections.Counter({".json": 1})
    if len(names) < 2:
        found = f"only one image, {names[0]}" if names else f"no images ({', '.join(listing.EXTENSIONS)})"
        beside = f", and other files: {listing.counts_text(ignored)}" if ignored else ""
        raise UserError(f"config.data.dir={str(data_dir)!r} contains {found}{beside}; a dataset needs at least two")
    if ignored:
        warn_once(f"Files of {source} that are not read as images: {listing.counts_text(ignored)}")
    return files, names


def in_shares(examples: Sequence[Example]) -> list[Example]:
    """The examples in an order in which every slice has its share of every class: a function of the files alone.

    The examples of a class are ordered by the digests of their contents, and placed at equal distances.
    """
    by_class = collections.defaultdict(list)
    for example in sorted(examples, key=lambda example: example.digest):  # stable: copies stay in the order of names
        by_class[example.label].append(example)
    placed = [
        ((rank + 0.5) / len(of_class), example.digest, number, example)
        for number, of_class in enumerate(by_class.values())
        for rank, example in enumerate(of_class)
    ]
    return [example for *_, example in sorted(placed, key=lambda place: place[:3])]


def hold_out(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """{"train": examples, "test": one in HELD_OUT of them}, with shares of all classes, and copies on one side."""
    ordered = in_shares(examples)
    kept = len(ordered) - len(ordered) // HELD_OUT
    contents = {example.digest for example in ordered[kept:]}
    train = [example for example in ordered[:kept] if example.digest not in contents]
    if {example.label for example in train} != {example.label for example in ordered[:kept]}:
        return {"train": ordered[:kept], "test": ordered[kept:]}  # all images of a class are copies of one
    return {"train": train, "test": [example for example in ordered if example.digest in contents]}


class Folder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Images at their own size, stored losslessly: PNG and JPEG files byte for byte, other formats as PNG."""

    name = "folder"
    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, files, examples, class_names, whites, data_dir):
        self._files = files
        self._all_gray = all(example.file.is_gray for example in examples)
        self._sizes = {example.file.size for example in examples}
        self._class_names = class_names
        self._whites = whites
        self._splits: dict[str, list[Example]] = collections.defaultdict(list)
        for example in examples:
            self._splits[example.split].append(example)
        if set(self._splits) == {"train"} and len(examples) >= HELD_OUT * MIN_TEST_IMAGES:
            self._splits = hold_out(examples)
            test, total = len(self._splits["test"]), len(examples)
            logger.info(
                "Holding out %s of the %s images as split 'test', chosen by their contents; split 'train+test' is all.",
                f"{test:,}", f"{total:,}",
            )  # fmt: skip
        super().__init__(data_dir=data_dir)

    def _info(self):
        width, height = next(iter(self._sizes)) if len(self._sizes) == 1 else (None, None)
        features = {
            "image": tfds.features.Image(shape=(height, width, 1 if self._all_gray else 3)),
            "label": tfds.features.ClassLabel(names=[name or "image" for name in self._class_names]),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images of a folder.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _shard_iterators_per_split(self, dl_manager):
        return {
            split: [lambda shard=shard: self._stored(shard) for shard in _shards(self._files, in_shares(examples))]
            for split, examples in self._splits.items()
        }

    def _stored(self, shard):
        what = f"Storing {len(shard):,} images in {self.data_path}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `check_images` has named the files
            for example, image in zip(shard, work.map_in_threads(self._encoded, shard, what=what), strict=True):
                yield os.fsencode(example.file.name), {"image": image, "label": example.label}

    def _encoded(self, example):
        """The bytes of the file, or of a PNG file with the same pixels."""
        file = example.file
        content = self._files.read(file.name)
        if file.can_store_bytes and file.is_gray == self._all_gray:
            return content
        image = pixels.to_gray_or_rgb(pixels.open_image(content), self._whites)
        encoded = io.BytesIO()
        image.convert("L" if self._all_gray else "RGB").save(encoded, "PNG")
        return encoded.getvalue()


def _shards(files, examples):
    """The examples in parts of about SHARD_BYTES."""
    shards: list[list[Example]] = [[]]
    bytes_left = SHARD_BYTES
    for example in examples:
        size = files.size(example.file.name)
        if shards[-1] and size > bytes_left:
            shards.append([])
            bytes_left = SHARD_BYTES
        shards[-1].append(example)
        bytes_left -= size
    return shards
