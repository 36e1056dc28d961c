"""Operations on images that feature extractors share: batches of a fixed size, and resizing by matrix products.

Images are uint8 [N, H, W, C] with one or three channels, as `--mode=sample` writes them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.errors import UserError


def checked(images: np.ndarray) -> np.ndarray:
    """`images`, unchanged. Raises `UserError` if they are not uint8 [N >= 1, H, W, 1 or 3]."""
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images) or images.shape[3] not in (1, 3):
        raise UserError(f"images are {images.dtype} {list(images.shape)}; expected: uint8 [N >= 1, H, W, 1 or 3]")
    return images


def in_batches(function: Callable[[Any], Any], rows: np.ndarray, batch_size: int) -> Any:
    """Applies `function` to all rows [N >= 1, ...] in batches of exactly `batch_size`; NumPy outputs [N, ...].

    The last batch is padded with zeros, whose outputs are discarded. So only one shape is compiled, no row is dropped,
    and if `function` treats rows independently, a row's output depends neither on N nor on the rest of its batch.
    Outputs may be any pytree.
    """
    outputs, pending = [], None
    for start in range(0, len(rows), batch_size):
        batch = np.asarray(rows[start : start + batch_size])
        if len(batch) < batch_size:
            batch = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), batch.dtype)])
        dispatched = function(batch)
        # One batch is fetched while the next one is computed; more batches in flight would only use device memory.
        if pending is not None:
            outputs.append(jax.tree.map(np.asarray, pending))
        pending = dispatched
    outputs.append(jax.tree.map(np.asarray, pending))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(rows)], *outputs)


def resized(images: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """float32 [N, h, w, C]: rows [h, H] @ images [N, H, W, C] @ columns^T [W, w], for each channel."""
    images = jnp.asarray(images, jnp.float32)
    return jnp.einsum("hi,nijc,wj->nhwc", rows, images, columns, precision=jax.lax.Precision.HIGHEST)


def bilinear_2015(source: int, target: int) -> np.ndarray:
    """float32 [target, source]: the matrix of TensorFlow 1's bilinear resizing, on which the published FID depends.

    Output i is interpolated at position i * source / target. Corners are not aligned, pixel centers are off by half a
    pixel, and downsampling aliases (`align_corners=False, half_pixel_centers=False`).
    """
    position = np.arange(target) * (source / target)
    lower = np.floor(position).astype(int)
    upper = np.minimum(lower + 1, source - 1)
    matrix = np.zeros((target, source))
    matrix[np.arange(target), lower] += 1 - (position - lower)
    matrix[np.arange(target), upper] += position - lower
    return matrix.astype(np.float32)


def bicubic(source: int, target: int) -> np.ndarray:
    """float32 [target, source]: the matrix of PIL's bicubic resizing, whose support grows when it downsamples.

    The weights are k((source center - target center, in source pixels) / max(source / target, 1)) with Keys' kernel k,
    a = -1/2. Each row is divided by its sum, which corrects the borders. Reference: Keys 1981, equation 15.
    """
    scale = source / target
    distance = np.abs((np.arange(source) + 0.5) - (np.arange(target)[:, None] + 0.5) * scale) / max(scale, 1)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
