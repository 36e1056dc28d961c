"""Styles of a generator: their running mean, the truncation trick, and one for each layer."""

import jax.numpy as jnp
from jax import Array

STYLE_MEAN = "style_mean"
"""The name of the running mean of the styles w among the generator's batch statistics."""
MEAN_DECAY = 0.995
"""The part of that mean that is kept at each update (as in the code of StyleGAN2; 0.998 in StyleGAN3's)."""


def truncated(w: Array, mean: Array, truncation: float) -> Array:
    """Styles [B, W] moved toward their mean [B, W] or [1, W]: mean + truncation (w - mean), in the type of w.

    Reference: Karras et al. 2019, arXiv:1812.04948, section B.
    """
    return w if truncation == 1.0 else (mean + truncation * (w - mean)).astype(w.dtype)


def for_all_layers(w: Array, layers: int) -> Array:
    """Styles [B, W] as those of L layers, [B, L, W]."""
    return jnp.broadcast_to(w[:, None], (w.shape[0], layers, w.shape[1]))
