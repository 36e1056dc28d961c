"""The image files of a folder: listed, assigned to classes, hashed, and checked by decoding each of them once."""

import concurrent.futures
import dataclasses
import errno
import hashlib
import json
import logging
import os
import pathlib
import stat
import time
import warnings
from collections.abc import Sequence

from PIL import Image

from gan.data import pixels
from gan.data.reasons import one_line
from gan.errors import UserError
from gan.io.atomic import write_text

logger = logging.getLogger(__name__)

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SETTLED_SECONDS = 2
"""A file that is younger than this may change again without a change of its timestamps: its digest is not kept."""


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """What is known of an image once it has been decoded."""

    path: pathlib.Path
    is_gray: bool
    size: tuple[int, int]
    """(width, height) in pixels."""
    can_store_bytes: bool
    """Whether the file can be stored byte for byte: PNG or JPEG, upright, opaque, one frame, gray or RGB."""


def list_images(source: pathlib.Path) -> list[str]:
    """Sorted relative paths of the images below a folder. Hidden files and files of other extensions are ignored."""
    names, visited = [], set()

    def fail(error):
        raise UserError(f"config.data.dir: {error.filename} cannot be listed ({error.strerror})") from error

    for parent, folders, files in os.walk(source, followlinks=True, onerror=fail):
        real = os.path.realpath(parent)
        if real in visited:  # a link to a parent folder
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        images = [name for name in files if not name.startswith(".") and name.lower().endswith(EXTENSIONS)]
        names += [os.path.relpath(os.path.join(parent, name), source) for name in images]
    return sorted(names)


def class_of(name: str) -> str:
    """The first folder of an image's relative path; "" for an image directly in the source folder."""
    return name.split(os.sep)[0] if os.sep in name else ""


def class_names(source: pathlib.Path, names: Sequence[str]) -> list[str]:
    """The sorted class names of images with these relative paths; [""] if there are no subfolders.

    Raises:
      UserError: some images are in class folders and others are not, or a class folder's name is not printable.
    """
    classes = sorted({class_of(name) for name in names})
    if "" in classes and len(classes) > 1:
        stray = next(name for name in names if not class_of(name))
        raise UserError(
            f"{source / stray} lies beside the class folders {', '.join(classes[1:4])}: put every image into a "
            "subfolder, or all of them directly into config.data.dir"
        )
    for name in classes:
        if not name.isprintable() or name != name.strip():  # TFDS stores the names in a text file, one per line
            raise UserError(f"{source / name}: a class folder's name must be printable, without space around it")
    return classes


def content_digest(source: pathlib.Path, names: Sequence[str], seen: pathlib.Path) -> str:
    """SHA-256 of the names and contents of all files.

    The digest of each file is kept in the folder `seen`. A file whose size and timestamps have not changed since is not
    read again, so starting a run on a large folder takes no longer than listing it. The ctime is among the timestamps:
    a program that writes to a file and restores its mtime cannot set it back.
    """
    index = seen / f"{hashlib.sha256(os.fsencode(source)).hexdigest()[:32]}.json"
    known = _read_index(index)
    settled = time.time() - SETTLED_SECONDS
    current, total = {}, hashlib.sha256()
    for name in names:
        stamp, digest = known.get(name, (None, None))
        try:
            status = (source / name).stat()
            now = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            digest = digest if stamp == now else _file_digest(source / name)
            if max(status.st_mtime, status.st_ctime) < settled:
                current[name] = [now, digest]
        except OSError as error:  # `check_images` reports or skips it
            digest = f"unreadable: {error.strerror}"
        total.update(f"{name}\0{digest}\0".encode(errors="surrogateescape"))
    if current != known:
        _write_index(index, current, source)
    return total.hexdigest()


def _read_index(index):
    """{name: [stamp, digest]} of the previous call; empty if there is none or its file is corrupted."""
    try:
        known = json.loads(index.read_text())
        valid = all(len(entry) == 2 and isinstance(entry[1], str) for entry in known.values())
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}
    return known if valid else {}


def _write_index(index, entries, source):
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        write_text(index, json.dumps(entries))
    except OSError as error:
        logger.warning("%s could not be written (%s): the next run reads all of %s.", index, error, source)


def _file_digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_images(source: pathlib.Path, names: Sequence[str], skip_broken: bool) -> dict[str, ImageFile]:
    """{name: ImageFile} of all images, each of which is decoded once.

    Raises:
      UserError: an image that cannot be decoded, unless `skip_broken`; fewer than two images that can.
    """
    logger.info("Checking the %s images of %s (only once).", f"{len(names):,}", source)
    files, broken = {}, []
    with warnings.catch_warnings():
        # PIL only warns up to twice its limit; an image over the limit is rejected.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            for name, found in zip(names, threads.map(lambda name: _check_image(source / name), names), strict=True):
                if isinstance(found, ImageFile):
                    files[name] = found
                    continue
                message = f"{source / name} cannot be read as an image ({_reason(found)})"
                if not skip_broken:
                    threads.shutdown(wait=False, cancel_futures=True)
                    raise UserError(f"{message}: fix or remove it, or set config.data.skip_broken=True") from found
                broken.append(name)
    if broken:
        examples = ", ".join(broken[:3]) + (", ..." if len(broken) > 3 else "")
        logger.warning("Skipped %d of %d files that cannot be read: %s", len(broken), len(names), examples)
    if len(files) < 2:
        raise UserError(
            f"config.data.dir={str(source)!r}: {len(broken)} of {len(names)} images cannot be read, {broken[0]} among "
            "them; a dataset needs at least two readable images"
        )
    return files


def _check_image(path):
    """The `ImageFile` at a path after decoding it, or the exception that PIL raises, of nearly any type."""
    try:
        image = pixels.open_image(path)
        converted = pixels.to_gray_or_rgb(image)
    except Exception as error:
        return error
    can_store_bytes = image.format in ("PNG", "JPEG") and converted is image and getattr(image, "n_frames", 1) == 1
    return ImageFile(path, pixels.is_gray(converted.mode), converted.size, can_store_bytes)


def _reason(error):
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: a decompression bomb?"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a format that PIL can read"
    return one_line(error, 120)
