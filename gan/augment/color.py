"""Color operations on one image [H, W, C]. With its neutral argument each returns the image bit for bit.

The luma of a pixel is the mean of its channels, as in the papers of DiffAugment and ADA. Its chroma is the rest. So
every operation is defined for any C. A grey image has no chroma: only brightness, contrast and luma flip change it. Hue
is defined for three channels.
"""

import jax.numpy as jnp
from jax import Array


def luma(image: Array) -> Array:
    """The mean of the channels, [H, W, 1]."""
    return jnp.mean(image, axis=-1, keepdims=True)


def contrast(image: Array, factor: Array) -> Array:
    """m + factor (x - m), with m the mean of the whole image. Neutral: 1."""
    return image + (factor - 1.0) * (image - jnp.mean(image))


def saturation(image: Array, factor: Array) -> Array:
    """luma + factor chroma. Neutral: 1, and every factor where C = 1."""
    return image + (factor - 1.0) * (image - luma(image))


def luma_flip(image: Array, amount: Array) -> Array:
    """chroma + (1 - 2 amount) luma: amount 1 inverts the lightness and keeps the color. Neutral: 0."""
    return image - 2.0 * amount * luma(image)


def hue(image: Array, angle: Array) -> Array:
    """The chroma rotated by `angle`, in radians, about the grey axis v = (1, 1, 1) / sqrt 3. Neutral: 0.

    The result is luma + chroma cos(angle) + (v x chroma) sin(angle). An image without three channels is unchanged.
    """
    if image.shape[-1] != 3:
        return image
    across = (jnp.roll(image, 1, axis=-1) - jnp.roll(image, -1, axis=-1)) / jnp.sqrt(3.0)
    return image + (jnp.cos(angle) - 1.0) * (image - luma(image)) + jnp.sin(angle) * across
