"""Records: the examples of a prepared TFDS split, read at random access, decoded, and cached as arrays."""

import dataclasses
import hashlib
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from gan.data import cache, pixels, prepare, work
from gan.data.labels import count_labels
from gan.data.reasons import one_line
from gan.errors import UserError, nearest

logger = logging.getLogger(__name__)

IMAGES_PER_TASK = 256
"""Images that one thread decodes at a time: enough to hide the cost of a call, few enough to keep all threads busy."""
DECODING_VERSION = 2
"""Part of the cache key. Increase it with every change of how an encoded image becomes pixels."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a dataset. Each image is cropped, resized and converted to the requested number of channels."""

    name: str
    split: str
    class_names: tuple[str, ...]
    fingerprint: str
    image_shape: tuple[int, int, int]
    crop: str
    _records: Any = dataclasses.field(repr=False, compare=False)
    _features: Any = dataclasses.field(repr=False, compare=False)
    _cache: pathlib.Path = dataclasses.field(repr=False, compare=False)
    _shard_stamps: Sequence = dataclasses.field(repr=False, compare=False)
    """(path, size, modification time) of each file."""
    _shard_ends: np.ndarray = dataclasses.field(repr=False, compare=False)
    """The index after the last example of each file."""

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """{"image": uint8 [H, W, C], "label": int32 scalar}; the label is 0 if the dataset has no labels."""
        images, labels = self.read([index])
        return {"image": images[0], "label": labels[0]}

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples at `indices` (length k): uint8 [k, H, W, C] and int32 [k]. Thread-safe.

        Raises:
          UserError: the files are corrupted, or have changed since they were opened.
        """
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        labels = np.zeros(len(indices), np.int32)
        try:
            for row, record in enumerate(self._records.__getitems__([int(index) for index in indices])):
                example = self._features.deserialize_example_np(record, decoders=undecoded_image())
                images[row] = self._decode(example["image"])
                labels[row] = example.get("label", 0)
        except Exception as error:  # ArrayRecord, protocol buffers and PIL each raise their own exceptions
            raise self._damaged(indices, error) from error
        self._check_unchanged(indices)
        return images, labels

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The whole split: uint8 [N, H, W, C] and int32 [N]. Decoded by the first call, memory-mapped by later ones."""
        identity = (self.fingerprint, self._shard_stamps, self.image_shape, self.crop, DECODING_VERSION)
        key = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
        folder = self._cache / "arrays" / f"{_file_name(self.name)}-{_file_name(self.split)}-{key}"
        cached = cache.read_arrays(folder, ("images", "labels"))
        if cached is None:
            logger.info("Decoding the %s images of %s into %s (only once).", f"{len(self):,}", self.name, folder)
            cached = dict(zip(("images", "labels"), self._decode_all(), strict=True))
            cache.write_arrays(folder, cached)
        return cached["images"], cached["labels"]

    def class_counts(self) -> tuple[int, ...]:
        """The number of examples of each class of `class_names`; a slice of a split may have none of some.

        The first call reads the labels of the whole split, without decoding images; later ones find them in the cache.
        """
        if not self.class_names:
            return ()
        key = hashlib.sha256(repr((self.fingerprint, self._shard_stamps)).encode()).hexdigest()[:16]
        folder = self._cache / "labels" / f"{_file_name(self.name)}-{_file_name(self.split)}-{key}"
        cached = cache.read_arrays(folder, ("labels",))
        if cached is None:
            cached = {"labels": self._read_labels()}
            cache.write_arrays(folder, cached)
        return count_labels(cached["labels"], self.class_names)

    def _read_labels(self):
        logger.info("Reading the %s labels of %s (only once).", f"{len(self):,}", self.name)

        def read(start):
            rows = range(start, min(start + IMAGES_PER_TASK, len(self)))
            try:
                examples = [
                    self._features.deserialize_example_np(record, decoders=undecoded_image())
                    for record in self._records.__getitems__(list(rows))
                ]
            except Exception as error:
                raise self._damaged(rows, error) from error
            self._check_unchanged(rows)
            return [example["label"] for example in examples]

        starts = range(0, len(self), IMAGES_PER_TASK)
        parts = list(work.map_in_threads(read, starts, what=f"Reading labels, {IMAGES_PER_TASK} at a time"))
        return np.concatenate(parts).astype(np.int32)

    def _damaged(self, indices, error):
        """The error of a read that failed, or raises that the files were changed."""
        self._check_unchanged(indices)
        folder = pathlib.Path(self._shard_stamps[0][0]).parent
        return UserError(f"{folder} is damaged ({one_line(error)}); delete that folder and prepare {self.name} again")

    def _check_unchanged(self, indices):
        """Call after a read, so that no data from a changed file is returned."""
        for shard in np.unique(np.searchsorted(self._shard_ends, np.asarray(indices, np.int64), side="right")):
            path, size, time = self._shard_stamps[shard]
            if (cache.stamp(path) or ())[:2] != (size, time):
                raise UserError(f"{path} was changed or removed during the run: restore it, and run again")

    def _decode_all(self):
        images = np.empty((len(self), *self.image_shape), np.uint8)
        labels = np.empty(len(self), np.int32)

        def decode(start):
            rows = range(start, min(start + IMAGES_PER_TASK, len(self)))
            images[rows.start : rows.stop], labels[rows.start : rows.stop] = self.read(rows)

        starts = range(0, len(self), IMAGES_PER_TASK)
        for _ in work.map_in_threads(decode, starts, what=f"Decoding {self.name}, {IMAGES_PER_TASK} images at a time"):
            pass
        return images, labels

    def _decode(self, encoded):
        height, width, channels = self.image_shape
        image = pixels.to_gray_or_rgb(pixels.open_image(encoded))
        return pixels.to_array(pixels.crop_and_resize(image, (height, width), self.crop), channels)


def undecoded_image() -> dict[str, Any]:
    """The TFDS decoders that leave an image encoded: this project decodes it, see `pixels`."""
    import tensorflow_datasets as tfds

    return {"image": tfds.decode.SkipDecoding()}


def image_and_label(builder: Any, name: str) -> Any:
    """The TFDS features that are read: "image", and "label" if there is an integer one.

    Raises:
      UserError: the dataset has no image of unsigned integers.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    present = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = present.get("image"), present.get("label")
    if not isinstance(image, tfds.features.Image) or np.dtype(image.np_dtype).kind != "u":
        raise UserError(f"config.data.name={name!r} has no 'image' of integer pixels; it has: {', '.join(present)}")
    if label is None or label.shape != () or np.dtype(label.np_dtype).kind not in "iu":
        return tfds.features.FeaturesDict({"image": image})
    return tfds.features.FeaturesDict({"image": image, "label": label})


def open_records(builder: Any, name: str, split: str) -> tuple[Sequence[bytes], Sequence[Any]]:
    """The serialized examples of a split, by index, and TFDS's description of the shards that contain them.

    Raises:
      UserError: an unknown or empty split, or files that are missing or truncated.
    """
    import tensorflow_datasets as tfds

    splits = builder.info.splits
    try:
        shards = splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise UserError(
            f"config.data.split={split!r} is not a split of {name}{nearest(split, splits)}; "
            f"expected: {', '.join(splits)}, and slices such as {next(iter(splits))}[:80%]"
        ) from error
    if not shards:
        raise UserError(f"config.data.split={split!r} of {name} contains no examples")
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    try:
        records = builder.as_data_source(split, deserialize_method=raw, file_format="array_record")
        records[len(records) - 1]  # a missing or truncated file fails here, not in the middle of a run
    except Exception as error:
        raise UserError(
            f"{builder.data_path} is damaged ({one_line(error)}); {prepare.repair_hint(builder, name)}"
        ) from error
    return records, shards


def shard_stamps(shards: Sequence[Any]) -> list[tuple]:
    """(path, size, modification time) of each shard: they differ if a file has been written to."""
    return [(str(shard.filename), *(cache.stamp(shard.filename) or ())[:2]) for shard in shards]


def _file_name(text):
    return "".join(character if character.isalnum() or character in "._" else "-" for character in text)
