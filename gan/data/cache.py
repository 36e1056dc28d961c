"""The cache folder: decoded arrays, prepared datasets and everything else that is computed once.

A cache may be deleted, read-only or truncated at any time; then the work is repeated.
"""

import atexit
import functools
import json
import logging
import os
import pathlib
import shutil
import tempfile
import zlib
from collections.abc import Sequence

import numpy as np

from gan.data.reasons import one_line

logger = logging.getLogger(__name__)


def cache_folder(cache_dir: str | os.PathLike | None = None) -> pathlib.Path:
    """`cache_dir`, else the environment variable GAN_CACHE_DIR, else ~/.cache/gan.

    A temporary folder takes its place if it is not writable.
    """
    folder = pathlib.Path(cache_dir or os.environ.get("GAN_CACHE_DIR") or "~/.cache/gan")
    try:
        folder = folder.expanduser().absolute()
    except RuntimeError as error:  # a user without a home directory, as in some containers
        return _temporary_folder(folder, str(error))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        return _temporary_folder(folder, error.strerror)


@functools.cache
def _temporary_folder(unwritable, reason):
    """A folder that is deleted when the process ends. One folder and one warning per unwritable cache folder."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="gan-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logger.warning("The cache folder %s is not writable (%s): nothing is cached for the next run.", unwritable, reason)
    return folder


def stamp(path: str | os.PathLike) -> tuple[int, int, int] | None:
    """(size, modification time in ns, inode number) of a file, to detect a change; None if it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def read_arrays(folder: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """{name: read-only memory-mapped array} as written by `write_arrays`, or None if missing or corrupted."""
    try:
        checksums = json.loads((folder / "checksums.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
        damaged = [name for name, array in arrays.items() if _checksum(array) != checksums[name]]
    except Exception as error:  # NumPy raises many types for a corrupted header
        if folder.exists():
            logger.warning("The cache %s is damaged (%s) and is rebuilt.", folder, one_line(error, 200))
        return None
    if damaged:
        logger.warning("The cache %s is damaged (%s.npy has changed) and is rebuilt.", folder, damaged[0])
        return None
    return arrays


def write_arrays(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes {name: array} into `folder` atomically: a complete temporary folder is renamed.

    A full or unwritable disk only logs a warning: the caller still has the arrays.
    """
    tmp = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tmp = pathlib.Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        for name, array in arrays.items():
            np.save(tmp / f"{name}.npy", array)
        (tmp / "checksums.json").write_text(json.dumps({name: _checksum(array) for name, array in arrays.items()}))
        shutil.rmtree(folder, ignore_errors=True)
        tmp.rename(folder)
    except OSError as error:
        logger.warning("The cache %s could not be written (%s): the work is repeated next time.", folder, error)
        if tmp is not None:
            shutil.rmtree(tmp, ignore_errors=True)


def _checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's values, shape and dtype."""
    header = repr((array.shape, array.dtype.str)).encode()
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, zlib.crc32(header))
