"""The image files of a folder: hashed, and checked by decoding each of them once."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import os
import pathlib
import stat
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from gan.data import pixels, work
from gan.data.reasons import one_line
from gan.data.values import Range, value_range
from gan.errors import UserError, printable
from gan.io.atomic import write_text
from gan.io.progress import progress

logger = logging.getLogger(__name__)

SETTLED_SECONDS = 2
"""A file that is younger than this may change again without a change of its timestamps: its digest is not kept."""


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """What is known of an image once it has been decoded."""

    name: str
    """Its relative path."""
    is_gray: bool
    size: tuple[int, int]
    """(width, height) in pixels."""
    can_store_bytes: bool
    """Whether the file can be stored byte for byte: PNG or JPEG, upright, opaque, one frame, gray or RGB, no defect."""
    values: Range | None
    """The range of its values if it has more than 8 bits per channel."""
    warning: str
    """What PIL warned of, such as a corrupt EXIF, or ""."""


def content_digests(source: pathlib.Path, names: Sequence[str], seen: pathlib.Path) -> list[str]:
    """The SHA-256 of each file's content.

    The digests are kept in the folder `seen`. A file whose size and timestamps have not changed since is not read
    again, so starting a run on a large folder takes no longer than listing it. The ctime is among the timestamps: a
    program that writes to a file and restores its mtime cannot set it back.
    """
    index = seen / f"{hashlib.sha256(os.fsencode(source)).hexdigest()[:32]}.json"
    known = _read_index(index)
    settled = time.time() - SETTLED_SECONDS
    digests, current, unknown = {}, {}, {}
    for name in progress(names, total=len(names), what=f"Looking for changes in {source}"):
        try:
            status = os.stat(os.path.join(source, name))
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
        except OSError as error:  # `check_images` reports or skips it
            digests[name] = f"unreadable: {error.strerror}"
            continue
        now = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        stamp, digests[name] = known.get(name, (None, ""))
        if stamp == now:
            current[name] = known[name]
        else:
            unknown[name] = (now, max(status.st_mtime, status.st_ctime) < settled)
    if unknown:
        logger.info("Reading %s new files of %s.", f"{len(unknown):,}", source)
    found = work.map_in_threads(lambda name: _file_digest(source / name), list(unknown), what=f"Reading {source}")
    for (name, (now, is_settled)), digest in zip(unknown.items(), found, strict=True):
        digests[name] = digest
        if is_settled and not digest.startswith("unreadable"):
            current[name] = [now, digest]
    if current != known:
        _write_index(index, current, source)
    return [digests[name] for name in names]


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
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"


def check_images(files: Any, names: Sequence[str], skip_broken: bool) -> dict[str, ImageFile]:
    """{name: ImageFile} of all images, each of which is decoded once.

    Args:
      files: where they come from, see `encoded_files`.
      names: of the images.
      skip_broken: leave out those that cannot be decoded, with one warning.

    Raises:
      UserError: an image that cannot be decoded, unless `skip_broken`; fewer than two images that can.
    """
    source = files.source
    logger.info("Checking the %s images of %s (only once).", f"{len(names):,}", source)
    images, broken = {}, []
    with warnings_by_thread() as warned:
        found = work.map_in_threads(
            lambda name: _check_image(files, name, warned), names, what=f"Checking the images of {source}"
        )
        for name, file in zip(names, found, strict=True):
            if isinstance(file, ImageFile):
                images[name] = file
                continue
            message = f"{source / name} cannot be read as an image ({reason(file)})"
            if not skip_broken:
                found.close()
                raise UserError(f"{message}: fix or remove it, or set config.data.skip_broken=True") from file
            broken.append(name)
    if broken:
        logger.warning("Skipped %d of %d files that cannot be read: %s", len(broken), len(names), _examples(broken))
    if suspect := [name for name, file in images.items() if file.warning]:
        warning = images[suspect[0]].warning
        logger.warning("%d of %d images have a defect (%s): %s", len(suspect), len(names), warning, _examples(suspect))
    if len(images) < 2:
        raise UserError(
            f"config.data.dir={str(source)!r}: {len(broken)} of {len(names)} images cannot be read, {broken[0]} among "
            "them; a dataset needs at least two readable images"
        )
    return images


def _examples(names):
    return printable(", ".join(names[:3])) + (", ..." if len(names) > 3 else "")


@contextlib.contextmanager
def warnings_by_thread() -> Iterator[threading.local]:
    """Collects PIL's warnings, which do not name the file, in the list `texts` of each thread that sets one."""
    warned = threading.local()

    def record(message, *arguments, **options):
        getattr(warned, "texts", []).append(one_line(message, 120))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # PIL only warns up to twice its limit; an image over the limit is rejected.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.showwarning = record
        yield warned


def _check_image(files, name, warned):
    """The `ImageFile` of a name after decoding it, or the exception that PIL raises, of nearly any type."""
    warned.texts = []
    try:
        image = pixels.open_image(files.read(name))
        converted = pixels.to_gray_or_rgb(image)
        values = value_range(image)
    except Exception as error:
        return error
    can_store_bytes = image.format in ("PNG", "JPEG") and converted is image and getattr(image, "n_frames", 1) == 1
    warning = warned.texts[0] if warned.texts else ""
    return ImageFile(
        name, pixels.is_gray(converted.mode), converted.size, can_store_bytes and not warning, values, warning
    )


def reason(error: Exception) -> str:
    """Why PIL does not read an image, in one line."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: a decompression bomb?"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a format that PIL can read"
    return one_line(error, 120)
