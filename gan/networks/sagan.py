"""SAGAN (Zhang et al. 2019, arXiv:1805.08318): residual networks with self-attention, both spectrally normalized.

The blocks are those of gan/networks/resblocks.py. At 128x128 the channels are those of the authors' code, with
attention at 32x32 in both players. At 32, 64 and 256 pixels they are those of StudioGAN (Kang and Park 2020), which has
the attention at 16x16 of 32x32 and at 32x32 of 64x64. With a thousand classes at 128x128x3 the parameters are
42,078,852 and 39,463,618.

Spectral normalization is an option of the players (`config.generator.spectral_norm` and the discriminator's). It covers
every kernel and the discriminator's embedding, and not the scales of the classes, as in the authors' code.

With `remat` blocks and attention are computed again for the gradient: less memory, the same network.
"""

from collections.abc import Sequence
from typing import ClassVar

import jax
from flax import linen as nn
from jax import Array

from gan.networks.conv.primitives import Conv
from gan.networks.layers.attention import SelfAttention
from gan.networks.layers.conditioning import LATENT_CONDITIONINGS, LabelledLatent, LabelledLogit, check_conditioning
from gan.networks.layers.initializers import initializer
from gan.networks.layers.normalization import BatchNorm
from gan.networks.layers.remat import rematerialized
from gan.networks.resblocks import (
    GeneratorBlock,
    PublishedWidths,
    discriminator_features,
    first_size,
    layers_of_blocks,
    published_widths,
)

SIZES = {
    32: PublishedWidths((4, 4, 4, 4), (2, 2, 2, 2), 2),
    64: PublishedWidths((16, 8, 4, 2, 1), (1, 2, 4, 8, 16), 4),
    128: PublishedWidths((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),
    256: PublishedWidths((16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6),
}
"""The published channels, in multiples of `width`, by the side of the image."""


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C].

    A dense layer to the smallest image; blocks that double the image, with self-attention after those that end at a
    height in `attention`; batch normalization, ReLU and a 3x3 convolution. The channels of the smallest image and after
    each block are `widths`, or where it is empty the published multiples of `width`. `conditioning` is as for resnet:
    "batch_norm" gives the blocks' normalizations the label's scales and offsets.
    """

    styles: ClassVar[bool] = False
    latent_layers: ClassVar[str] = "Dense_0"
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 64
    widths: tuple[int, ...] = ()
    attention: tuple[int, ...] = ()
    kernel_init: str = "xavier_uniform"
    conditioning: str = "none"
    remat: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        check_conditioning("generator", self.conditioning, (*LATENT_CONDITIONINGS, "batch_norm"), self.num_classes)
        init = initializer(self.kernel_init)
        widths: Sequence[int] = self.widths
        if not widths:
            published = published_widths("generator", self.image_shape, SIZES, "sagan")
            widths = [self.width * multiple for multiple in published.generator]
        first, *others = widths
        height, width = first_size(self.image_shape, len(others), self.attention, "sagan")
        num_classes = self.num_classes if self.conditioning == "batch_norm" else 0
        if not num_classes:
            latent = LabelledLatent(self.num_classes, self.conditioning)(latent, label)
        x = nn.Dense(height * width * first, kernel_init=init)(latent).reshape(-1, height, width, first)
        block = rematerialized(GeneratorBlock, self.remat)
        for features in others:
            x = block(features, init, num_classes, self.axis_name, gain=1.0)(x, label, train)
            if x.shape[1] in self.attention:
                x = rematerialized(SelfAttention, self.remat)(init)(x)
        x = jax.nn.relu(BatchNorm(self.axis_name)(x, train))
        return Conv(self.image_shape[-1], (3, 3), kernel_init=init)(x)


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    `discriminator_features` of the image and a dense layer. The channels after each block are `widths`, or where it is
    empty the published multiples of `width`. The first `halvings` blocks halve the image (0: as published).
    """

    takes_rows: ClassVar[bool] = False
    group_size: ClassVar[int] = 1
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 64
    widths: tuple[int, ...] = ()
    halvings: int = 0
    attention: tuple[int, ...] = ()
    kernel_init: str = "xavier_uniform"
    conditioning: str = "none"
    remat: bool = False

    def layers_from_image(self) -> tuple[tuple[str, ...], ...]:
        """See `gan.networks`: each block, with the attention after it, is one."""
        widths, halvings = self._widths_and_halvings()
        return layers_of_blocks(self.image_shape, len(widths), halvings, self.attention, "sagan")

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        init = initializer(self.kernel_init)
        widths, halvings = self._widths_and_halvings()
        x = discriminator_features(image, widths, halvings, self.attention, init, "sagan", self.remat)
        logit = nn.Dense(1, kernel_init=init)(x)[:, 0]
        return LabelledLogit(self.num_classes, self.conditioning, init)(logit, x, label)

    def _widths_and_halvings(self) -> tuple[tuple[int, ...], int]:
        widths, halvings = self.widths, self.halvings
        if not widths or not halvings:
            published = published_widths("discriminator", self.image_shape, SIZES, "sagan")
            widths = widths or tuple(self.width * multiple for multiple in published.discriminator)
            halvings = halvings or published.halvings
        return widths, halvings
