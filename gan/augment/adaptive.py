"""Adaptive discriminator augmentation, ADA (Karras et al. 2020, arXiv:2006.06676).

Each operation is applied with probability p, independently of the others. A geometric part is
`(height, width, draws, p) -> inverse [3, 3]`, any other part `(image, draws, p) -> image`, with UNIFORMS_PER_PART
numbers from U(0, 1) of its own: first those that decide whether an operation is applied, then those that decide how.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.augment.color import hue, luma_flip, saturation
from gan.augment.filters import EXACT, amplify
from gan.augment.geometry import compose, resample, rotation, scaling, translation
from gan.augment.pixels import cutout
from gan.augment.transform import Augment, normal_from_uniform, parse_policy, part_uniforms
from gan.errors import UserError


def adapted(
    p: Array, overfitting: Array, *, target: float | Array, images: float | Array, ada_images: float | Array
) -> Array:
    """p after `images` more real images: p + sign(overfitting - target) images / ada_images, clipped to [0, 1].

    `overfitting` is the paper's r_t = E[sign(D(real))], measured since the last change, in [-1, 1]. `ada_images` is the
    number of images in which p can rise from 0 to 1. The paper has target = 0.6 and ada_images = 500,000.

    Reference: Karras et al. 2020, arXiv:2006.06676, section 3.2.
    """
    return jnp.clip(p + jnp.sign(overfitting - target) * images / ada_images, 0.0, 1.0)


def _blit(height: int, width: int, draws: Array, p: Array) -> Array:
    gate = draws[:3] < p
    mirror = jnp.where(gate[0] & (draws[3] < 0.5), -1.0, 1.0)
    turns = jnp.floor(4.0 * draws[4]) if height == width else 2.0 * jnp.floor(2.0 * draws[4])
    turns = jnp.where(gate[1], turns, 0.0).astype(jnp.int32)
    # A table, because the cosine of half a float32 pi is not 0.
    cosine, sine = jnp.array([1.0, 0.0, -1.0, 0.0])[turns], jnp.array([0.0, 1.0, 0.0, -1.0])[turns]
    pixels = jnp.where(gate[2], jnp.round((2.0 * draws[5:7] - 1.0) * np.array([height, width]) / 8), 0.0)
    return compose(scaling(1.0, mirror), rotation(cosine, sine), translation(pixels[0], pixels[1]))


def _geometry(height: int, width: int, draws: Array, p: Array) -> Array:
    gate = draws[:3] < p
    zoom = jnp.where(gate[0], jnp.exp2(0.2 * normal_from_uniform(draws[5])), 1.0)
    stretch = jnp.where(gate[1], jnp.exp2(0.2 * normal_from_uniform(draws[6])), 1.0)
    pixels = jnp.where(gate[2], normal_from_uniform(draws[7:9]) * np.array([height, width]) / 8, 0.0)
    # Either of two rotations would rotate an upright image: at least one of them is applied with probability p.
    angles = jnp.where(draws[3:5] < 1.0 - jnp.sqrt(1.0 - p), jnp.pi * (2.0 * draws[9:11] - 1.0), 0.0)
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    return compose(
        scaling(zoom, zoom),
        rotation(cosine[0], sine[0]),
        scaling(1.0 / stretch, stretch),
        rotation(cosine[1], sine[1]),
        translation(pixels[0], pixels[1]),
    )


def _color(image: Array, draws: Array, p: Array) -> Array:
    gate = draws[:5] < p
    # All operations but brightness are linear in a pixel: they act on unit pixels, then one product on the image.
    pixels = jnp.eye(image.shape[-1]) * jnp.where(gate[1], jnp.exp2(0.5 * normal_from_uniform(draws[6])), 1.0)
    pixels = luma_flip(pixels, jnp.where(gate[2] & (draws[7] < 0.5), 1.0, 0.0))
    pixels = hue(pixels, jnp.where(gate[3], jnp.pi * (2.0 * draws[8] - 1.0), 0.0))
    pixels = saturation(pixels, jnp.where(gate[4], jnp.exp2(normal_from_uniform(draws[9])), 1.0))
    brightness = jnp.where(gate[0], 0.2 * normal_from_uniform(draws[5]), 0.0)
    return jnp.matmul(image + brightness, pixels, precision=EXACT)


def _filter(image: Array, draws: Array, p: Array) -> Array:
    # Row i holds the gains of change i, which changes band i and rescales all, to keep the power of a 1/f spectrum.
    changed = np.eye(4, dtype=bool) & (draws[:4] < p)[:, None]
    gains = jnp.where(changed, jnp.exp2(normal_from_uniform(draws[4:8]))[:, None], 1.0)
    power = jnp.sum(np.array([[10.0, 1.0, 1.0, 1.0]], np.float32) / 13.0 * (jnp.square(gains) - 1.0), axis=1) + 1.0
    return amplify(image, jnp.prod(gains / jnp.sqrt(power)[:, None], axis=0))


def _cutout(image: Array, draws: Array, p: Array) -> Array:
    sides = np.array(image.shape[:2], np.float32)
    size = jnp.where(draws[0] < p, sides / 2, 0.0)
    return cutout(image, draws[1:3] * sides - size / 2, size)


GEOMETRIC_PARTS: Mapping[str, Callable[[int, int, Array, Array], Array]] = {"blit": _blit, "geometry": _geometry}
PIXEL_PARTS: Mapping[str, Callable[[Array, Array, Array], Array]] = {
    "color": _color,
    "filter": _filter,
    "cutout": _cutout,
}


@dataclasses.dataclass(frozen=True)
class AdaAugment:
    """The transform of `ada`, with these parts in this order. All geometric parts are one map: one resampling."""

    parts: tuple[str, ...]
    color: float = 1.0

    def __call__(self, images: Array, keys: Array, p: Array) -> Array:
        return jax.vmap(self._augment_one, in_axes=(0, 0, None))(images, keys, p)

    def _augment_one(self, image: Array, key: Array, p: Array) -> Array:
        draws = part_uniforms(key, self.parts)
        height, width, _ = image.shape
        maps = [GEOMETRIC_PARTS[part](height, width, draws[part], p) for part in self.parts if part in GEOMETRIC_PARTS]
        if maps:
            image = resample(image, compose(*maps))
        for part in self.parts:
            if part in PIXEL_PARTS:
                image = PIXEL_PARTS[part](image, draws[part], self.color * p if part == "color" else p)
        return image


def ada(policy: str = "blit,geometry,color", color: float = 1.0) -> Augment:
    """With probability p, independently of the others, each operation of the policy's parts is applied to an image.

    Those of the part color have the probability `color` times p (Huang et al. 2024, arXiv:2501.05441, have 0.5).

    - blit: mirror image (with probability 1/2); 0 to 3 quarter turns (0 or 2 where H != W); `translation` by whole
      pixels, up to an eighth of each side.
    - geometry: `scaling` by s = 2^N(0, 0.2^2); `rotation` by U(-pi, pi); 1/s and s along the two axes, again
      s = 2^N(0, 0.2^2); a second rotation (each with probability 1 - sqrt(1 - p)); N(0, 1/8^2) of each side.
    - color: x + N(0, 0.2^2); times 2^N(0, 0.5^2); `luma_flip` (with probability 1/2); `hue` by U(-pi, pi);
      `saturation` by 2^N(0, 1).
    - filter: each of four frequency bands by 2^N(0, 1).
    - cutout: 0 in a box of half of each side.

    The parts are applied in this order, whatever their order in the policy. The paper uses the first three.

    Reference: Karras et al. 2020, Training Generative Adversarial Networks with Limited Data, arXiv:2006.06676,
    appendix B. `resample` states how it differs from theirs.
    """
    if not 0 <= color <= 1:
        raise UserError(f"config.augment.policy: ada's color={color} is not a share of p; expected: 0 <= color <= 1")
    return Augment(AdaAugment(parse_policy(policy, [*GEOMETRIC_PARTS, *PIXEL_PARTS]), color))
