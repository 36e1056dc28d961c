"""The residual networks of WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028) and SNGAN (Miyato et al. 2018,
arXiv:1802.05957, appendix B.4), which are one family.

A network file: generator and discriminator side by side. Without `widths` of their own both have those that are
published for 32x32, 48x48, 64x64 and 128x128 pixels (Miyato et al., tables 4 to 6, and the authors' code). At 32x32x3,
a latent of 128, the parameters are 4,276,739 and 1,053,825; with ten classes, conditional batch normalization and a
projection 4,304,387 and 1,055,105. (The last layer has a bias at every size; at 32x32 SNGAN's authors leave it out.)

The discriminator takes no statistics of the batch, so slope penalties are exact; spectral normalization is the
player's (`config.discriminator.spectral_norm`). Each halving and doubling is one with the 3x3 convolution beside it:
see `ResampledConv`. With `remat` the blocks are computed again for the gradient: less memory, the same network.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.conv.primitives import Conv, conv, conv_transpose
from gan.networks.layers import (
    BatchNorm,
    ConditionalBatchNorm,
    Initializer,
    LabelledLatent,
    LabelledLogit,
    ModulatedBatchNorm,
    check_conditioning,
    initializer,
    rematerialized,
)


class Size(NamedTuple):
    """What is published for a size of images."""

    generator: tuple[int, ...]
    """Maps of the first, smallest image and after each doubling."""
    discriminator: tuple[int, ...]
    """Maps after each block."""
    halvings: int
    """How many of the discriminator's blocks halve the image: the first ones."""


SIZES = {
    32: Size((256,) * 4, (128,) * 4, 2),
    48: Size((512, 256, 128, 64), (64, 128, 256, 512, 1024), 4),
    64: Size((1024, 512, 256, 128, 64), (64, 128, 256, 512, 1024), 5),
    128: Size((1024, 1024, 512, 256, 128, 64), (64, 128, 256, 512, 1024, 1024), 5),
}


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C].

    A dense layer to the smallest image, with widths[0] maps; a block for each other width, which doubles the image;
    batch normalization, ReLU and a 3x3 convolution. `conditioning` may, besides what LabelledLatent knows, be
    "batch_norm": the blocks' scales and offsets are the label's (Miyato and Koyama 2018, arXiv:1802.05637).

    The 3x3 convolutions of the blocks begin sqrt(2) times as large as `kernel_init` says.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    widths: tuple[int, ...] = ()
    kernel_init: str = "xavier_uniform"
    conditioning: str = "none"
    remat: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        valid = ("none", "concat", "concat_embedding", "embedding", "batch_norm")
        check_conditioning("generator", self.conditioning, valid, self.num_classes)
        init = initializer(self.kernel_init)
        height, width, channels = self.image_shape
        first, *others = self.widths or published("generator", self.image_shape).generator
        check_size("generator", self.image_shape, len(others))
        height, width = (side // 2 ** len(others) for side in (height, width))
        labels_normalize = self.conditioning == "batch_norm"
        if not labels_normalize:
            latent = LabelledLatent(self.num_classes, self.conditioning)(latent, label)
        x = nn.Dense(height * width * first, kernel_init=init)(latent).reshape(-1, height, width, first)
        for maps in others:
            classes = self.num_classes if labels_normalize else 0
            x = rematerialized(GeneratorBlock, self.remat)(maps, init, classes, self.axis_name)(x, label, train)
        x = jax.nn.relu(BatchNorm(self.axis_name)(x, train))
        return Conv(channels, (3, 3), kernel_init=init)(x)


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    A block for each width, of which the first `halvings` halve the image (0: as published for the image's size); ReLU;
    the sum over all pixels (SNGAN), or with `pooling` "mean" their mean (WGAN-GP); a dense layer.

    `layer_norm` normalizes each example before every ReLU of the blocks but the first block's first: what Gulrajani et
    al. recommend where a critic with a penalty is to be normalized. Their critic for CIFAR-10 is not. The 3x3
    convolutions begin sqrt(2) times as large as `kernel_init` says.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    widths: tuple[int, ...] = ()
    halvings: int = 0
    pooling: str = "sum"
    layer_norm: bool = False
    kernel_init: str = "xavier_uniform"
    conditioning: str = "none"
    remat: bool = False

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        init = initializer(self.kernel_init)
        widths = self.widths or published("discriminator", self.image_shape).discriminator
        halvings = self.halvings or published("discriminator", self.image_shape).halvings
        if halvings > len(widths):
            raise UserError(
                f"config.discriminator.halvings={halvings}, but it has {len(widths)} blocks; expected: 0 to that"
            )
        if self.pooling not in ("sum", "mean"):
            raise UserError(f"config.discriminator.pooling={self.pooling!r} is unknown; expected: mean, sum")
        check_size("discriminator", self.image_shape, halvings)
        x = image
        for block, maps in enumerate(widths):
            layer = rematerialized(DiscriminatorBlock, self.remat)
            x = layer(maps, init, block < halvings, block == 0, self.layer_norm)(x)
        x = jax.nn.relu(x)
        x = jnp.sum(x, axis=(1, 2)) if self.pooling == "sum" else jnp.mean(x, axis=(1, 2))
        logit = nn.Dense(1, kernel_init=init)(x)[:, 0]
        return LabelledLogit(self.num_classes, self.conditioning, init)(logit, x, label)


class GeneratorBlock(nn.Module):
    """[B, H, W, C] to [B, 2 H, 2 W, maps]: 3x3 a 3x3 up a x + up 1x1 x, with a = ReLU of batch normalization.

    The scales and offsets of the normalizations are those of the label where there are `num_classes`, and linear maps
    of each example's `vector` [B, V] where it has one. The 3x3 convolutions begin `gain` times as large.
    """

    maps: int
    kernel_init: Initializer
    num_classes: int = 0
    axis_name: str | None = None
    gain: float = math.sqrt(2.0)

    @nn.compact
    def __call__(self, x: Array, label: Array, train: bool, vector: Array | None = None) -> Array:
        def activated(x: Array) -> Array:
            if vector is not None:
                return jax.nn.relu(ModulatedBatchNorm(self.kernel_init, self.axis_name)(x, vector, train))
            if self.num_classes:
                return jax.nn.relu(ConditionalBatchNorm(self.num_classes, self.axis_name)(x, label, train))
            return jax.nn.relu(BatchNorm(self.axis_name)(x, train))

        init = _enlarged(self.kernel_init, self.gain)
        y = ResampledConv(self.maps, "up", init)(activated(x))
        y = Conv(self.maps, (3, 3), kernel_init=init)(activated(y))
        # A 1x1 convolution and the doubling exchange places: a quarter of the work.
        shortcut = Conv(self.maps, (1, 1), kernel_init=self.kernel_init)(x)
        return y + shortcut.repeat(2, axis=1).repeat(2, axis=2)


class DiscriminatorBlock(nn.Module):
    """[B, H, W, C] to [B, H, W, maps] or, if `halves`, half of H and W: down 3x3 a 3x3 a x + 1x1 down x, with a = ReLU.

    The first 3x3 convolution keeps the maps, or widens at once if `wide`. The `first` block, which sees the image,
    leaves out the first ReLU and is wide. A block that changes neither size nor maps adds x itself. The 3x3
    convolutions begin `gain` times as large as `kernel_init` says.
    """

    maps: int
    kernel_init: Initializer
    halves: bool = False
    first: bool = False
    layer_norm: bool = False
    wide: bool = False
    gain: float = math.sqrt(2.0)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def activated(x: Array) -> Array:
            return jax.nn.relu(nn.GroupNorm(num_groups=1, epsilon=1e-5)(x) if self.layer_norm else x)

        init = _enlarged(self.kernel_init, self.gain)
        hidden = self.maps if self.first or self.wide else x.shape[-1]
        y = Conv(hidden, (3, 3), kernel_init=init)(x if self.first else activated(x))
        y = activated(y)
        y = ResampledConv(self.maps, "down", init)(y) if self.halves else Conv(self.maps, (3, 3), kernel_init=init)(y)
        if self.halves:
            batch, height, width, channels = x.shape
            x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
        if self.halves or self.maps != x.shape[-1]:
            x = Conv(self.maps, (1, 1), kernel_init=self.kernel_init)(x)
        return x + y


class ResampledConv(nn.Module):
    """A 3x3 convolution of the image doubled by repetition ("up"), or followed by the mean of 2x2 pixels ("down").

    Either is one convolution, transposed for "up", of stride 2 with 4x4 taps, the sum of the kernel's four shifts by a
    pixel (as Karras et al. 2018, arXiv:1710.10196, have it in their code): 16 products for 36. Between 32x32 and 16x16
    with 128 maps, batch 16, both gradients take 193 ms for 441 ("down") and 184 for 437 ("up"), on two cores that do
    other work besides. The parameters are those of the 3x3 convolution.
    """

    features: int
    resample: str
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.resample == "up":
            kernel = _four_shifts(kernel[::-1, ::-1].swapaxes(-1, -2))
            y = conv_transpose(x, kernel, stride=2, padding=((1, 1), (1, 1)))
        else:
            y = conv(x, _four_shifts(kernel) / 4, stride=2, padding=((1, 1), (1, 1)))
        return y + bias.reshape(1, 1, 1, -1)


def published(
    player: str, image_shape: tuple[int, int, int], sizes: Mapping[int, Size] = SIZES, network: str = "resnet"
) -> Size:
    """The row of a network's `sizes` for an image. Raises `UserError` where there is none."""
    height, width, _ = image_shape
    if height != width or height not in sizes:
        side = min(sizes, key=lambda side: abs(side - math.sqrt(height * width)))
        others = "widths and halvings" if player == "discriminator" else "widths"
        raise UserError(
            f"config.data.image_size={(height, width)} has no published {network}, and config.{player} no {others} of "
            f"its own; published: {', '.join(f'{side}x{side}' for side in sizes)}; nearest: {(side, side)}"
        )
    return sizes[height]


def check_size(player: str, image_shape: tuple[int, int, int], halvings: int, network: str = "resnet") -> None:
    """Raises `UserError` where an image cannot be halved so many times."""
    factor = 2**halvings
    height, width, _ = image_shape
    if height % factor or width % factor:
        valid = tuple(factor * max(1, round(side / factor)) for side in (height, width))
        raise UserError(
            f"config.data.image_size={(height, width)} cannot be halved {halvings} times, as the {player}'s {network} "
            f"does; nearest valid: {valid}"
        )


def _four_shifts(kernel: Array) -> Array:
    """[3, 3, C, O] to [4, 4, C, O]: the sum of the kernel in all four corners."""
    return sum(jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in (0, 1) for j in (0, 1))


def _enlarged(init: Initializer, gain: float) -> Initializer:
    return lambda *given: gain * init(*given)
