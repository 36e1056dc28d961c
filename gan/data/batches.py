"""Batches: examples in their fixed order, gathered on the device or streamed from the host, with equal bits.

The examples of a training step are a function of (seed, step), so the step is the only data position to save.
"""

import dataclasses
from collections.abc import Generator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.data import cache
from gan.data.order import example_order, is_mirrored
from gan.errors import UserError


def positions(
    step: int | Array, *, batches: int, batch_size: int, rows: np.ndarray | Array | None = None
) -> np.ndarray | Array:
    """Positions in the order of examples for one training step: uint32 [batches, rows].

    Step k uses batches * batch_size examples. Row r of batch b is example (k * batches + b) * batch_size + r of the
    run, modulo 2^32: after 4.29e9 examples the order repeats.

    Args:
      step: k; an int, or an integer scalar of NumPy or JAX (may be traced).
      batches: number of batches per step, static.
      batch_size: size of the global batch, static.
      rows: integer array [rows], the requested rows of the global batch (the share of a device or a process; may be
        traced), or None for all of them.
    """
    rows = np.arange(batch_size) if rows is None else rows
    grid = np.arange(batches, dtype=np.uint32)[:, None] * np.uint32(batch_size) + rows.astype(np.uint32)[None, :]
    per_step = batches * batch_size
    if isinstance(step, jax.Array):
        return step.astype(np.uint32) * np.uint32(per_step) + grid
    return np.uint32(int(step) * per_step % 2**32) + grid


def gather(
    images: Array,
    labels: Array,
    *,
    seed: int | Array,
    step: int | Array,
    batches: int,
    batch_size: int,
    rows: np.ndarray | Array | None = None,
    mirror: bool = False,
) -> dict[str, Array]:
    """The examples of one training step, gathered from arrays on the device inside a compiled function.

    Args:
      images: uint8 [N, H, W, C], or float32 for 2-D points; labels: int32 [N].
      seed, step, batches, batch_size, rows: see `positions` and `example_order`.
      mirror: flip half of the images left to right, see `is_mirrored`.

    Returns:
      {"image": [batches, rows, H, W, C] with the dtype of images, "label": int32 [batches, rows]}
    """
    step_positions = positions(step, batches=batches, batch_size=batch_size, rows=rows)
    indices = jnp.asarray(example_order(step_positions, seed=seed, n=len(labels)))
    image = jnp.asarray(images).at[indices].get(mode="promise_in_bounds")
    if mirror:
        image = _mirrored(image, jnp.asarray(is_mirrored(step_positions, seed=seed)))
    return {
        "image": image,
        "label": jnp.asarray(labels).at[indices].get(mode="promise_in_bounds"),
    }


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Decoded examples to stream, in memory or memory-mapped: images [N, H, W, C] and labels [N]."""

    images: np.ndarray
    labels: np.ndarray
    _stamps: dict = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        mapped = [str(array.filename) for array in (self.images, self.labels) if isinstance(array, np.memmap)]
        object.__setattr__(self, "_stamps", {name: cache.stamp(name) for name in mapped})

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images and labels at `indices` [k]. Raises `UserError` if a memory-mapped file has been written to."""
        self._check_unchanged()  # reading a memory map beyond the end of a truncated file kills the process
        examples = self.images[indices], self.labels[indices]
        self._check_unchanged()
        return examples

    def _check_unchanged(self):
        for path, before in self._stamps.items():
            now = cache.stamp(path)
            # A deleted or replaced file does no harm: the map keeps the inode that was opened.
            if now is not None and now[-1] == before[-1] and now != before:
                raise UserError(f"{path} was changed during the run: run again, and it is rebuilt")


def stream(
    dataset,
    *,
    seed: int,
    first_step: int,
    last_step: int,
    batches: int,
    batch_size: int,
    rows: np.ndarray | None = None,
    mirror: bool = False,
    threads: int = 4,
    prefetch: int = 8,
) -> Generator[dict[str, np.ndarray], None, None]:
    """Iterates over training steps first_step, ..., last_step - 1; threads (Grain) read and decode the examples.

    Args:
      dataset: a `Dataset`, or any object with `__len__` and `read(indices) -> (images, labels)`.
      rows: the rows of the global batch that this process reads; None for all of them.
      mirror: flip half of the images left to right, see `is_mirrored`.
      threads: number of steps that are decoded concurrently.
      prefetch: maximal number of steps that are ready in advance.
      seed, batches, batch_size: see `positions` and `example_order`.

    Yields:
      what `gather` returns, as NumPy arrays. Closing the iterator stops its threads.
    """
    import grain  # takes 0.1 s, and only streamed runs need it

    def read(step):
        step_positions = positions(step, batches=batches, batch_size=batch_size, rows=rows)
        images, labels = dataset.read(example_order(step_positions, seed=seed, n=len(dataset)).reshape(-1))
        images = images.reshape(*step_positions.shape, *images.shape[1:])
        return {
            "image": _mirrored(images, is_mirrored(step_positions, seed=seed)) if mirror else images,
            "label": labels.reshape(step_positions.shape),
        }

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, prefetch))
    iterator = iter(grain.MapDataset.range(first_step, last_step).map(read).to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


def _mirrored(images, mask):
    """Images [..., H, W, C], flipped left to right where the mask [...] is true."""
    xp = jnp if isinstance(images, jax.Array) else np
    return xp.where(mask[..., None, None, None], images[..., ::-1, :], images)


def to_range(images: np.ndarray | Array, image_range: tuple[float, float]) -> np.ndarray | Array:
    """Pixels 0..255 as float32 in image_range = (low, high): low + (high - low) * pixel / 255. Floats are unchanged."""
    if np.issubdtype(images.dtype, np.floating):
        return images
    low, high = image_range
    # Dividing first maps 0 and 255 to low and high exactly.
    return images.astype(np.float32) / np.float32(255) * np.float32(high - low) + np.float32(low)


def to_uint8(images: np.ndarray | Array, image_range: tuple[float, float]) -> np.ndarray | Array:
    """The inverse of `to_range`: rounded to integers and clipped to 0..255."""
    low, high = image_range
    xp = jnp if isinstance(images, jax.Array) else np
    return xp.clip(xp.rint((images - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
