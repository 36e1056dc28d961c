"""DiffAugment (Zhao et al. 2020, arXiv:2006.10738): all parts of a policy are applied, or none.

A part is `(image, draws) -> image`, with UNIFORMS_PER_PART numbers from U(0, 1) of its own.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.augment.color import contrast, saturation
from gan.augment.pixels import cutout, shift
from gan.augment.transform import Augment, parse_policy, part_uniforms
from gan.errors import UserError

FLIPPED = 0.4
"""The part of the images that `flip` mirrors (Hyun et al. 2025, arXiv:2509.24935, in the authors' code)."""


def _color(image: Array, draws: Array) -> Array:
    image = image + (draws[0] - 0.5)
    return contrast(saturation(image, 2.0 * draws[1]), draws[2] + 0.5)


def _translation(image: Array, draws: Array) -> Array:
    limit = (np.array(image.shape[:2]) / 8 + 0.5).astype(int)
    return shift(image, jnp.floor((2 * limit + 1) * draws[:2]).astype(jnp.int32) - limit, tuple(limit))


def _cutout(image: Array, draws: Array) -> Array:
    sides = np.array(image.shape[:2])
    size = (sides / 2 + 0.5).astype(int)
    return cutout(image, jnp.floor((sides + 1 - size % 2) * draws[:2]) - size // 2, size)


def _flip(image: Array, draws: Array) -> Array:
    return jnp.where(draws[0] < FLIPPED, image[:, ::-1], image)


PARTS: Mapping[str, Callable[[Array, Array], Array]] = {
    "color": _color,
    "translation": _translation,
    "cutout": _cutout,
    "flip": _flip,
}


@dataclasses.dataclass(frozen=True)
class DiffAugment:
    """The transform of `diff_augment`, with these parts in this order."""

    parts: tuple[str, ...]
    color: float = 1.0
    """The probability of the part "color" where an image is augmented."""

    def __call__(self, images: Array, keys: Array, p: Array) -> Array:
        return jax.vmap(self._augment_one, in_axes=(0, 0, None))(images, keys, p)

    def _augment_one(self, image: Array, key: Array, p: Array) -> Array:
        draws = part_uniforms(key, ("gate", *self.parts))
        augmented = image
        for part in self.parts:
            changed = PARTS[part](augmented, draws[part])
            is_drawn = part == "color" and self.color < 1.0
            augmented = jnp.where(draws[part][-1] < self.color, changed, augmented) if is_drawn else changed
        return jnp.where(draws["gate"][0] < p, augmented, image)


def diff_augment(policy: str = "color,translation,cutout", color: float = 1.0) -> Augment:
    """With probability p, all parts of the policy are applied to an image. The paper has p = 1.

    - color: x + U(-1/2, 1/2), then `saturation` by U(0, 2), then `contrast` by U(1/2, 3/2); of augmented images only
      the part `color`, 1 in the paper.
    - translation: `shift` by up to an eighth of each side, in each direction.
    - cutout: 0 in a box of half of each side, centered on any pixel.
    - flip: left to right, for FLIPPED of the images. It is not in the paper, and not in the default policy.

    The parts are applied in this order, whatever their order in the policy.

    Raises `UserError` for an unknown part, and unless `color` is a probability above 0.

    Reference: Zhao et al. 2020, Differentiable Augmentation for Data-Efficient GAN Training, arXiv:2006.10738.
    """
    if not 0.0 < color <= 1.0:
        raise UserError(f"config.augment.policy: color={color}; expected: 0 < color <= 1")
    return Augment(DiffAugment(parse_policy(policy, PARTS), color))
