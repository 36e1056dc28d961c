"""Operations on whole pixels of one image [H, W, C]: shift and cutout. Both fill with 0."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def shift(image: Array, offset: Array, limit: tuple[int, int]) -> Array:
    """The image moved by `offset` int32 [2] pixels down and right, at most `limit` in each direction."""
    padded = jnp.pad(image, ((limit[0], limit[0]), (limit[1], limit[1]), (0, 0)))
    return jax.lax.dynamic_slice(padded, (limit[0] - offset[0], limit[1] - offset[1], 0), image.shape)


def cutout(image: Array, corner: Array, size: Array | np.ndarray) -> Array:
    """The image with 0 where the center of a pixel lies in [corner, corner + size). Both are [2], in pixels."""
    row = jnp.arange(image.shape[0])[:, None, None] + 0.5 - corner[0]
    column = jnp.arange(image.shape[1])[None, :, None] + 0.5 - corner[1]
    return jnp.where((row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1]), 0.0, image)
