"""Reads the tensors of a PyTorch file without PyTorch, and without running what the file says. Part of a leaf.

Such a file is a pickle that describes tensors, and the raw numbers: as members of a zip archive (PyTorch 1.6 and
later), or one after the other in a stream (before). A pickle is a program for a machine that can call any function
that can be imported, so a file from a stranger is a program. Python's machine is not used here. `_described` is one of
our own, that knows the few instructions that PyTorch writes:

- a name is looked up in a table of eleven and becomes a word or an inert class of ours; any other ends the reading;
- it can make dictionaries with strings as keys, lists, tuples, numbers, strings and tensors, and nothing else;
- a tensor's offset, sizes and strides are checked against its storage before any number is touched, and all tensors
  together are no larger than twice the file: a small file cannot fill the memory.
"""

import io
import math
import os
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gan.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a stream
STREAM_VERSION = 1001  # the second
STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
}  # fmt: skip
"""PyTorch's classes of storage as numpy's types. A string cannot be called, nor given attributes."""
MOST_BYTES = 2**32
"""Of a file."""


class Unreadable(ValueError):
    """What a file holds is not tensors, or not all of them."""


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """{name: array} of a file that `torch.save(module.state_dict(), path)` wrote, in either format.

    Raises `UserError` for a file that is not there, not such a file, or that names anything but plain tensors.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise Unreadable("no regular file")
        if path.stat().st_size > MOST_BYTES:
            raise Unreadable(f"{path.stat().st_size:,} bytes; expected: up to {MOST_BYTES:,}")
        content = path.read_bytes()
        return _read_zip(content) if content.startswith(b"PK\3\4") else _read_stream(content)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged or hostile file may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is not a PyTorch file of plain tensors ({reason})") from error


def _read_zip(content: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        folders = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(folders) != 1:
            raise Unreadable("no data.pkl in the archive")
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members.values())
        if packed or sum(member.file_size for member in members.values()) > len(content):
            raise Unreadable("its members are packed, or longer than the file")
        order = "<"
        if f"{folders[0]}byteorder" in members:
            order = {b"little": "<", b"big": ">"}[archive.read(f"{folders[0]}byteorder")]
        tensors, described = _described(io.BytesIO(archive.read(f"{folders[0]}data.pkl")))
        storages = {}
        for key, (dtype, count) in described.items():
            numbers = archive.read(members[f"{folders[0]}data/{key}"])
            if len(numbers) != count * np.dtype(dtype).itemsize:
                raise Unreadable(f"storage {key} has not the size it should have")
            storages[key] = np.frombuffer(numbers, order + dtype)
        return _arrays(tensors, storages, len(content))


def _read_stream(content: bytes) -> dict[str, np.ndarray]:
    file = io.BytesIO(content)
    if _described(file)[0] != MAGIC or _described(file)[0] != STREAM_VERSION:
        raise Unreadable("it does not begin as one")
    order = "little" if _described(file)[0]["little_endian"] else "big"
    tensors, described = _described(file)
    storages = {}
    for key in _described(file)[0]:  # the order in which the storages follow
        dtype, count = described[key]
        written = int.from_bytes(file.read(8), order, signed=True)
        numbers = file.read(max(count, 0) * np.dtype(dtype).itemsize)
        if written != count or len(numbers) != count * np.dtype(dtype).itemsize:
            raise Unreadable(f"storage {key} has not the size it should have")
        storages[key] = np.frombuffer(numbers, {"little": "<", "big": ">"}[order] + dtype)
    return _arrays(tensors, storages, len(content))


def _arrays(tensors: Any, storages: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    if not isinstance(tensors, dict) or not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
        raise Unreadable("it holds something else than named tensors")
    found = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor.storage, _Storage):
            raise Unreadable("a tensor without a storage")
        found[name] = tensor.array(storages[tensor.storage])
        length -= found[name].nbytes / 2
        if length < 0:
            raise Unreadable("its tensors are larger than itself")
    return found


class _Tensor:
    """In place of the function that makes a tensor; further arguments (gradients, hooks) say nothing of its numbers."""

    def __init__(self, storage, offset, shape, strides, *_):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self, storage: np.ndarray) -> np.ndarray:
        """A copy of the part of `storage` that is this tensor, native and contiguous."""
        whole = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(type(n) is int and n >= 0 for n in whole):
            raise Unreadable("the sizes and strides of a tensor are not whole numbers, as many of each")
        count = math.prod(self.shape)
        if not count:
            return np.zeros(self.shape, storage.dtype.newbyteorder("="))
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if last >= len(storage) or count > len(storage):  # the second: a stride of 0 would blow it up
            raise Unreadable("a tensor reaches beyond its storage")
        strides = [stride * storage.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides)
        return np.array(view, storage.dtype.newbyteorder("="), order="C")


class _Storage(str):
    """The key of a storage."""


def _dictionary() -> dict:
    """In place of `collections.OrderedDict`."""
    return {}


def _parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    """In place of the function that makes a parameter of a tensor: the tensor."""
    return tensor


NAMES: dict[str, Callable | str] = {
    "collections OrderedDict": _dictionary,
    "torch._utils _rebuild_tensor_v2": _Tensor,
    "torch._utils _rebuild_parameter": _parameter,
    **{f"torch {name}": dtype for name, dtype in STORAGES.items()},
}
"""What a file may name, and what that is here."""

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NUMBERS_AND_STRINGS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
"""Instructions that push what they carry."""
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _described(file: io.BytesIO) -> tuple[Any, dict[str, tuple[str, int]]]:
    """What the pickle at a file's position describes, and {key: (type, count)} of the storages that it names.

    The file is left behind its end. Every instruction takes time and memory in proportion to its own bytes.
    """
    stack: list = []
    marks: list[int] = []
    memory: dict[int, Any] = {}
    storages: dict[str, tuple[str, int]] = {}

    def since_mark() -> list:
        mark = marks.pop()
        entries = stack[mark:]
        del stack[mark:]
        return entries

    def put(entries: list) -> None:
        target = stack[-1]
        if not isinstance(target, dict) or len(entries) % 2 or not all(type(key) is str for key in entries[::2]):
            raise Unreadable("names that are not strings")
        target.update(zip(entries[::2], entries[1::2], strict=True))

    for instruction, argument, _ in pickletools.genops(file):
        name = instruction.name
        if name == "STOP":
            return stack.pop(), storages
        if name == "PROTO":
            continue
        if name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in NUMBERS_AND_STRINGS:
            stack.append(argument)
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name in TUPLES:
            entries = tuple(stack[-TUPLES[name] :])
            del stack[-TUPLES[name] :]
            stack.append(entries)
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memory[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memory[argument])
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            put([key, value])
        elif name == "SETITEMS":
            put(since_mark())
        elif name in ("APPEND", "APPENDS"):
            entries = since_mark() if name == "APPENDS" else [stack.pop()]
            if not isinstance(stack[-1], list):
                raise Unreadable("it appends to what is no list")
            stack[-1].extend(entries)
        elif name == "GLOBAL":
            if argument not in NAMES:
                raise Unreadable(f"it asks for {argument.replace(' ', '.')}")
            stack.append(NAMES[argument])
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            if function not in (_dictionary, _Tensor, _parameter) or not isinstance(arguments, tuple):
                raise Unreadable("it calls what is no function")
            stack.append(function(*arguments))
        elif name == "BUILD":  # attributes: PyTorch hangs a `_metadata` on a dictionary, which says nothing of numbers
            stack.pop()
            if not isinstance(stack[-1], dict | _Tensor):
                raise Unreadable("it changes what is no tensor")
        elif name == "BINPERSID":
            kind, dtype, key, _, count, *view = stack.pop()
            known = kind == "storage" and isinstance(dtype, str) and dtype in STORAGES.values()
            if not known or type(key) is not str or type(count) is not int or any(view):
                raise Unreadable("an unknown kind of storage")
            if storages.setdefault(key, (dtype, count)) != (dtype, count):
                raise Unreadable(f"storage {key} is told twice")
            stack.append(_Storage(key))
        else:
            raise Unreadable(f"an instruction that no plain tensor needs, {name}")
    raise Unreadable("it ends in the middle")
