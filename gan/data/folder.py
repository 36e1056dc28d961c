"""A folder of images as a TFDS dataset: checked once, prepared in the cache folder, identified by its contents.

The folder itself is only read. Its subfolders are the classes; a folder without subfolders is one class.
"""

import hashlib
import os
import pathlib

import tensorflow_datasets as tfds

from gan.data import image_files, pixels
from gan.errors import UserError

VERSION = "1.0.0"
SHARD_BYTES = 128 << 20
"""TFDS holds the encoded images of one shard in memory while it writes them."""


def builder(data_dir: str | os.PathLike, root: pathlib.Path, skip_broken: bool) -> tfds.core.DatasetBuilder:
    """The TFDS builder for the images in the folder `data_dir`, prepared or to be prepared under `root`.

    Args:
      data_dir: the folder of images.
      root: the parent of prepared folders, one for each distinct content.
      skip_broken: skip unreadable files with one warning instead of stopping.

    Raises:
      UserError: no folder, fewer than two images, an unreadable file, or images beside class folders.
    """
    if not data_dir:
        raise UserError("config.data.name='folder' needs config.data.dir: the folder of images")
    source = pathlib.Path(os.path.expanduser(data_dir)).absolute()
    if not os.path.isdir(source):
        raise UserError(f"config.data.dir={str(data_dir)!r} is not a folder")
    names = image_files.list_images(source)
    if len(names) < 2:
        found = f"only one image, {names[0]}" if names else f"no images ({', '.join(image_files.EXTENSIONS)})"
        raise UserError(f"config.data.dir={str(data_dir)!r} contains {found}; a dataset needs at least two")
    class_names = image_files.class_names(source, names)
    content = image_files.content_digest(source, names, root / "seen")
    digest = hashlib.sha256(repr((VERSION, skip_broken, class_names, content)).encode()).hexdigest()
    data_root = root / f"folder-{digest[:32]}"
    prepared = data_root / Folder.name / VERSION
    if (prepared / "dataset_info.json").exists():
        return tfds.builder_from_directory(prepared)
    files = image_files.check_images(source, names, skip_broken)
    labels = [class_names.index(image_files.class_of(name)) for name in names if name in files]
    return Folder(images=list(zip(files.values(), labels, strict=True)), class_names=class_names, data_dir=data_root)


class Folder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Images at their own size, stored losslessly: PNG and JPEG files byte for byte, other formats as PNG."""

    name = "folder"
    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, images, class_names, data_dir):
        self._images = images
        self._class_names = class_names
        super().__init__(data_dir=data_dir)

    @property
    def _all_gray(self):
        return all(file.is_gray for file, _ in self._images)

    def _info(self):
        sizes = {file.size for file, _ in self._images}
        width, height = sizes.pop() if len(sizes) == 1 else (None, None)
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
        shards, bytes_left = [[]], SHARD_BYTES
        for image in self._images:
            size = image[0].path.stat().st_size
            if shards[-1] and size > bytes_left:
                shards.append([])
                bytes_left = SHARD_BYTES
            shards[-1].append(image)
            bytes_left -= size
        return {"train": [lambda shard=shard: self._examples(shard) for shard in shards]}

    def _examples(self, shard):
        mode = "L" if self._all_gray else "RGB"
        for file, label in shard:
            if file.can_store_bytes and file.is_gray == self._all_gray:
                image = file.path.read_bytes()
            else:
                image = pixels.to_gray_or_rgb(pixels.open_image(file.path)).convert(mode)
            yield os.fsencode(file.path), {"image": image, "label": label}
