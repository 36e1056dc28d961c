"""Reads the tensors of a PyTorch file without PyTorch, and without running what the file says. Part of a leaf.

Such a file is a pickle that describes tensors, and the raw numbers: as members of a zip archive (PyTorch 1.6 and
later), or one after the other in a stream (before). A pickle can call any function that can be imported, so a file
from a stranger is a program. The reader here resolves five names, to inert classes of its own, and no others:

- `find_class` is the only way from a pickle to anything importable, and it looks (module, name) up in a table: a name
  that is not in it, dotted ones too, ends the reading;
- of what the table gives, calling stores arguments, and attributes cannot be set, so that a file cannot change the
  reader either;
- a tensor's offset, sizes and strides are checked against its storage before any number is touched.
"""

import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from gan.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a stream
STREAM_VERSION = 1001  # the second
STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
}  # fmt: skip
"""PyTorch's classes of storage as numpy's types. A string cannot be called, nor given attributes."""


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """{name: array} of a file that `torch.save(module.state_dict(), path)` wrote, in either format.

    Raises `UserError` for a file that is not there, not such a file, or that names anything but plain tensors.
    """
    try:
        with Path(path).open("rb") as file:
            is_zip = file.read(4) == b"PK\3\4"
            file.seek(0)
            return _read_zip(file) if is_zip else _read_stream(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged or hostile pickle may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is not a PyTorch file of plain tensors ({reason})") from error


def _read_zip(file: IO[bytes]) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        folders = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(folders) != 1:
            raise pickle.UnpicklingError("no data.pkl in the archive")
        order = "<"
        if f"{folders[0]}byteorder" in archive.namelist():
            order = {b"little": "<", b"big": ">"}[archive.read(f"{folders[0]}byteorder")]
        with archive.open(f"{folders[0]}data.pkl") as content:
            tensors = _Unpickler(content).load()

        def storage(dtype: str, key: str, count: int) -> np.ndarray:
            member = archive.getinfo(f"{folders[0]}data/{key}")
            dtype = np.dtype(order + dtype)
            if member.file_size != count * dtype.itemsize:  # before a small file can become a large one
                raise pickle.UnpicklingError(f"storage {key} has not the size it should have")
            return np.frombuffer(archive.read(member), dtype)

        return _arrays(tensors, storage)


def _read_stream(file: IO[bytes]) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != MAGIC or _Unpickler(file).load() != STREAM_VERSION:
        raise pickle.UnpicklingError("it does not begin as one")
    order = "<" if _Unpickler(file).load()["little_endian"] else ">"
    reader = _Unpickler(file)
    tensors = reader.load()
    size = os.fstat(file.fileno()).st_size
    storages = {}
    for key in _Unpickler(file).load():  # the order in which the storages follow
        dtype, count = reader.storages[key]
        dtype = np.dtype(order + dtype)
        written = struct.unpack(f"{order}q", file.read(8))[0]
        if written != count or not 0 <= count * dtype.itemsize <= size - file.tell():
            raise pickle.UnpicklingError(f"storage {key} has not the size it should have")
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return _arrays(tensors, lambda dtype, key, count: storages[key])


def _arrays(tensors: Any, storage: Callable[[str, str, int], np.ndarray]) -> dict[str, np.ndarray]:
    if not isinstance(tensors, dict) or not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
        raise pickle.UnpicklingError("it holds something else than named tensors")
    return {str(name): tensor.array(storage(*tensor.storage)) for name, tensor in tensors.items()}


class _Inert:
    def __setstate__(self, state):
        """Drops the attributes that a pickle sets on an instance; on the class itself the call does not even fit."""


class _Dictionary(_Inert, dict):
    """In place of `collections.OrderedDict`, on which PyTorch hangs a `_metadata`."""


class _Tensor(_Inert):
    """In place of the function that makes a tensor; further arguments (gradients, hooks) say nothing of its numbers."""

    def __init__(self, storage, offset, shape, strides, *_):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self, storage: np.ndarray) -> np.ndarray:
        """A copy of the part of `storage` that is this tensor, native and contiguous."""
        whole = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(type(n) is int and n >= 0 for n in whole):
            raise pickle.UnpicklingError(f"a tensor of shape {self.shape} and strides {self.strides}")
        count = math.prod(self.shape)
        if not count:
            return np.zeros(self.shape, storage.dtype.newbyteorder("="))
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if last >= len(storage) or count > len(storage):  # the second: a stride of 0 would blow it up
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        strides = [stride * storage.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides)
        return np.array(view, storage.dtype.newbyteorder("="), order="C")


class _Parameter(_Inert):
    """In place of the function that makes a parameter of a tensor: the tensor."""

    def __new__(cls, tensor, *_):
        return tensor


class _Unpickler(pickle.Unpickler):
    ALLOWED = {
        ("collections", "OrderedDict"): _Dictionary,
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch._utils", "_rebuild_parameter"): _Parameter,
        **{("torch", name): dtype for name, dtype in STORAGES.items()},
    }

    def __init__(self, file: IO[bytes]):
        super().__init__(file, encoding="utf-8")
        self.storages = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, str, int]:
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or dtype not in STORAGES.values() or type(count) is not int or any(view):
            raise pickle.UnpicklingError(f"an unknown kind of storage, {pid}")
        self.storages[key] = dtype, count
        return dtype, key, count
