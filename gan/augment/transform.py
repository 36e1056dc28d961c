"""What all augmentations share: the type `Augment`, parsing of a policy, and the random numbers of a part."""

import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.errors import UserError, lookup

UNIFORMS_PER_PART = 12
"""Random numbers that a part may use. All parts share this number: changing it would change every draw."""


class Augment(NamedTuple):
    """How images are augmented before the discriminator sees them. Hashable; equal arguments build equal values."""

    transform: Callable[[Array, Array, Array], Array]
    """`(images [B, H, W, C], keys [B], p []) -> images`."""
    pseudo: bool = False
    """Whether a generated image replaces each real image with probability p. The training step does it."""


def identity(images: Array, keys: Array, p: Array) -> Array:
    """The transform that returns all images unchanged."""
    return images


def by_level(
    transform: Callable[[Array, Array, Array], Array], images: Array, keys: Array, p: Array, channels: int
) -> Array:
    """The transform of each level of images [B, H, W, L C] with C `channels`, with the same draws for all levels."""
    if images.shape[-1] == channels:
        return transform(images, keys, p)
    levels = images.reshape(*images.shape[:-1], -1, channels)
    return jax.vmap(transform, (3, None, None), 3)(levels, keys, p).reshape(images.shape)


def parse_policy(policy: str, valid: Iterable[str]) -> tuple[str, ...]:
    """The parts that a string such as "color,cutout" names, in the order of `valid`.

    Raises `UserError` for a policy that is not a string, and for an unknown part.
    """
    field = "config.augment.policy"
    if not isinstance(policy, str):
        raise UserError(f"{field}: {policy!r} is not a list of parts; expected: a string of {', '.join(valid)}")
    chosen = [lookup(dict.fromkeys(valid, part.strip()), part.strip(), field) for part in policy.split(",")]
    return tuple(part for part in valid if part in chosen)


def part_uniforms(key: Array, parts: tuple[str, ...]) -> dict[str, Array]:
    """UNIFORMS_PER_PART numbers from U(0, 1) for each part, drawn by its name: other parts do not change them.

    One vectorized call draws them all, because XLA takes most of a second to compile a random generator on CPU.
    """
    uses = np.array([zlib.crc32(part.encode()) for part in parts], np.uint32)
    draws = jax.vmap(lambda use: jax.random.uniform(jax.random.fold_in(key, use), (UNIFORMS_PER_PART,)))(uses)
    return dict(zip(parts, draws, strict=True))


def normal_from_uniform(uniform: Array) -> Array:
    """U(0, 1) to N(0, 1). A draw is a multiple of 2^-23; the middle of its step is used, so no result is infinite."""
    return jnp.sqrt(2.0) * jax.scipy.special.erfinv(2.0 * uniform - 1.0 + 2.0**-23)
