"""Differentiable image augmentations that the discriminator sees on real and on generated images alike.

A transform has the signature `(images, keys, p) -> images`: images float32 [B, H, W, C] in [-1, 1] of any H, W and C
(results may leave the range), one typed PRNG key for each image, [B], and the probability p, a traced scalar. The
draws of an image depend on its own key only. At p = 0 an image is returned bit for bit. Every transform is linear or
smooth in the image, so R1 can be taken at the clean image through the augmented critic. Filled pixels are 0, mid grey.

The library works on plain arrays. `AUGMENTS` holds the augmentations by the names that a config uses.
"""

from collections.abc import Callable, Mapping

from gan.augment.adaptive import ada, adapted
from gan.augment.color import contrast, hue, luma, luma_flip, saturation
from gan.augment.diffaugment import diff_augment
from gan.augment.filters import amplify
from gan.augment.geometry import resample, rotation, scaling, translation
from gan.augment.pixels import cutout, shift
from gan.augment.transform import Augment, by_level, identity

__all__ = [
    "AUGMENTS",
    "Augment",
    "ada",
    "adapted",
    "amplify",
    "apa",
    "by_level",
    "contrast",
    "cutout",
    "diff_augment",
    "hue",
    "identity",
    "luma",
    "luma_flip",
    "none",
    "resample",
    "rotation",
    "saturation",
    "scaling",
    "shift",
    "translation",
]


def none() -> Augment:
    """No augmentation."""
    return Augment(identity)


def apa() -> Augment:
    """Adaptive pseudo augmentation: with probability p a generated image replaces a real one. Pixels are not changed.

    Reference: Jiang et al. 2021, Deceive D: Adaptive Pseudo Augmentation, arXiv:2111.06849.
    """
    return Augment(identity, pseudo=True)


AUGMENTS: Mapping[str, Callable[..., Augment]] = {
    "none": none,
    "diff_augment": diff_augment,
    "ada": ada,
    "apa": apa,
}
