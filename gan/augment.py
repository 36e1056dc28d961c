"""Differentiable image augmentations, which the discriminator sees on real and on fake images alike. A leaf.

A transform has the signature `(images, keys, p) -> images`: images float32 [B, H, W, C] in [-1, 1] of any H, W and C
(results may leave the range), one typed PRNG key for each image, [B], and the probability p, a traced scalar. What an
image suffers depends on its own key alone; at p = 0 it is returned bit for bit. All is linear or smooth in the image,
so that R1 can be taken at the clean image through the augmented critic. Whatever is filled in is 0, mid grey.

The luma of a pixel is the mean of its channels, as in both papers, and its chroma is what is left: so every operation
stands for any C, and on a grey image brightness, contrast and luma flip alone have an effect. Hue is of three channels.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.errors import UserError, lookup

EXACT = jax.lax.Precision.HIGHEST
"""Of every matrix product here: on accelerators the default would round the pixels."""

MIDPOINT = np.array([3, -25, 150, 150, -25, 3]) / 256
"""The value between two pixels from the three on either side, exact for polynomials up to the fifth degree.

Reference: Deslauriers and Dubuc 1989, Symmetric iterative interpolation processes, Constructive Approximation 5.
"""

LOWPASS = np.array([-1, 0, 9, 16, 9, 0, -1]) / 32
"""The autocorrelation of the wavelet sym2: it and its complement split a spectrum into two halves that sum to one."""

DRAWS = 12
"""Random numbers that a part may use. One number for all: another would move every draw."""


class Augment(NamedTuple):
    """What is done to an image before the discriminator sees it. Hashable; equal arguments build equal values."""

    transform: Callable[[Array, Array, Array], Array]
    """`(images [B, H, W, C], keys [B], p []) -> images`."""
    pseudo: bool = False
    """Whether each real image is replaced by a generated one with probability p: by the step, not by the transform."""


def identity(images: Array, keys: Array, p: Array) -> Array:
    """The transform that leaves all images as they are."""
    return images


def adapted(
    p: Array, overfitting: Array, *, target: float | Array, images: float | Array, ada_images: float | Array
) -> Array:
    """p after `images` more real images: p + sign(overfitting - target) images / ada_images, clipped to [0, 1].

    `overfitting` is the paper's r_t = E[sign(D(real))] as measured since the last change, in [-1, 1]; the paper has
    target = 0.6 and ada_images = 500,000, the images in which p can climb from 0 to 1.

    Reference: Karras et al. 2020, arXiv:2006.06676, section 3.2.
    """
    return jnp.clip(p + jnp.sign(overfitting - target) * images / ada_images, 0.0, 1.0)


# Operations on the pixels of one image [H, W, C]. At its neutral argument each returns the image bit for bit.


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
    """chroma + (1 - 2 amount) luma: at amount 1 light is dark, of the same color. Neutral: 0."""
    return image - 2.0 * amount * luma(image)


def hue(image: Array, angle: Array) -> Array:
    """The chroma turned by `angle` about the grey axis v = (1, 1, 1) / sqrt 3; luma is left. Neutral: 0.

    chroma cos(angle) + (v x chroma) sin(angle). An image whose channels are not three has no hue and is left.
    """
    if image.shape[-1] != 3:
        return image
    across = (jnp.roll(image, 1, axis=-1) - jnp.roll(image, -1, axis=-1)) / jnp.sqrt(3.0)
    return image + (jnp.cos(angle) - 1.0) * (image - luma(image)) + jnp.sin(angle) * across


def shift(image: Array, offset: Array, limit: tuple[int, int]) -> Array:
    """The image moved by `offset` int32 [2] rows down and columns right, at most `limit` either way, 0 filled in."""
    padded = jnp.pad(image, ((limit[0], limit[0]), (limit[1], limit[1]), (0, 0)))
    return jax.lax.dynamic_slice(padded, (limit[0] - offset[0], limit[1] - offset[1], 0), image.shape)


def cutout(image: Array, corner: Array, size: Array) -> Array:
    """The image with 0 in a box: where the centre of a pixel lies in [corner, corner + size), both [2], in pixels."""
    row = jnp.arange(image.shape[0])[:, None, None] + 0.5 - corner[0]
    column = jnp.arange(image.shape[1])[None, :, None] + 0.5 - corner[1]
    return jnp.where((row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1]), 0.0, image)


def amplify(image: Array, gains: Array) -> Array:
    """The sum of four frequency bands of the image, each times its gain, `gains` [4]. Neutral: 1.

    The bands, lowest first, are about [0, 1/8], [1/8, 1/4], [1/4, 1/2] and [1/2, 1] of the Nyquist frequency along
    each axis; without gains they sum to the image. Edges are reflected.

    Reference: Karras et al. 2020, arXiv:2006.06676, appendix B, "image-space filtering".
    """
    height, width, channels = image.shape
    rows, columns = (
        jnp.eye(size) + jnp.einsum("b,bij->ij", gains - 1.0, _bands(size), precision=EXACT) for size in (height, width)
    )
    image = jnp.matmul(rows, image.reshape(height, width * channels), precision=EXACT).reshape(image.shape)
    return jnp.einsum("ij,hjc->hic", columns, image, precision=EXACT)


# Affine maps on (row, column, 1), in pixels from the centre of the image. Each is the matrix [3, 3] of the inverse,
# from a place in the result to the place in the source: `a @ b` does a first and then b.


def scaling(rows: Array, columns: Array) -> Array:
    """Objects grow by these factors along each axis; a factor of -1 mirrors it."""
    return _affine([[1.0 / rows, 0.0, 0.0], [0.0, 1.0 / columns, 0.0]])


def rotation(cosine: Array, sine: Array) -> Array:
    """Objects turn clockwise, as seen with the first row on top, by the angle of this cosine and sine."""
    return _affine([[cosine, -sine, 0.0], [sine, cosine, 0.0]])


def translation(rows: Array, columns: Array) -> Array:
    """Objects move down and right by so many pixels."""
    return _affine([[1.0, 0.0, -rows], [0.0, 1.0, -columns]])


def resample(image: Array, inverse: Array) -> Array:
    """The image [H, W, C] under an affine map, `inverse` [3, 3] as above; beyond its edges the image is reflected.

    The value at a place of the source is the bilinear one on the grid of twice the density whose new points are
    MIDPOINTs. A map of pixel centres onto pixel centres (mirror images, quarter turns, whole pixels) is exact.

    Karras et al. also sample the result at twice the density and filter it down, with the wavelet sym6 both ways. On 64
    images of CIFAR-10 under their geometry at p = 1 the energy of the gradient was here 0.86 of a quintic spline's,
    with their filters (rebuilt) 0.87, with plain bilinear interpolation 0.72; what shrinks is not filtered here and may
    alias a little.
    """
    height, width, channels = image.shape
    # Both products have the pixels of the whole batch as rows of one matrix, which is the layout that is fast on CPU.
    tall = jnp.matmul(image.reshape(height, -1).T, _oversampling(height).T, precision=EXACT).T
    widen = np.kron(_oversampling(width).T, np.eye(channels, dtype=np.float32))
    fine = jnp.matmul(tall, widen, precision=EXACT).reshape(-1, channels)

    row = (jnp.arange(height) - (height - 1) / 2)[:, None]
    column = (jnp.arange(width) - (width - 1) / 2)[None, :]
    # On the fine grid a pixel's index is twice what it was, and the centre (size - 1) / 2 is at size - 1.
    y, x = (
        _reflect(2.0 * (inverse[i, 0] * row + inverse[i, 1] * column + inverse[i, 2]) + (size - 1), 4 * (size - 1))
        for i, size in ((0, height), (1, width))
    )
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    stride = 2 * width - 1
    corner = (top * stride + left).astype(jnp.int32)

    def at(step: int) -> Array:
        # Beyond the last row or column the weight is zero, whatever is found there.
        return fine.at[corner + step].get(mode="clip")

    above = (1.0 - right) * at(0) + right * at(1)
    below = (1.0 - right) * at(stride) + right * at(stride + 1)
    return (1.0 - down) * above + down * below


# DiffAugment: each part does `(image, draws) -> image`, with DRAWS numbers of its own from U(0, 1).


def _diff_color(image: Array, draws: Array) -> Array:
    image = image + (draws[0] - 0.5)
    return contrast(saturation(image, 2.0 * draws[1]), draws[2] + 0.5)


def _diff_translation(image: Array, draws: Array) -> Array:
    limit = (np.array(image.shape[:2]) / 8 + 0.5).astype(int)
    return shift(image, jnp.floor((2 * limit + 1) * draws[:2]).astype(jnp.int32) - limit, tuple(limit))


def _diff_cutout(image: Array, draws: Array) -> Array:
    sides = np.array(image.shape[:2])
    size = (sides / 2 + 0.5).astype(int)
    return cutout(image, jnp.floor((sides + 1 - size % 2) * draws[:2]) - size // 2, size)


DIFF_AUGMENT: Mapping[str, Callable[[Array, Array], Array]] = {
    "color": _diff_color,
    "translation": _diff_translation,
    "cutout": _diff_cutout,
}


@dataclasses.dataclass(frozen=True)
class DiffAugment:
    """The transform of `diff_augment`, of these parts in this order."""

    parts: tuple[str, ...]

    def __call__(self, images: Array, keys: Array, p: Array) -> Array:
        return jax.vmap(self._one, in_axes=(0, 0, None))(images, keys, p)

    def _one(self, image: Array, key: Array, p: Array) -> Array:
        draws = _draws(key, ("gate", *self.parts))
        augmented = image
        for part in self.parts:
            augmented = DIFF_AUGMENT[part](augmented, draws[part])
        return jnp.where(draws["gate"][0] < p, augmented, image)


# ADA: the spatial parts do `(height, width, draws, p) -> inverse [3, 3]`, the others `(image, draws, p) -> image`. Each
# operation happens with probability p, alone. The draws come first that decide whether, then those that decide how.


def _blit(height: int, width: int, draws: Array, p: Array) -> Array:
    gate = draws[:3] < p
    mirror = jnp.where(gate[0] & (draws[3] < 0.5), -1.0, 1.0)
    turns = jnp.floor(4.0 * draws[4]) if height == width else 2.0 * jnp.floor(2.0 * draws[4])
    turns = jnp.where(gate[1], turns, 0.0).astype(jnp.int32)
    # A table, for the cosine of half a float32 pi is not 0.
    cosine, sine = jnp.array([1.0, 0.0, -1.0, 0.0])[turns], jnp.array([0.0, 1.0, 0.0, -1.0])[turns]
    pixels = jnp.where(gate[2], jnp.round((2.0 * draws[5:7] - 1.0) * np.array([height, width]) / 8), 0.0)
    return _product(scaling(1.0, mirror), rotation(cosine, sine), translation(pixels[0], pixels[1]))


def _geometry(height: int, width: int, draws: Array, p: Array) -> Array:
    gate = draws[:3] < p
    zoom = jnp.where(gate[0], jnp.exp2(0.2 * _normal(draws[5])), 1.0)
    stretch = jnp.where(gate[1], jnp.exp2(0.2 * _normal(draws[6])), 1.0)
    pixels = jnp.where(gate[2], _normal(draws[7:9]) * np.array([height, width]) / 8, 0.0)
    # Two rotations, either of which would turn an upright image: one or both happen with probability p.
    angles = jnp.where(draws[3:5] < 1.0 - jnp.sqrt(1.0 - p), jnp.pi * (2.0 * draws[9:11] - 1.0), 0.0)
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    return _product(
        scaling(zoom, zoom),
        rotation(cosine[0], sine[0]),
        scaling(1.0 / stretch, stretch),
        rotation(cosine[1], sine[1]),
        translation(pixels[0], pixels[1]),
    )


def _color(image: Array, draws: Array, p: Array) -> Array:
    gate = draws[:5] < p
    # All but brightness is linear in a pixel: it is done to the unit pixels, and the image is multiplied once.
    pixels = jnp.eye(image.shape[-1]) * jnp.where(gate[1], jnp.exp2(0.5 * _normal(draws[6])), 1.0)
    pixels = luma_flip(pixels, jnp.where(gate[2] & (draws[7] < 0.5), 1.0, 0.0))
    pixels = hue(pixels, jnp.where(gate[3], jnp.pi * (2.0 * draws[8] - 1.0), 0.0))
    pixels = saturation(pixels, jnp.where(gate[4], jnp.exp2(_normal(draws[9])), 1.0))
    return jnp.matmul(image + jnp.where(gate[0], 0.2 * _normal(draws[5]), 0.0), pixels, precision=EXACT)


def _filter(image: Array, draws: Array, p: Array) -> Array:
    # A row of gains for each band's turn to change, scaled so that the power of a 1/f spectrum stays as it is.
    changed = np.eye(4, dtype=bool) & (draws[:4] < p)[:, None]
    gains = jnp.where(changed, jnp.exp2(_normal(draws[4:8]))[:, None], 1.0)
    power = jnp.sum(np.array([[10.0, 1.0, 1.0, 1.0]], np.float32) / 13.0 * (jnp.square(gains) - 1.0), axis=1) + 1.0
    return amplify(image, jnp.prod(gains / jnp.sqrt(power)[:, None], axis=0))


def _cutout(image: Array, draws: Array, p: Array) -> Array:
    sides = np.array(image.shape[:2], np.float32)
    size = jnp.where(draws[0] < p, sides / 2, 0.0)
    return cutout(image, draws[1:3] * sides - size / 2, size)


ADA_SPATIAL: Mapping[str, Callable[[int, int, Array, Array], Array]] = {"blit": _blit, "geometry": _geometry}
ADA_PIXELS: Mapping[str, Callable[[Array, Array, Array], Array]] = {
    "color": _color,
    "filter": _filter,
    "cutout": _cutout,
}


@dataclasses.dataclass(frozen=True)
class AdaAugment:
    """The transform of `ada`, of these parts in this order; all that is spatial is one map and resampled once."""

    parts: tuple[str, ...]
    color: float = 1.0

    def __call__(self, images: Array, keys: Array, p: Array) -> Array:
        return jax.vmap(self._one, in_axes=(0, 0, None))(images, keys, p)

    def _one(self, image: Array, key: Array, p: Array) -> Array:
        draws = _draws(key, self.parts)
        height, width, _ = image.shape
        maps = [ADA_SPATIAL[part](height, width, draws[part], p) for part in self.parts if part in ADA_SPATIAL]
        if maps:
            image = resample(image, _product(*maps))
        for part in self.parts:
            if part in ADA_PIXELS:
                image = ADA_PIXELS[part](image, draws[part], self.color * p if part == "color" else p)
        return image


def none() -> Augment:
    """No augmentation."""
    return Augment(identity)


def diff_augment(policy: str = "color,translation,cutout") -> Augment:
    """With probability p an image suffers all of the policy: the paper has p = 1.

    color: x + U(-1/2, 1/2), then `saturation` by U(0, 2), then `contrast` by U(1/2, 3/2); translation: `shift` by up
    to an eighth of each side, either way; cutout: 0 in a box of half of each side, about a pixel anywhere. The order
    is this one, however the policy lists its parts.

    Reference: Zhao et al. 2020, Differentiable Augmentation for Data-Efficient GAN Training, arXiv:2006.10738.
    """
    return Augment(DiffAugment(_parts(policy, DIFF_AUGMENT)))


def ada(policy: str = "blit,geometry,color", color: float = 1.0) -> Augment:
    """With probability p, apart from all others, an image suffers each operation of the policy's parts.

    Those of its color happen with probability `color` times p (Huang et al. 2024, arXiv:2501.05441, have 0.5).

    blit: mirror image (in one of two), 0 to 3 quarter turns (0 or 2 where H != W), whole pixels by up to an eighth of
    each side. geometry: `scaling` by s = 2^N(0, 0.2^2); `rotation` by U(-pi, pi); 1/s and s along the two axes, again
    2^N(0, 0.2^2); a second rotation (either with 1 - sqrt(1 - p)); N(0, 1/8^2) of each side. color: x + N(0, 0.2^2);
    times 2^N(0, 0.5^2); `luma_flip` (in one of two); `hue` by U(-pi, pi); `saturation` by 2^N(0, 1). filter: each of
    four bands by 2^N(0, 1).  cutout: a box of half of each side. The order
    is this one, however the policy lists its parts; the paper's choice is the first three.

    Reference: Karras et al. 2020, Training Generative Adversarial Networks with Limited Data, arXiv:2006.06676,
    appendix B; `resample` says in which way it is not theirs.
    """
    if not 0 <= color <= 1:
        raise UserError(f"config.augment.policy: ada's color={color} is no share of p; expected: 0 <= color <= 1")
    return Augment(AdaAugment(_parts(policy, [*ADA_SPATIAL, *ADA_PIXELS]), color))


def apa() -> Augment:
    """With probability p a generated image takes the place of a real one. The images themselves are left.

    Reference: Jiang et al. 2021, Deceive D: Adaptive Pseudo Augmentation, arXiv:2111.06849.
    """
    return Augment(identity, pseudo=True)


AUGMENTS: Mapping[str, Callable[..., Augment]] = {
    "none": none,
    "diff_augment": diff_augment,
    "ada": ada,
    "apa": apa,
}


def _parts(policy: str, valid: Iterable[str]) -> tuple[str, ...]:
    """The parts that `"one,two"` names, in the order of `valid`."""
    field = "config.augment.policy"
    if not isinstance(policy, str):
        raise UserError(f"{field}: {policy!r} is no list of parts; expected: a string of {', '.join(valid)}")
    chosen = [lookup(dict.fromkeys(valid, part.strip()), part.strip(), field) for part in policy.split(",")]
    return tuple(part for part in valid if part in chosen)


def _draws(key: Array, parts: tuple[str, ...]) -> dict[str, Array]:
    """DRAWS numbers from U(0, 1) for each part: those of the others do not move when one comes or goes.

    In one call: XLA takes most of a second to compile a generator of random numbers on CPU.
    """
    uses = np.array([zlib.crc32(part.encode()) for part in parts], np.uint32)
    draws = jax.vmap(lambda use: jax.random.uniform(jax.random.fold_in(key, use), (DRAWS,)))(uses)
    return dict(zip(parts, draws, strict=True))


def _normal(uniform: Array) -> Array:
    """From U(0, 1) to N(0, 1): by the middle of each of the 2^23 steps that a float32 draw has, so never infinite."""
    return jnp.sqrt(2.0) * jax.scipy.special.erfinv(2.0 * uniform - 1.0 + 2.0**-23)


def _affine(rows: list) -> Array:
    return jnp.stack(
        [jnp.stack([jnp.asarray(entry, jnp.float32) for entry in row]) for row in [*rows, [0.0, 0.0, 1.0]]]
    )


def _product(*maps: Array) -> Array:
    product = jnp.eye(3)
    for matrix in maps:
        product = jnp.matmul(product, matrix, precision=EXACT)
    return product


def _reflect(place: Array, period: int) -> Array:
    """A place beyond the edges [0, period / 2] mirrored back, as often as it takes; a single pixel has no period."""
    place = jnp.mod(place, max(period, 1))
    return jnp.minimum(place, period - place) if period else jnp.zeros_like(place)


def _taps(size: int, first: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """The matrix [len(first), size] whose row r has `taps` from column `first[r]` on, reflected at the edges."""
    period = max(2 * (size - 1), 1)
    columns = (first[:, None] + np.arange(len(taps))[None]) % period
    matrix = np.zeros((len(first), size), np.float32)
    np.add.at(matrix, (np.arange(len(first))[:, None], np.minimum(columns, period - columns)), taps)
    return matrix


def _oversampling(size: int) -> np.ndarray:
    """The matrix [2 size - 1, size] to a grid of twice the density, the pixels at its even places."""
    matrix = np.zeros((2 * size - 1, size), np.float32)
    matrix[::2] = np.eye(size)
    matrix[1::2] = _taps(size, np.arange(size - 1) - 2, MIDPOINT)
    return matrix


def _bands(size: int) -> np.ndarray:
    """The matrices [4, size, size] that take out each frequency band along an axis; their sum is the identity."""
    delta = np.eye(1, len(LOWPASS), len(LOWPASS) // 2)[0]
    bands = [np.ones(1)]
    for _ in range(3):
        # Spread to twice the spacing, a band and its mirror image above half the frequency; the lower one is kept.
        spread = [np.kron(band, [1.0, 0.0])[:-1] for band in bands]
        bands = [*(np.convolve(band, LOWPASS) for band in spread), delta - LOWPASS]
    return np.stack([_taps(size, np.arange(size) - len(band) // 2, band) for band in bands])
