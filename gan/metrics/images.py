"""What every extractor does to images: batches of one size, resizing as a product with two matrices. Part of a leaf.

Images are uint8 [N, H, W, C] with one or three channels, as they come from a file and as `--mode=sample` writes them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.errors import UserError


def checked(images: np.ndarray) -> np.ndarray:
    """`images` if they are uint8 [N >= 1, H, W, 1 or 3], else a `UserError`."""
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images) or images.shape[3] not in (1, 3):
        raise UserError(f"images {images.dtype} {list(images.shape)} are not uint8 [N >= 1, H, W, 1 or 3]")
    return images


def in_batches(function: Callable[[np.ndarray], Any], rows: np.ndarray, batch_size: int) -> Any:
    """`function` over all rows [N >= 1, ...] in batches of exactly `batch_size`: its outputs joined, [N, ...] in numpy.

    The last batch is filled up with zeros whose outputs are cut off: one program is compiled, no row is dropped, and
    a row's output depends neither on N nor on its batch-mates where `function` treats rows alone. Outputs may be any
    pytree.
    """
    parts, running = [], None
    for start in range(0, len(rows), batch_size):
        batch = np.asarray(rows[start : start + batch_size])
        if len(batch) < batch_size:
            batch = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), batch.dtype)])
        begun = function(batch)
        # One batch is fetched while the next is computed; more in flight would only fill the device's memory.
        if running is not None:
            parts.append(jax.tree.map(np.asarray, running))
        running = begun
    parts.append(jax.tree.map(np.asarray, running))
    return jax.tree.map(lambda *outputs: np.concatenate(outputs)[: len(rows)], *parts)


def resized(images: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """float32 [N, h, w, C] of images [N, H, W, C], by matrices `rows` [h, H] and `columns` [w, W]."""
    images = jnp.asarray(images, jnp.float32)
    return jnp.einsum("hi,nijc,wj->nhwc", rows, images, columns, precision=jax.lax.Precision.HIGHEST)


def bilinear_2015(source: int, target: int) -> np.ndarray:
    """float32 [target, source]: TensorFlow 1's bilinear resizing, which every published FID of old went through.

    Output i is read at i * source / target between its two neighbors: corners are not aligned, the centres of pixels
    are half a pixel off, and shrinking aliases (`align_corners=False, half_pixel_centers=False`).
    """
    place = np.arange(target) * (source / target)
    lower = np.floor(place).astype(int)
    upper = np.minimum(lower + 1, source - 1)
    matrix = np.zeros((target, source))
    matrix[np.arange(target), lower] += 1 - (place - lower)
    matrix[np.arange(target), upper] += place - lower
    return matrix.astype(np.float32)


def bicubic(source: int, target: int) -> np.ndarray:
    """float32 [target, source]: PIL's bicubic resizing (Keys' kernel, a = -1/2), its support grown when it shrinks.

    Weights are k((centre of source pixel - centre of target pixel in the source) / max(source / target, 1)), brought
    to a sum of 1, which mends the borders. Reference: Keys 1981, equation 15.
    """
    scale = source / target
    distance = np.abs((np.arange(source) + 0.5) - (np.arange(target)[:, None] + 0.5) * scale) / max(scale, 1)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
