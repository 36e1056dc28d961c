"""A folder of images as a TFDS dataset: looked through once, prepared in our cache, known by its contents.

The folder itself is only read. Subfolders are classes; a flat folder is one class.
"""

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

import tensorflow_datasets as tfds
from PIL import Image

from gan.data import pixels
from gan.errors import UserError
from gan.io.atomic import write_text

logger = logging.getLogger(__name__)

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
VERSION = "1.0.0"
# TFDS holds the encoded images of one shard in memory while it writes them.
SHARD_BYTES = 128 << 20
# A file as young as this may change again within one tick of the file system's clock.
SETTLED_SECONDS = 2


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """What is known of one image once it has been decoded in full."""

    path: pathlib.Path
    grey: bool
    size: tuple[int, int]
    plain: bool
    """Whether the bytes of the file can be stored as they are: PNG or JPEG, upright, opaque, grey or RGB."""


def builder(data_dir: str | os.PathLike, root: pathlib.Path, skip_broken: bool) -> tfds.core.DatasetBuilder:
    """TFDS builder for the images in the folder `data_dir`, prepared or to be prepared under `root`.

    Args:
      data_dir: the folder of images.
      root: where prepared folders are kept, one for every content.
      skip_broken: leave out, with one warning, the files that cannot be read.

    Raises:
      UserError: no folder, no image, one image only, a file that cannot be read, images beside class folders.
    """
    if not data_dir:
        raise UserError("config.data.name='folder' needs config.data.dir: the folder that holds the images")
    source = pathlib.Path(os.path.expanduser(data_dir)).absolute()
    if not os.path.isdir(source):
        raise UserError(f"config.data.dir={str(data_dir)!r} is not a folder")
    names = _image_names(source)
    if len(names) < 2:
        found = f"only one image, {names[0]}" if names else f"no images ({', '.join(EXTENSIONS)})"
        raise UserError(f"config.data.dir={str(data_dir)!r} holds {found}; a dataset needs at least two")
    class_names = _class_names(source, names)
    content = _content(source, names, root / "seen")
    digest = hashlib.sha256(repr((VERSION, skip_broken, class_names, content)).encode()).hexdigest()
    home = root / f"folder-{digest[:32]}"
    prepared = home / Folder.name / VERSION
    if (prepared / "dataset_info.json").exists():
        return tfds.builder_from_directory(prepared)
    files = _looked_through(source, names, skip_broken)
    labels = [class_names.index(_class_of(name)) for name in names if name in files]
    return Folder(images=list(zip(files.values(), labels, strict=True)), class_names=class_names, data_dir=home)


class Folder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Images at their own size, without loss: the bytes of a plain file as they are, any other as PNG."""

    name = "folder"
    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, images, class_names, data_dir):
        self._images = images
        self._class_names = class_names
        super().__init__(data_dir=data_dir)

    @property
    def _grey(self):
        return all(file.grey for file, _ in self._images)

    def _info(self):
        sizes = {file.size for file, _ in self._images}
        width, height = sizes.pop() if len(sizes) == 1 else (None, None)
        features = {
            "image": tfds.features.Image(shape=(height, width, 1 if self._grey else 3)),
            "label": tfds.features.ClassLabel(names=[name or "image" for name in self._class_names]),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images of a folder.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _shard_iterators_per_split(self, dl_manager):
        shards, room = [[]], SHARD_BYTES
        for image in self._images:
            weight = image[0].path.stat().st_size
            if shards[-1] and weight > room:
                shards.append([])
                room = SHARD_BYTES
            shards[-1].append(image)
            room -= weight
        return {"train": [lambda shard=shard: self._examples(shard) for shard in shards]}

    def _examples(self, shard):
        mode = "L" if self._grey else "RGB"
        for file, label in shard:
            keep = file.plain and file.grey == self._grey
            image = file.path.read_bytes() if keep else pixels.flattened(pixels.opened(file.path)).convert(mode)
            yield os.fsencode(file.path), {"image": image, "label": label}


def _image_names(source):
    """Sorted relative paths of the images below a folder; what is hidden or has another extension is not looked at."""
    names, visited = [], set()

    def refuse(error):
        raise UserError(f"config.data.dir: {error.filename} cannot be listed ({error.strerror})") from error

    for parent, folders, files in os.walk(source, followlinks=True, onerror=refuse):
        real = os.path.realpath(parent)
        if real in visited:  # a link back to a folder above
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        images = [name for name in files if not name.startswith(".") and name.lower().endswith(EXTENSIONS)]
        names += [os.path.relpath(os.path.join(parent, name), source) for name in images]
    return sorted(names)


def _class_of(name):
    """The first folder on the way to an image; "" in a flat folder."""
    return name.split(os.sep)[0] if os.sep in name else ""


def _class_names(source, names):
    classes = sorted({_class_of(name) for name in names})
    if "" in classes and len(classes) > 1:
        stray = next(name for name in names if not _class_of(name))
        raise UserError(
            f"{source / stray} lies beside the class folders {', '.join(classes[1:4])}: put every image into a "
            "subfolder, or all of them directly into config.data.dir"
        )
    for name in classes:
        if not name.isprintable() or name != name.strip():  # TFDS keeps them in a text file, a line each
            raise UserError(f"{source / name}: a class folder's name must be printable, without space around it")
    return classes


def _content(source, names, seen):
    """Digest of the names and bytes of all files.

    A file whose size and times are as they were last time is not read again, so that a launch on a large folder takes
    no longer than listing it. The time of the last change of status cannot be set back by a program that writes into a
    file and restores its modification time.
    """
    index = seen / f"{hashlib.sha256(os.fsencode(source)).hexdigest()[:32]}.json"
    known = _known(index)
    settled = time.time() - SETTLED_SECONDS
    fresh, total = {}, hashlib.sha256()
    for name in names:
        stamp, digest = known.get(name, (None, None))
        try:
            status = (source / name).stat()
            now = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "no regular file")
            digest = digest if stamp == now else _file_digest(source / name)
            if max(status.st_mtime, status.st_ctime) < settled:
                fresh[name] = [now, digest]
        except OSError as error:  # it is named, or skipped, when the images are looked through
            digest = f"unreadable: {error.strerror}"
        total.update(f"{name}\0{digest}\0".encode(errors="surrogateescape"))
    if fresh != known:
        try:
            seen.mkdir(parents=True, exist_ok=True)
            write_text(index, json.dumps(fresh))
        except OSError as error:
            logger.warning("%s could not be written (%s): the next launch reads all of %s.", index, error, source)
    return total.hexdigest()


def _known(index):
    """{name: [stamp, digest]} of the last look; nothing where there was none, or where its record is damaged."""
    try:
        known = json.loads(index.read_text())
        sound = all(len(entry) == 2 and isinstance(entry[1], str) for entry in known.values())
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}
    return known if sound else {}


def _file_digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _looked_through(source, names, skip_broken):
    """{name: ImageFile} of all images that decode; a `UserError` for one that does not, unless it may be skipped."""
    logger.info("Looking through the %s images of %s, once.", f"{len(names):,}", source)
    files, broken = {}, []
    with warnings.catch_warnings():
        # PIL only warns up to twice its limit; an image over the limit is refused.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            for name, found in zip(names, threads.map(lambda name: _looked_at(source / name), names), strict=True):
                if isinstance(found, ImageFile):
                    files[name] = found
                    continue
                reason = f"{source / name} cannot be read as an image ({_reason(found)})"
                if not skip_broken:
                    threads.shutdown(wait=False, cancel_futures=True)
                    raise UserError(f"{reason}: mend or remove it, or set config.data.skip_broken=True") from found
                broken.append(name)
    if broken:
        some = ", ".join(broken[:3]) + (", ..." if len(broken) > 3 else "")
        logger.warning("Left out %d of %d files that cannot be read: %s", len(broken), len(names), some)
    if len(files) < 2:
        raise UserError(
            f"config.data.dir={str(source)!r}: {len(broken)} of {len(names)} images cannot be read, {broken[0]} among "
            "them; a dataset needs at least two that can"
        )
    return files


def _looked_at(path):
    """The image file at a path, decoded in full; or what PIL raises about it (which may be nearly anything)."""
    try:
        image = pixels.opened(path)
        upright = pixels.flattened(image)
    except Exception as error:
        return error
    plain = image.format in ("PNG", "JPEG") and upright is image and getattr(image, "n_frames", 1) == 1
    return ImageFile(path, pixels.is_grey(upright.mode), upright.size, plain)


def _reason(error):
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: a decompression bomb?"
    if isinstance(error, Image.UnidentifiedImageError):
        return "no format that PIL knows"
    return " ".join(str(error).split())[:120] or type(error).__name__
