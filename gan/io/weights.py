"""Arrays in a safetensors file: data alone, which is read without pickle, without Orbax and without a device.

A tree of arrays is stored flat. The key of an array is its path in the tree, as in `generator/params/Dense_0/kernel`.
The CRC-32 of every array is stored in the metadata, so that a changed byte is detected.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401 (safetensors reads and writes bfloat16 where it is loaded)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors_numpy

from gan.errors import UserError
from gan.io import atomic

DIGESTS = "crc32"
"""The entry of the metadata that holds {key: CRC-32 of the array's bytes} as JSON."""

DTYPES = ("float32", "bfloat16")
"""The types that arrays may be stored in."""


def save(path: Path, trees: Mapping[str, Any], *, dtype: str = "float32") -> None:
    """Writes trees of arrays as one safetensors file, whole or not at all, each under its name.

    Args:
      path: of the file.
      trees: {name: tree}; the key of an array is the name and its path in the tree, joined by "/".
      dtype: the type that arrays are stored in, one of `DTYPES`.
    """
    arrays = {key: np.asarray(np.asarray(leaf), dtype) for key, leaf in flat(trees).items()}
    digests = {key: _digest(array) for key, array in arrays.items()}
    with atomic.replacing(path) as tmp:
        tmp.write_bytes(safetensors_numpy.save(arrays, metadata={DIGESTS: json.dumps(digests)}))


def read(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a safetensors file whose keys begin with `prefix`, by their keys.

    Raises `UserError` where there is no such file, or it is damaged or has arrays of another type than `DTYPES`.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no regular file; expected: a safetensors file")
    try:
        with safe_open(path, "numpy") as file:
            digests = json.loads((file.metadata() or {}).get(DIGESTS, "{}"))
            arrays = {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
        damaged = [key for key, array in arrays.items() if key in digests and digests[key] != _digest(array)]
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({reason}); expected: a safetensors file") from error
    if damaged:
        raise UserError(f"{path} is damaged: the checksum of {damaged[0]!r} does not match")
    foreign = next((key for key, array in arrays.items() if array.dtype.name not in DTYPES), None)
    if foreign is not None:
        raise UserError(f"{path}: {foreign!r} is {arrays[foreign].dtype}; expected: {' or '.join(DTYPES)}")
    broken = next((key for key, array in arrays.items() if not np.isfinite(array.astype(np.float32)).all()), None)
    if broken is not None:
        raise UserError(f"{path}: {broken!r} holds values that are not finite")
    return arrays


def restore(path: Path, targets: Mapping[str, Any]) -> dict[str, Any]:
    """The trees that `save` wrote under the names of `targets`, with the structure, shapes and types of `targets`.

    Raises `UserError` as `read` does, and where an array is missing, has another shape, or is not in `targets`.
    """
    expected = flat(targets)
    arrays = {key: array for key, array in read(path).items() if key.partition("/")[0] in targets}
    for key, target in expected.items():
        if key not in arrays:
            raise UserError(f"{path} has no {key!r}: it was not exported from the networks of its config.json")
        if arrays[key].shape != target.shape:
            raise UserError(f"{path}: {key!r} is {list(arrays[key].shape)}; expected: {list(target.shape)}")
    if unknown := next((key for key in arrays if key not in expected), None):
        raise UserError(f"{path}: {unknown!r} is not in the networks of its config.json")
    structure = jax.tree.structure(targets)
    leaves = [np.asarray(arrays[key], target.dtype) for key, target in expected.items()]
    return jax.tree.unflatten(structure, leaves)


def flat(trees: Mapping[str, Any]) -> dict[str, Any]:
    """{path: leaf} of trees of dictionaries and dataclasses, with the parts of a path joined by "/"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(dict(trees))
    }


def _digest(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data)
