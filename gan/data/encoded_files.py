"""Where encoded images come from: the files below a folder, the members of a ZIP file, an array, or Arrow tables.

Each class has `source`, `read(name)` and `size(name)`; names are relative paths.
"""

import collections
import dataclasses
import hashlib
import io
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from gan.data import image_files, listing, pixels
from gan.data.reasons import one_line
from gan.errors import UserError


@dataclasses.dataclass(frozen=True)
class FolderFiles:
    """The files below the folder `source`."""

    source: pathlib.Path

    def images(self, ignored: collections.Counter) -> list[str]:
        """The names of the images; other files are counted by extension in `ignored`."""
        return listing.list_images(self.source, ignored)

    def digests(self, names: list[str], seen: pathlib.Path) -> tuple[list[str], str]:
        """The digest of each image's content, and that of what the names do not identify: here nothing."""
        return image_files.content_digests(self.source, names, seen), ""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.source / name).is_file()

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return pixels.read_file(self.source / name)

    def size(self, name: str) -> int:
        """In bytes."""
        return (self.source / name).stat().st_size


class ZipFiles:
    """The members of the ZIP file `source`. It is never unpacked."""

    def __init__(self, source: pathlib.Path):
        """Raises `UserError` for a file that is no ZIP file, or a damaged one."""
        self.source = source
        try:
            self._archive = zipfile.ZipFile(source)
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or one_line(error)
            raise UserError(f"config.data.dir={str(source)!r} is not a folder or a ZIP file ({reason})") from error

    def images(self, ignored: collections.Counter) -> list[str]:
        """The names of the images; other members are counted by extension in `ignored`."""
        return listing.select_images(self._archive.namelist(), ignored)

    def digests(self, names: list[str], seen: pathlib.Path) -> tuple[list[str], str]:
        """The checksum and size of each image as the archive lists them, and the digest of the whole ZIP file."""
        members = [self._archive.getinfo(name) for name in names]
        [whole] = image_files.content_digests(self.source.parent, [self.source.name], seen)
        return [f"{member.CRC:08x}-{member.file_size}" for member in members], whole

    def has(self, name: str) -> bool:
        """Whether there is such a member."""
        return name in self._archive.NameToInfo

    def read(self, name: str) -> bytes:
        """The content of a member. `zipfile` checks its checksum, and reads no more than its listed size."""
        pixels.check_bytes(self.size(name))
        return self._archive.read(name)

    def size(self, name: str) -> int:
        """In bytes, not compressed."""
        return self._archive.getinfo(name).file_size


@dataclasses.dataclass(frozen=True)
class ArrayFiles:
    """The images uint8 [N, H, W, 1 or 3] of an array in the file `source`; the name of one is its index."""

    source: pathlib.Path
    array: np.ndarray

    def read(self, name: str) -> bytes:
        """The image as a PNG file."""
        image = self.array[int(name)]
        encoded = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(encoded, "PNG")
        return encoded.getvalue()

    def size(self, name: str) -> int:
        """In bytes, not compressed."""
        return self.array[int(name)].nbytes


@dataclasses.dataclass(frozen=True)
class ArrowFiles:
    """Encoded images in columns of Arrow tables; the name of one is SPLIT/ROW."""

    source: pathlib.Path
    columns: Mapping[str, Any]
    """{split: PyArrow's column of structs with an entry `bytes`}."""

    def images(self) -> list[str]:
        """The names of the images."""
        return [f"{split}/{row}" for split, column in self.columns.items() for row in range(len(column))]

    def digests(self, names: list[str]) -> list[str]:
        """The digest of each image's content."""
        return [hashlib.sha256(self._bytes(name) or name.encode()).hexdigest() for name in names]

    def read(self, name: str) -> bytes:
        """The encoded image. Raises `ValueError` where a row has none."""
        content = self._bytes(name)
        if content is None:
            raise ValueError("no bytes, only a path")
        pixels.check_bytes(len(content))
        return content

    def size(self, name: str) -> int:
        """In bytes."""
        return len(self.read(name))

    def _bytes(self, name):
        split, _, row = name.partition("/")
        return (self.columns[split][int(row)].as_py() or {}).get("bytes")
