"""Open a dataset by name: bundled digits, one's own images, StackedMNIST, a 2-D toy, or any TFDS image dataset.

Every mistake that a user can make in `config.data` raises a `UserError` of one line here.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from gan.data import cache, pixels, prepare, records, stacked, toys
from gan.data.fingerprint import fingerprint
from gan.data.reasons import one_line, warn_once
from gan.data.records import Dataset
from gan.errors import UserError, lookup

MAX_SIDE = 2**13
"""Pixels: the largest height or width of the images that a dataset delivers."""

AnyDataset = Dataset | toys.Points | stacked.Stacks


def open_dataset(settings: Mapping[str, Any], split: str | None = None, *, name: str | None = None) -> AnyDataset:
    """Opens the dataset of `config.data`, with another split or another name if one is given: see `load`."""
    return load(
        name=name or settings["name"],
        data_dir=settings["dir"],
        split=split or settings["split"],
        image_size=settings["image_size"] or None,
        channels=settings["channels"] if name is None else 0,
        crop=settings["crop"],
        skip_broken=settings["skip_broken"],
        white=settings["white"],
    )


def load(
    *,
    name: str,
    data_dir: str | os.PathLike = "",
    split: str = "train",
    image_size: tuple[int, int] | None = None,
    channels: int = 0,
    crop: str = "center",
    skip_broken: bool = False,
    white: float = 0.0,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset | toys.Points | stacked.Stacks:
    """Opens a dataset, and prepares it first if it is not prepared yet.

    Args:
      name: "digits", "mnist5k", "folder", "npz", "huggingface", "stacked_mnist", a toy of `toys.NAMES`, or a TFDS
        name, optionally with config and version ("mnist", "cifar10:3.0.2").
      data_dir: the folder of prepared data; for "folder", the folder of images or a ZIP file of it, for "npz" the file,
        for "huggingface" the folder that `save_to_disk` has written. If empty, the environment variable TFDS_DATA_DIR,
        else ~/tensorflow_datasets. Bundled datasets and a user's own files are prepared in the cache folder.
      split: a TFDS split ("train", "test", "train[:80%]"). The splits of a folder of images are its folders of these
        names, if it has any, else, as for an NPZ file, "train" and, from 100 images on, "test" with a tenth of them.
      image_size: (height, width) in pixels, or None for the images' own size.
      channels: 1 (gray), 3 (RGB), or 0 for the dataset's own number.
      crop: "center" (crop to the aspect ratio of image_size, then resize) or "none" (stretch).
      skip_broken: for encoded images of a user: skip unreadable files instead of stopping.
      white: for the same: the value that is white in images of more than 8 bits; 0: found from their values.
      cache_dir: see `cache.cache_folder`.

    Raises:
      UserError: an unknown name, split or crop; data that is missing, damaged or not images.
    """
    if name in toys.NAMES:
        return toys.load(name, split, image_size, channels)
    if name == stacked.NAME:
        if channels not in (0, 3):
            raise UserError(f"config.data.channels={channels!r}: {name} has one digit per channel; expected: 0 or 3")
        if split not in stacked.COUNTS:
            raise UserError(f"config.data.split={split!r} is unknown for {name}; expected: {', '.join(stacked.COUNTS)}")
        return stacked.stacks(
            split, load(name="mnist", data_dir=data_dir, split=split, image_size=image_size, cache_dir=cache_dir)
        )
    lookup(dict.fromkeys(pixels.CROPS), crop, "config.data.crop")
    if channels not in (0, 1, 3):
        raise UserError(f"config.data.channels={channels!r}; expected: 0 (the dataset's own), 1 (gray) or 3 (RGB)")
    if image_size is not None and (len(image_size) != 2 or not 1 <= min(image_size) <= max(image_size) <= MAX_SIDE):
        raise UserError(
            f"config.data.image_size={image_size!r}; expected: (height, width) in pixels, 1 to {MAX_SIDE} each"
        )
    cache_folder = cache.cache_folder(cache_dir)
    builder = prepare.find_builder(name, data_dir, cache_folder, skip_broken, white)
    return _load_tfds(builder, name, split, image_size, channels, crop, cache_folder)


def _load_tfds(builder, name, split, image_size, channels, crop, cache_folder):
    """A dataset that TFDS prepares with a builder; the other arguments are those of `load`, checked."""
    features = records.image_and_label(builder, name)
    prepare.prepare(builder, name)
    prepare.check_prepared(builder, name)
    examples, shards = records.open_records(builder, name, split)
    # A user's own files are identified by a digest of their contents, part of the path where they are prepared.
    identity = builder.data_path.parts[-3:] if name in prepare.OWN_FILES else (builder.info.full_name,)
    try:
        digest, sizes = fingerprint((*identity, split), examples, features)
    except Exception as error:
        raise UserError(
            f"{builder.data_path} is damaged ({one_line(error)}); {prepare.repair_hint(builder, name)}"
        ) from error
    image_shape = _image_shape(name, features["image"].shape, image_size, channels)
    if name in prepare.OWN_FILES:  # whose sizes the user may not know; others are enlarged on purpose
        _log_enlarged(name, sizes, image_shape, crop)
    return Dataset(
        name=name,
        split=split,
        class_names=tuple(getattr(features["label"], "names", ())) if "label" in features else (),
        fingerprint=digest,
        image_shape=image_shape,
        crop=crop,
        _records=examples,
        _features=features,
        _cache=cache_folder,
        _shard_stamps=records.shard_stamps(shards),
        _shard_ends=np.cumsum([shard.take for shard in shards]),
    )


def _image_shape(name, native, image_size, channels):
    """(H, W, C) to deliver, from the shape in the dataset's description, where a size that varies is None."""
    height, width = image_size or native[:2]
    if height is None or width is None:
        raise UserError(f"The images of {name} differ in size: set config.data.image_size=(height, width)")
    return int(height), int(width), channels or (1 if native[2] == 1 else 3)


def _log_enlarged(name, sizes, image_shape, crop):
    """One line if most images are smaller than the size that is asked for: they contain no such details."""
    height, width, _ = image_shape
    reduce = min if crop == "center" else max
    enlarged = sorted(size for size in sizes if reduce(size[0] / width, size[1] / height) < 1)
    if len(enlarged) > len(sizes) / 2:
        typical = enlarged[len(enlarged) // 2]
        warn_once(
            f"config.data.image_size=({height}, {width}): most images of {name} are smaller, such as {typical[1]} x "
            f"{typical[0]} (height x width), and are enlarged"
        )
