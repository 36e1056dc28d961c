"""The folder where what was made once is kept: decoded arrays, prepared digits and folders of images.

A cache may vanish, be read-only or be cut short at any time; the worst that follows is that the work is done again.
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

logger = logging.getLogger(__name__)


def cache_folder(cache_dir: str | os.PathLike | None = None) -> pathlib.Path:
    """`cache_dir`, else the variable GAN_CACHE_DIR, else ~/.cache/gan; a temporary folder where it is not writable."""
    wanted = pathlib.Path(cache_dir or os.environ.get("GAN_CACHE_DIR") or "~/.cache/gan")
    try:
        wanted = wanted.expanduser().absolute()
    except RuntimeError as error:  # a user without a home, as in some containers
        return _temporary_folder(wanted, str(error))
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except OSError as error:
        return _temporary_folder(wanted, error.strerror)


@functools.cache
def _temporary_folder(wanted, reason):
    """A folder that lives as long as this process: one, with one warning, for every unwritable cache folder."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="gan-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logger.warning("The cache folder %s is not writable (%s): nothing is kept for the next launch.", wanted, reason)
    return folder


def stamp(path: str | os.PathLike) -> tuple[int, int, int] | None:
    """What tells one content of a file from another at once: size, time (ns), and its number; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def read_arrays(folder: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """{name: read-only memory-mapped array} that `write_arrays` left in `folder`, or None if anything is amiss."""
    try:
        checksums = json.loads((folder / "checksums.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
        damaged = [name for name, array in arrays.items() if _checksum(array) != checksums[name]]
    except Exception as error:  # numpy raises many kinds for a damaged header
        if folder.exists():
            reason = " ".join(str(error).split()) or type(error).__name__
            logger.warning("The cache %s is damaged (%s) and is made again.", folder, reason[:200])
        return None
    if damaged:
        logger.warning("The cache %s is damaged (%s.npy has changed) and is made again.", folder, damaged[0])
        return None
    return arrays


def write_arrays(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Write {name: array} into `folder`, all or nothing: a temporary folder takes its name when it is complete.

    A disk that is full or not writable costs a warning only: the arrays are still in the caller's hands.
    """
    partial = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
        (partial / "checksums.json").write_text(json.dumps({name: _checksum(a) for name, a in arrays.items()}))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        logger.warning("The cache %s could not be written (%s): the work is done again next time.", folder, error)
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _checksum(array):
    """Of the numbers, and of what the file's head says of them."""
    head = repr((array.shape, array.dtype.str)).encode()
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8), zlib.crc32(head))
