"""Where a compiled train step gets its examples: all of them on the device, or streamed batch by batch.

Both give the same bits: `data.gather` and `data.stream` follow one order of examples.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

from gan import data
from gan.build import Options
from gan.errors import UserError
from gan.parallel import sharding

RESIDENT_BYTES = 2**30
"""Decoded datasets up to this size are kept on the device where `config.data.on_device` is "auto"."""

DECODED_BYTES = 2**32
"""Larger ones, up to this size, are decoded once, into the cache folder, and streamed from there."""

MAX_STEPS_PER_DISPATCH = 256


class Resident:
    """All examples on every device; the batches of a step are gathered inside the compiled program."""

    data_axis = None
    max_steps_per_dispatch = MAX_STEPS_PER_DISPATCH

    def __init__(self, dataset: data.AnyDataset, options: Options, mesh: Any):
        # Copies: a file that they are mapped from could be written to during the run.
        arrays = tuple(np.array(array) for array in dataset.arrays())
        self._arrays = sharding.replicate(arrays, mesh)
        self._order: dict[str, Any] = {"batch_size": options.batch_size, "mirror": options.mirror}

    def batch_of(self, arrays: Any, seed: Array, step: Array, rows: Array, batches: int) -> dict:
        """Inside the program: the step's examples of these rows."""
        return data.gather(*arrays, seed=seed, step=step, rows=rows, batches=batches, **self._order)

    def abstract(self, batches: int) -> Any:
        """What `take` gives, for compilation ahead of time."""
        return self._arrays

    def opened(self, first: int, last: int, batches: int) -> contextlib.AbstractContextManager:
        """While it is open, the data of the steps first .. last - 1 can be taken."""
        return contextlib.nullcontext()

    def take(self) -> tuple[Any, float]:
        """The data of the next steps, and the seconds that were spent waiting for them."""
        return self._arrays, 0.0


class Streamed:
    """Examples read, and decoded where they must be, by threads of the host, a few steps ahead; sent step by step.

    Each host reads those that its own devices are to have.
    """

    data_axis = 1
    max_steps_per_dispatch = 1

    def __init__(self, dataset: data.AnyDataset, options: Options, mesh: Any):
        self._dataset = data.Decoded(*dataset.arrays()) if decoded_bytes(dataset) <= DECODED_BYTES else dataset
        self._order: dict[str, Any] = {
            "seed": options.seed,
            "batch_size": options.batch_size,
            "mirror": options.mirror,
            "rows": sharding.process_rows(mesh, options.batch_size),
        }
        self._mesh = mesh
        self._example = dataset.read(np.arange(1))[0][0]

    def batch_of(self, arrays: Any, seed: Array, step: Array, rows: Array, batches: int) -> dict:
        """Inside the program: the examples are those that were given."""
        return arrays

    def abstract(self, batches: int) -> Any:
        """The shapes of what `take` gives, for compilation ahead of time."""
        shape = (batches, self._order["batch_size"])
        return {
            "image": jax.ShapeDtypeStruct((*shape, *self._example.shape), self._example.dtype),
            "label": jax.ShapeDtypeStruct(shape, np.int32),
        }

    @contextlib.contextmanager
    def opened(self, first: int, last: int, batches: int) -> Iterator[None]:
        """While it is open, the data of the steps first .. last - 1 can be taken."""
        self._stream = data.stream(self._dataset, first_step=first, last_step=last, batches=batches, **self._order)
        with contextlib.closing(self._stream):
            yield

    def take(self) -> tuple[Any, float]:
        """The data of the next step, and the seconds that were spent waiting for it."""
        start = time.perf_counter()
        batches = next(self._stream)
        waited = time.perf_counter() - start
        return sharding.make_global_batch(batches, self._mesh, 1, self._order["batch_size"]), waited


def open_source(dataset: data.AnyDataset, options: Options, mesh: Any) -> Resident | Streamed:
    """The dataset on the devices if it is to be there, or else streamed."""
    kind = Resident if is_resident(dataset, options.on_device) else Streamed
    return kind(dataset, options, mesh)


def is_resident(dataset: Any, on_device: str) -> bool:
    """Whether the whole dataset is kept on the device, by `config.data.on_device`."""
    if on_device not in ("auto", "always", "never"):
        raise UserError(f"config.data.on_device={on_device!r} is unknown; expected: auto, always, never")
    return on_device == "always" or (on_device == "auto" and decoded_bytes(dataset) <= RESIDENT_BYTES)


def decoded_bytes(dataset: Any) -> int:
    """Bytes of all images of a dataset, decoded."""
    return len(dataset) * math.prod(dataset.image_shape)
