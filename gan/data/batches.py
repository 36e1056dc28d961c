"""Batches of the examples in their one order: gathered from resident arrays, or streamed; the same bits either way.

The examples of a turn of the game are a function of (seed, step). The data position of a run is its step.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.data import cache
from gan.data.order import example_order
from gan.errors import UserError


def positions(
    step: int | Array, *, batches: int, batch_size: int, rows: np.ndarray | Array | None = None
) -> np.ndarray | Array:
    """Positions in the order of examples of one turn: uint32 [batches, rows].

    Turn k shows batches * batch_size examples, so row r of batch b is example (k * batches + b) * batch_size + r of the
    run, modulo 2^32: after 4.29e9 examples shown the order starts again.

    Args:
      step: the turn k; an int, or an integer scalar of NumPy or JAX (also traced).
      batches: batches of one turn, static.
      batch_size: size of the global batch, static.
      rows: integer array [rows], the wanted rows of the global batch (a device's or a host's share; also traced), or
        None for all of them.
    """
    rows = np.arange(batch_size) if rows is None else rows
    grid = np.arange(batches, dtype=np.uint32)[:, None] * np.uint32(batch_size) + rows.astype(np.uint32)[None, :]
    turn = batches * batch_size
    if isinstance(step, jax.Array):
        return step.astype(np.uint32) * np.uint32(turn) + grid
    return np.uint32(int(step) * turn % 2**32) + grid


def gather(
    images: Array,
    labels: Array,
    *,
    seed: int | Array,
    step: int | Array,
    batches: int,
    batch_size: int,
    rows: np.ndarray | Array | None = None,
) -> dict[str, Array]:
    """One turn's examples out of resident arrays, inside the compiled program.

    Args:
      images: uint8 [N, H, W, C], or float32 for points; labels: int32 [N].
      seed, step, batches, batch_size, rows: see `positions` and `example_order`.

    Returns:
      {"image": [batches, rows, H, W, C], of the dtype of images, "label": int32 [batches, rows]}
    """
    wanted = positions(step, batches=batches, batch_size=batch_size, rows=rows)
    indices = jnp.asarray(example_order(wanted, seed=seed, n=len(labels)))
    return {
        "image": jnp.asarray(images).at[indices].get(mode="promise_in_bounds"),
        "label": jnp.asarray(labels).at[indices].get(mode="promise_in_bounds"),
    }


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Examples that lie decoded on the disk or in memory, to be streamed: images [N, H, W, C] and labels [N]."""

    images: np.ndarray
    labels: np.ndarray
    _stamps: dict = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        mapped = [array for array in (self.images, self.labels) if isinstance(array, np.memmap)]
        object.__setattr__(self, "_stamps", {array.filename: cache.stamp(array.filename) for array in mapped})

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples at `indices` [k]. Raises `UserError` where a file that they lie in has been written to."""
        self._check_unchanged()  # beyond the end of a file that was cut, a memory map kills the process
        found = self.images[indices], self.labels[indices]
        self._check_unchanged()
        return found

    def _check_unchanged(self):
        for path, before in self._stamps.items():
            now = cache.stamp(path)
            # Another file of the name, or none, takes nothing away: the map holds on to the one that was opened.
            if now is not None and now[-1] == before[-1] and now != before:
                raise UserError(f"{path} was changed during the run: launch again, and it is made anew")


def stream(
    dataset,
    *,
    seed: int,
    first_step: int,
    last_step: int,
    batches: int,
    batch_size: int,
    rows: np.ndarray | None = None,
    threads: int = 4,
    prefetch: int = 8,
) -> Iterator[dict[str, np.ndarray]]:
    """Iterator over the turns first_step, ..., last_step - 1, read at random access and decoded by threads (Grain).

    Args:
      dataset: a `Dataset`, or anything with `__len__` and `read(indices) -> (images, labels)`.
      rows: the rows of the global batch that this host reads; None for all of them.
      threads: turns that are decoded at the same time.
      prefetch: turns that are held ready at most.
      The rest: see `positions` and `example_order`.

    Yields:
      what `gather` returns, as NumPy arrays. Closing the iterator stops its threads.
    """
    import grain  # 0.1 s, and only streamed runs need it

    def turn(step):
        wanted = positions(step, batches=batches, batch_size=batch_size, rows=rows)
        images, labels = dataset.read(example_order(wanted, seed=seed, n=len(dataset)).reshape(-1))
        return {
            "image": images.reshape(*wanted.shape, *images.shape[1:]),
            "label": labels.reshape(wanted.shape),
        }

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, prefetch))
    iterator = iter(grain.MapDataset.range(first_step, last_step).map(turn).to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


def to_range(images: np.ndarray | Array, image_range: tuple[float, float]) -> np.ndarray | Array:
    """Pixels 0..255 as float32 in image_range = (low, high): low + (high - low) * pixel / 255; floats as they are."""
    if np.issubdtype(images.dtype, np.floating):
        return images
    low, high = image_range
    # Divided first: 0 and 255 then land on low and high exactly.
    return images.astype(np.float32) / np.float32(255) * np.float32(high - low) + np.float32(low)


def to_uint8(images: np.ndarray | Array, image_range: tuple[float, float]) -> np.ndarray | Array:
    """The inverse of `to_range`: rounded to the nearest of 0..255, and clipped to them."""
    low, high = image_range
    xp = jnp if isinstance(images, jax.Array) else np
    return xp.clip(xp.rint((images - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
