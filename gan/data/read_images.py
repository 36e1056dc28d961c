"""Images of a folder, a ZIP file or an NPZ file as arrays, to be scored: read as they are, and not prepared.

They are decoded, cropped and resized as those of a dataset are.
"""

import collections
import hashlib
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from gan.data import folder, image_files, listing, npz, pixels, work
from gan.data.order import evenly_spaced
from gan.data.values import value_range
from gan.errors import UserError

FLAG = "--samples"
"""How the user names the images."""
MOST_SIZES = 5
"""Sizes of images that are listed."""
CONVERSIONS = {(1, 3): "gray to three equal channels", (3, 1): "color to gray, by ITU-R 601 luma"}
"""{(channels of an image, channels asked for): what is done}."""


class Images(NamedTuple):
    """Images of any source, of the size and channels that were asked for."""

    images: np.ndarray
    """uint8 [N, H, W, C]"""
    labels: np.ndarray | None
    """int [N], the index of the class of each; None: not asked for, or there are none."""
    class_names: list[str]
    record: dict[str, Any]
    """What was found, and what was done with it."""


def read_images(
    source: pathlib.Path, image_shape: tuple[int, int, int], crop: str, *, count: int, has_labels: bool = False
) -> Images:
    """Up to `count` images of the folder, ZIP or NPZ file `source`, evenly spaced in its order where it has more.

    Args:
      source: a folder or ZIP file of images, in the order of their names, or an NPZ file with `images` or `arr_0`.
      image_shape: (H, W, C) to deliver. Images of other sizes are cropped and resized, those of other channels
        converted; `record` says which.
      crop: see `datasets.load`.
      count: the most images.
      has_labels: whether labels are read: from `labels` of an NPZ file, from folders or a `dataset.json`.

    Raises:
      UserError: no such file, no images, or one that cannot be read. The message begins with FLAG.
    """
    try:
        if source.suffix == ".npz" and source.is_file():
            return _of_arrays(source, image_shape, crop, count)
        return _of_files(source, image_shape, crop, count, has_labels)
    except UserError as error:
        raise UserError(str(error).replace("config.data.dir", FLAG)) from error


def _of_arrays(source, image_shape, crop, count):
    images, labels, class_names = npz.read(f"{FLAG}={str(source)!r}", source)
    rows = evenly_spaced(len(images), count)
    found = [(images.shape[1:3], images.shape[3])] * len(rows)
    record = _record(source, "npz", len(images), found, image_shape, crop)
    if images.shape[1:] == image_shape:
        images = images if len(rows) == len(images) else images[rows]
    else:
        one_by_one = (images[row] for row in rows)
        pictures = [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in one_by_one]
        images = _converted(lambda image: image, pictures, image_shape, crop)[0]
    return _images(images, labels[rows] if class_names != [""] else None, class_names, record)


def _of_files(source, image_shape, crop, count, has_labels):
    files, names = folder.list_files(source)
    rows = evenly_spaced(len(names), count)
    labels, class_names = _labels(files, names) if has_labels else (None, [])

    def opened(name):
        try:
            image = pixels.open_image(files.read(name))
            if value_range(image) is not None:
                raise ValueError("more than 8 bits; expected: 8 bits for each channel")
            return pixels.to_gray_or_rgb(image)
        except Exception as error:  # PIL raises many kinds
            where = files.source / name
            raise UserError(f"{FLAG}: {where} cannot be read as an image: {image_files.reason(error)}") from error

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PIL, which do not name the file
        images, found = _converted(opened, [names[row] for row in rows], image_shape, crop)
    kind = "folder" if source.is_dir() else "zip"
    record = _record(source, kind, len(names), found, image_shape, crop)
    return _images(images, None if labels is None else labels[rows], class_names, record)


def _labels(files, names):
    """The labels of images by their folders or a `dataset.json`, and the names of the classes; None: of one class."""
    labels = folder.read_labels(files, names)
    places = listing.places(files.source, names, labels)
    class_names = folder.names_of_classes(places, labels)
    numbers = {name: number for number, name in enumerate(class_names)}
    if len(class_names) < 2:
        return None, class_names
    return np.array([numbers[place.class_name] for place in places]), class_names


def _converted(opened, items: Sequence, image_shape, crop):
    """The images uint8 [N, H, W, C] of `opened(item)`, PIL images, and the size and channels that each had."""
    height, width, channels = image_shape
    images = np.empty((len(items), *image_shape), np.uint8)

    def convert(index):
        image = opened(items[index])
        images[index] = pixels.to_array(pixels.crop_and_resize(image, (height, width), crop), channels)
        return (image.height, image.width), 1 if image.mode == "L" else 3

    return images, list(work.map_in_threads(convert, range(len(items)), what="Reading the samples"))


def _record(source, kind, total, found, image_shape, crop):
    """What was found, {size: number}, and what was done: the lines of a protocol."""
    sizes = collections.Counter(size for size, _ in found)
    channels = {number for _, number in found} - {image_shape[2]}
    height, width, _ = image_shape
    others = [size for size in sizes if size != (height, width)]
    cut = "center crop to the aspect ratio" if crop == "center" else "no crop"
    return {
        "source": str(source.absolute()),
        "format": kind,
        "found": total,
        "used": len(found),
        "choice": "all" if len(found) == total else "evenly spaced in their order",
        "sizes": {f"{size[0]}x{size[1]}": number for size, number in sizes.most_common(MOST_SIZES)},
        "resized": f"to {height}x{width}, {cut}, PIL's bicubic with antialiasing" if others else "no",
        "converted": "; ".join(CONVERSIONS[number, image_shape[2]] for number in sorted(channels)) or "no",
    }


def _images(images, labels, class_names, record):
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()[:16]
    return Images(images, labels, class_names, record | {"digest": digest})
