"""Read the tensors of a PyTorch file without PyTorch, and without executing anything that the file contains.

Such a file is a pickle that describes tensors, and their values: members of a zip archive (PyTorch 1.6 and later), or
one after another in a stream (earlier). A pickle is a program for a virtual machine that can call any importable
function, so a file of unknown origin is a program of unknown origin. Python's unpickler is not used here. `_Unpickler`
implements only the instructions that PyTorch writes:

- a global name is looked up in a table of eleven and becomes a string or an inert class of this module; any other name
  is an error;
- it can create dictionaries with string keys, lists, tuples, numbers, strings and tensors, and nothing else;
- a tensor's offset, sizes and strides are checked against its storage before any value is read, and all tensors
  together are at most twice as large as the file, so a small file cannot exhaust the memory.
"""

import io
import math
import os
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gan.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a stream."""
STREAM_VERSION = 1001
"""The second pickle of a stream."""
STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
}  # fmt: skip
"""PyTorch's storage classes as NumPy dtypes. A string cannot be called, nor given attributes."""
MAX_BYTES = 2**32
"""The largest size of a file."""


class InvalidFile(ValueError):
    """The content of a file is not plain tensors, or is incomplete."""


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """{name: array} from a file written by `torch.save(module.state_dict(), path)`, in either format.

    Raises:
      UserError: a missing file, a file of another kind, or one that contains anything but plain tensors.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise InvalidFile("not a regular file")
        if path.stat().st_size > MAX_BYTES:
            raise InvalidFile(f"{path.stat().st_size:,} bytes; expected: up to {MAX_BYTES:,}")
        content = path.read_bytes()
        return _read_zip(content) if content.startswith(b"PK\3\4") else _read_stream(content)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a corrupted or malicious file may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is not a PyTorch file of plain tensors ({reason})") from error


def _read_zip(content: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        folders = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(folders) != 1:
            raise InvalidFile("the archive does not have exactly one data.pkl")
        compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members.values())
        if compressed or sum(member.file_size for member in members.values()) > len(content):
            raise InvalidFile("its members are compressed, or longer than the file")
        byte_order = "<"
        if f"{folders[0]}byteorder" in members:
            byte_order = {b"little": "<", b"big": ">"}[archive.read(f"{folders[0]}byteorder")]
        tensors, declared = _unpickle(io.BytesIO(archive.read(f"{folders[0]}data.pkl")))
        storages = {}
        for key, (dtype, count) in declared.items():
            values = archive.read(members[f"{folders[0]}data/{key}"])
            if len(values) != count * np.dtype(dtype).itemsize:
                raise InvalidFile(f"storage {key} has not its declared size")
            storages[key] = np.frombuffer(values, byte_order + dtype)
        return _arrays(tensors, storages, len(content))


def _read_stream(content: bytes) -> dict[str, np.ndarray]:
    file = io.BytesIO(content)
    if _unpickle(file)[0] != MAGIC or _unpickle(file)[0] != STREAM_VERSION:
        raise InvalidFile("it does not start with PyTorch's magic number and version")
    byte_order: Literal["little", "big"] = "little" if _unpickle(file)[0]["little_endian"] else "big"
    tensors, declared = _unpickle(file)
    storages = {}
    for key in _unpickle(file)[0]:  # the storages follow in this order
        dtype, count = declared[key]
        written = int.from_bytes(file.read(8), byte_order, signed=True)
        values = file.read(max(count, 0) * np.dtype(dtype).itemsize)
        if written != count or len(values) != count * np.dtype(dtype).itemsize:
            raise InvalidFile(f"storage {key} has not its declared size")
        storages[key] = np.frombuffer(values, {"little": "<", "big": ">"}[byte_order] + dtype)
    return _arrays(tensors, storages, len(content))


def _arrays(tensors: Any, storages: dict[str, np.ndarray], file_bytes: int) -> dict[str, np.ndarray]:
    if not isinstance(tensors, dict) or not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
        raise InvalidFile("it contains something else than named tensors")
    arrays, bytes_left = {}, float(file_bytes)
    for name, tensor in tensors.items():
        if not isinstance(tensor.storage, _StorageKey):
            raise InvalidFile("a tensor without a storage")
        arrays[name] = tensor.array(storages[tensor.storage])
        bytes_left -= arrays[name].nbytes / 2
        if bytes_left < 0:
            raise InvalidFile("its tensors are larger than the file")
    return arrays


class _Tensor:
    """Replaces the function that creates a tensor. Its other arguments (gradients, hooks) do not affect the values."""

    def __init__(self, storage, offset, shape, strides, *_):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self, storage: np.ndarray) -> np.ndarray:
        """A copy of this tensor's part of `storage`, contiguous and in the native byte order."""
        integers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(type(n) is int and n >= 0 for n in integers):
            raise InvalidFile("the sizes and strides of a tensor are not equally many nonnegative integers")
        count = math.prod(self.shape)
        if not count:
            return np.zeros(self.shape, storage.dtype.newbyteorder("="))
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if last >= len(storage) or count > len(storage):  # the second: a stride of 0 repeats a value without bound
            raise InvalidFile("a tensor reaches beyond its storage")
        strides = [stride * storage.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides)
        return np.array(view, storage.dtype.newbyteorder("="), order="C")


class _StorageKey(str):
    """The key of a storage."""


def _dictionary() -> dict:
    """Replaces `collections.OrderedDict`."""
    return {}


def _parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    """Replaces the function that makes a parameter of a tensor: returns the tensor."""
    return tensor


GLOBALS: dict[str, Callable | str] = {
    "collections OrderedDict": _dictionary,
    "torch._utils _rebuild_tensor_v2": _Tensor,
    "torch._utils _rebuild_parameter": _parameter,
    **{f"torch {name}": dtype for name, dtype in STORAGES.items()},
}
"""The global names that a file may use, and what replaces them."""

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
"""Instructions that push their argument."""
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _unpickle(file: io.BytesIO) -> tuple[Any, dict[str, tuple[str, int]]]:
    """The object that the pickle at a file's position describes, and {key: (dtype, count)} of the storages it names.

    The file is left at the end of the pickle. Every instruction takes time and memory in proportion to its own bytes.
    """
    unpickler = _Unpickler()
    for instruction, argument, _ in pickletools.genops(file):
        if instruction.name == "STOP":
            return unpickler.stack.pop(), unpickler.storages
        if instruction.name != "PROTO":
            unpickler.execute(instruction.name, argument)
    raise InvalidFile("it ends in the middle")


class _Unpickler:
    """The stack machine of the pickle format, restricted to what plain tensors need."""

    def __init__(self):
        self.stack: list = []
        self.storages: dict[str, tuple[str, int]] = {}
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def execute(self, name: str, argument: Any) -> None:
        """Executes one instruction."""
        stack = self.stack
        if name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in LITERALS:
            stack.append(argument)
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in TUPLES:
            entries = tuple(stack[-TUPLES[name] :])
            del stack[-TUPLES[name] :]
            stack.append(entries)
        elif name == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self._set_items([key, value])
        elif name == "SETITEMS":
            self._set_items(self._pop_to_mark())
        elif name in ("APPEND", "APPENDS"):
            self._append(self._pop_to_mark() if name == "APPENDS" else [stack.pop()])
        elif name == "GLOBAL":
            if argument not in GLOBALS:
                raise InvalidFile(f"it asks for {argument.replace(' ', '.')}")
            stack.append(GLOBALS[argument])
        elif name == "REDUCE":
            self._call()
        elif name == "BUILD":  # sets attributes: PyTorch adds a `_metadata` to a dictionary, which is not needed
            stack.pop()
            if not isinstance(stack[-1], dict | _Tensor):
                raise InvalidFile("it sets attributes of something that is not a tensor")
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        else:
            raise InvalidFile(f"an instruction that plain tensors do not need, {name}")

    def _pop_to_mark(self) -> list:
        mark = self._marks.pop()
        entries = self.stack[mark:]
        del self.stack[mark:]
        return entries

    def _set_items(self, entries: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(entries) % 2 or not all(type(key) is str for key in entries[::2]):
            raise InvalidFile("names that are not strings")
        target.update(zip(entries[::2], entries[1::2], strict=True))

    def _append(self, entries: list) -> None:
        if not isinstance(self.stack[-1], list):
            raise InvalidFile("it appends to something that is not a list")
        self.stack[-1].extend(entries)

    def _call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function not in (_dictionary, _Tensor, _parameter) or not isinstance(arguments, tuple):
            raise InvalidFile("it calls something that is not a function")
        self.stack.append(function(*arguments))

    def _storage(self, description: tuple) -> _StorageKey:
        kind, dtype, key, _, count, *view = description
        known = kind == "storage" and isinstance(dtype, str) and dtype in STORAGES.values()
        if not known or type(key) is not str or type(count) is not int or any(view):
            raise InvalidFile("an unknown kind of storage")
        if self.storages.setdefault(key, (dtype, count)) != (dtype, count):
            raise InvalidFile(f"storage {key} is declared twice")
        return _StorageKey(key)
