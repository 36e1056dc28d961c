"""Codes: what an image is made of and can be edited by, the styles of a generator that has styles, else its latent."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.game import stated
from gan.inference.model import Labels, Model

BATCH_SIZE = 64
"""Images that are made at a time."""


def encode(model: Model, latents: Array | np.ndarray, labels: Labels = None) -> Array:
    """The codes of latents [B, Z]: the styles [B, L, W], or where there are none the latents themselves."""
    return model.styles(latents, labels) if model.game.has_styles else jnp.asarray(latents)


def decode(model: Model, codes: Array | np.ndarray, labels: Labels = None) -> Array:
    """Images float32 [B, H, W, C] from codes: a pure function, to be transformed by JAX."""
    return model.synthesize(codes) if model.game.has_styles else model.generate(codes, labels)


def draw(
    model: Model,
    codes: Array | np.ndarray,
    labels: np.ndarray | None = None,
    *,
    track: Callable[..., Iterable] | None = None,
) -> np.ndarray:
    """Images uint8 [B, H, W, C] of any number of codes, made BATCH_SIZE at a time.

    Args:
      labels: int [B]; None: of an unconditional generator.
      track: logs the progress: `gan.io.progress.progress`.
    """
    count = len(codes)
    labels = np.zeros(count, np.int32) if labels is None else np.asarray(labels, np.int32)
    images, batches = [], range(0, count, BATCH_SIZE)
    for first in track(batches, total=len(batches), what="Drawing images, in batches") if track else batches:
        # Always a full batch, so that only one shape is compiled; images beyond `count` are discarded.
        rows = np.minimum(np.arange(first, first + BATCH_SIZE), count - 1)
        images.append(jax.device_get(model.to_uint8(decode(model, codes[rows], labels[rows]))))
    return np.concatenate(images)[:count]


def split(model: Model, codes: Array) -> Array:
    """Codes as parts [B, P, N], of which each enters other layers, from the smallest image to the largest.

    The parts are the styles of the layers, or the parts of a latent that is split (`latent_parts` in `gan.networks`);
    other latents are one part.
    """
    count = stated(model.game.generator.module, "latent_parts", 1)
    return codes if model.game.has_styles else codes.reshape(len(codes), count, -1)


def join(model: Model, parts: Array) -> Array:
    """Parts [B, P, N] as codes: the inverse of `split`."""
    return parts if model.game.has_styles else parts.reshape(len(parts), -1)


def shape(model: Model) -> tuple[int, ...]:
    """The shape of the code of one image: [L, W] of styles, or [Z]."""
    return jax.eval_shape(lambda latents: encode(model, latents), model.latents(1)).shape[1:]


def num_parts(model: Model) -> int:
    """How many parts `split` makes of a code."""
    return jax.eval_shape(lambda latents: split(model, encode(model, latents)), model.latents(1)).shape[1]
