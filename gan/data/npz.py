"""An NPZ file as a dataset: arrays of images and labels, such as `--mode=sample` writes, prepared like a folder."""

import hashlib
import os
import pathlib
import zipfile
import zlib

import numpy as np
import tensorflow_datasets as tfds

from gan.data import folder, image_files
from gan.data.encoded_files import ArrayFiles
from gan.data.image_files import ImageFile
from gan.data.reasons import one_line
from gan.errors import UserError

VERSION = "1"
UNNAMED = "arr_0"
"""What `numpy.savez(file, array)` calls its array, as many published samples do."""
MAX_CLASSES = 2**16
MAX_BYTES = 2**34
"""Of all arrays: they are read into memory, and a small file can hold any size."""


def builder(data_dir: str | os.PathLike, root: pathlib.Path) -> tfds.core.DatasetBuilder:
    """The TFDS builder for the images in an NPZ file, prepared or to be prepared under `root`.

    The file has `images`, or else `arr_0`, uint8 [N, H, W] or [N, H, W, 1 or 3], and may have `labels`, integers [N],
    and `class_names` [K]; a label is the index of its class.

    Raises:
      UserError: no file, no NPZ file, or arrays that are missing or of another kind.
    """
    if not data_dir:
        raise UserError("config.data.name='npz' needs config.data.dir: an NPZ file")
    source = pathlib.Path(os.path.expanduser(data_dir)).absolute()
    if not source.is_file():
        hint = "; config.data.name=folder is for a folder" if source.is_dir() else ""
        raise UserError(f"config.data.dir={str(data_dir)!r} is not an NPZ file{hint}")
    [digest] = image_files.content_digests(source.parent, [source.name], root / "seen")
    data_root = root / f"npz-{hashlib.sha256(repr((VERSION, folder.VERSION, digest)).encode()).hexdigest()[:32]}"
    if (found := folder.prepared(data_root)) is not None:
        return found
    where = f"config.data.dir={str(data_dir)!r}"
    images, labels, class_names = read(where, source)
    height, width, channels = images.shape[1:]
    examples = [
        folder.Example(
            ImageFile(str(index), channels == 1, (width, height), True, None, ""),
            "train",
            int(label),
            hashlib.sha256(image.tobytes()).hexdigest(),
        )
        for index, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return folder.Folder(
        files=ArrayFiles(source, images), examples=examples, class_names=class_names, whites={}, data_dir=data_root
    )


def read(where: str, source: pathlib.Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(images uint8 [N, H, W, C], labels [N], class names [K]) of a file, checked. `where` begins the messages."""
    with open(source, "rb") as file:
        is_array = file.read(6) == b"\x93NUMPY"
    if not is_array and not zipfile.is_zipfile(source):
        raise UserError(f"{where} cannot be read as an NPZ file: none, or cut off; expected: numpy.savez(file, ...)")
    try:
        loaded = np.load(source, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise UserError(f"{where} is an array, not an NPZ file; expected: numpy.savez(file, images=array)")
        with loaded as file:
            size = sum(member.file_size for member in file.zip.infolist())
            if size > MAX_BYTES:
                raise UserError(f"{where} holds {size / 2**30:.1f} GiB; expected: up to {MAX_BYTES >> 30} GiB")
            arrays = {name: file[name] for name in ("images", "labels", "class_names") if name in file}
            if "images" not in arrays and UNNAMED in file:
                arrays["images"] = file[UNNAMED]
            found = ", ".join(file.files)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError,
            MemoryError) as error:  # fmt: skip
        raise UserError(f"{where} cannot be read as an NPZ file ({one_line(error, 120)})") from error
    if "images" not in arrays:
        raise UserError(f"{where} has no array 'images'; it has: {found}")
    images = _checked_images(where, arrays["images"])
    labels, class_names = _checked_labels(where, arrays.get("labels"), arrays.get("class_names"), len(images))
    return images, labels, class_names


def _checked_images(where, images):
    expected = "expected: uint8 [N, H, W] or [N, H, W, 1 or 3] with N of at least 2"
    if images.dtype != np.uint8:
        values = f" from {images.min():g} to {images.max():g}" if images.size and images.dtype.kind in "iuf" else ""
        raise UserError(f"{where}: 'images' is {images.dtype}{values}; {expected}, values 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or len(images) < 2 or not images.size:
        raise UserError(f"{where}: 'images' has the shape {list(images.shape)}; {expected}")
    return images


def _checked_labels(where, labels, class_names, count):
    """The labels [N], and the names of their classes; without labels all images are of one class."""
    if labels is None and class_names is not None:
        raise UserError(f"{where} has 'class_names' and no 'labels'; expected: both, or neither")
    if labels is None:
        return np.zeros(count, np.int64), [""]
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise UserError(
            f"{where}: 'labels' is {labels.dtype} {list(labels.shape)}; expected: integers [{count}], one per image"
        )
    if class_names is None:
        names = [str(label) for label in range(min(int(labels.max()), MAX_CLASSES) + 1)]
    else:
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in class_names.reshape(-1).tolist()]
    if labels.min() < 0 or labels.max() >= min(len(names), MAX_CLASSES):
        raise UserError(
            f"{where}: 'labels' are {labels.min()} to {labels.max()}; expected: 0 to {min(len(names), MAX_CLASSES) - 1}"
        )
    odd = [name for name in names if not name.isprintable() or name != name.strip() or not name]
    if odd or len(set(names)) < len(names):  # TFDS stores the names in a text file, one per line
        raise UserError(f"{where}: 'class_names' must differ, and be printable without space around them")
    return labels, names
