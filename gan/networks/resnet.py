"""The residual networks of WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028) and SNGAN (Miyato et al. 2018,
arXiv:1802.05957, appendix B.4), which are one family.

Without `widths` in the config both players have the channels that are published for 32x32, 48x48, 64x64 and 128x128
pixels (Miyato et al., tables 4 to 6, and the authors' code). At 32x32x3 and a latent of 128 the parameters are
4,276,739 and 1,053,825; with ten classes, conditional batch normalization and a projection 4,304,387 and 1,055,105.
(The last layer has a bias at every size; at 32x32 SNGAN's authors omit it.)

The discriminator takes no statistics of the batch, so gradient penalties are exact. Spectral normalization is an option
of the player (`config.discriminator.spectral_norm`). With `remat` the blocks are computed again for the gradient: less
memory, the same network.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.conv.primitives import Conv
from gan.networks.layers.conditioning import LATENT_CONDITIONINGS, LabelledLatent, LabelledLogit, check_conditioning
from gan.networks.layers.initializers import initializer
from gan.networks.layers.normalization import BatchNorm
from gan.networks.layers.remat import rematerialized
from gan.networks.resblocks import (
    DiscriminatorBlock,
    GeneratorBlock,
    PublishedWidths,
    first_size,
    published_widths,
    sizes_after_blocks,
)

SIZES = {
    32: PublishedWidths((256,) * 4, (128,) * 4, 2),
    48: PublishedWidths((512, 256, 128, 64), (64, 128, 256, 512, 1024), 4),
    64: PublishedWidths((1024, 512, 256, 128, 64), (64, 128, 256, 512, 1024), 5),
    128: PublishedWidths((1024, 1024, 512, 256, 128, 64), (64, 128, 256, 512, 1024, 1024), 5),
}
"""The published channels by the side of the image."""


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C].

    A dense layer to the smallest image, with widths[0] channels; for each other width a block that doubles the image;
    batch normalization, ReLU and a 3x3 convolution. `conditioning` is one of LATENT_CONDITIONINGS, or "batch_norm": the
    scales and offsets of the blocks' normalizations are those of the label (Miyato and Koyama 2018, arXiv:1802.05637).

    The 3x3 kernels of the blocks are initially sqrt(2) times those of `kernel_init`.
    """

    styles: ClassVar[bool] = False
    latent_layers: ClassVar[str] = "Dense_0"
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    widths: tuple[int, ...] = ()
    kernel_init: str = "xavier_uniform"
    conditioning: str = "none"
    remat: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        check_conditioning("generator", self.conditioning, (*LATENT_CONDITIONINGS, "batch_norm"), self.num_classes)
        init = initializer(self.kernel_init)
        first, *others = self.widths or published_widths("generator", self.image_shape, SIZES, "resnet").generator
        height, width = first_size(self.image_shape, len(others), (), "resnet")
        num_classes = self.num_classes if self.conditioning == "batch_norm" else 0
        if not num_classes:
            latent = LabelledLatent(self.num_classes, self.conditioning)(latent, label)
        x = nn.Dense(height * width * first, kernel_init=init)(latent).reshape(-1, height, width, first)
        block = rematerialized(GeneratorBlock, self.remat)
        for features in others:
            x = block(features, init, num_classes, self.axis_name)(x, label, train)
        x = jax.nn.relu(BatchNorm(self.axis_name)(x, train))
        return Conv(self.image_shape[-1], (3, 3), kernel_init=init)(x)


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    A block for each width, of which the first `halvings` halve the image (0: as published for the image's size); ReLU;
    the sum over all pixels (SNGAN), or with `pooling` "mean" their mean (WGAN-GP); a dense layer.

    `layer_norm` normalizes each example before every ReLU of the blocks but the first block's first. Gulrajani et al.
    recommend it for a normalized critic with a gradient penalty. Their critic for CIFAR-10 has no normalization. The
    3x3 kernels are initially sqrt(2) times those of `kernel_init`.
    """

    takes_rows: ClassVar[bool] = False
    group_size: ClassVar[int] = 1
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    widths: tuple[int, ...] = ()
    halvings: int = 0
    pooling: str = "sum"
    layer_norm: bool = False
    kernel_init: str = "xavier_uniform"
    conditioning: str = "none"
    remat: bool = False

    def layers_from_image(self) -> tuple[tuple[str, ...], ...]:
        """See `gan.networks`: each block is one."""
        widths = self.widths or published_widths("discriminator", self.image_shape, SIZES, "resnet").discriminator
        return tuple((f"DiscriminatorBlock_{block}",) for block in range(len(widths)))

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        init = initializer(self.kernel_init)
        widths, halvings = self.widths, self.halvings
        if not widths or not halvings:
            published = published_widths("discriminator", self.image_shape, SIZES, "resnet")
            widths, halvings = widths or published.discriminator, halvings or published.halvings
        sizes_after_blocks(self.image_shape, len(widths), halvings, (), "resnet")
        if self.pooling not in ("sum", "mean"):
            raise UserError(f"config.discriminator.pooling={self.pooling!r} is unknown; expected: mean, sum")
        x = image
        for block, features in enumerate(widths):
            layer = rematerialized(DiscriminatorBlock, self.remat)
            x = layer(features, init, block < halvings, block == 0, self.layer_norm)(x)
        x = jax.nn.relu(x)
        x = jnp.sum(x, axis=(1, 2)) if self.pooling == "sum" else jnp.mean(x, axis=(1, 2))
        logit = nn.Dense(1, kernel_init=init)(x)[:, 0]
        return LabelledLogit(self.num_classes, self.conditioning, init)(logit, x, label)
