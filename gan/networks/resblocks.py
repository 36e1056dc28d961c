"""Residual blocks with resampling, and the published widths of the networks made of them.

The ResNets of WGAN-GP and SNGAN, SAGAN and BigGAN are built of `GeneratorBlock` and `DiscriminatorBlock`. BigGAN-deep
has bottleneck blocks of its own and shares the resampling. In the formulas 3x3 and 1x1 are convolutions.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.conv.forms import total
from gan.networks.conv.primitives import Conv, conv, conv_transpose
from gan.networks.layers.attention import SelfAttention, check_attention
from gan.networks.layers.initializers import Initializer
from gan.networks.layers.normalization import BatchNorm, ConditionalBatchNorm, ModulatedBatchNorm
from gan.networks.layers.remat import rematerialized
from gan.networks.layers.sizes import check_halvings


class PublishedWidths(NamedTuple):
    """The published channels of a network for one size of images, some as multiples of a `width`."""

    generator: tuple[int, ...]
    """Channels of the first, smallest image and after each block, which doubles the image."""
    discriminator: tuple[int, ...]
    """Channels after each block."""
    halvings: int
    """How many of the discriminator's blocks halve the image: the first ones."""


def published_widths(
    player: str, image_shape: tuple[int, int, int], sizes: Mapping[int, PublishedWidths], network: str
) -> PublishedWidths:
    """The entry of `sizes` for an image. Raises `UserError` where there is none."""
    height, width, _ = image_shape
    if height != width or height not in sizes:
        side = min(sizes, key=lambda side: abs(side - math.sqrt(height * width)))
        fields = "widths and halvings" if player == "discriminator" else "widths"
        raise UserError(
            f"config.data.image_size={(height, width)} has no published {network}: set config.{player}'s {fields}, or "
            f"use a published size: {', '.join(f'{side}x{side}' for side in sizes)}; nearest: {(side, side)}"
        )
    return sizes[height]


def first_size(
    image_shape: tuple[int, int, int], doublings: int, attention: tuple[int, ...], network: str
) -> tuple[int, int]:
    """The height and width of a generator's first layer, before `doublings` blocks that each double them.

    Raises `UserError` where the image cannot be halved that often, or where no block ends at a height in `attention`.
    """
    check_halvings("generator", image_shape, doublings, network)
    sizes = [(image_shape[0] // 2**times, image_shape[1] // 2**times) for times in range(doublings, -1, -1)]
    check_attention("generator", attention, sizes[1:])
    return sizes[0]


def sizes_after_blocks(
    image_shape: tuple[int, ...], blocks: int, halvings: int, attention: tuple[int, ...], network: str
) -> list[tuple[int, int]]:
    """The height and width after each block of a discriminator whose first `halvings` blocks halve the image.

    Raises `UserError` for more halvings than blocks, where the image cannot be halved that often, or where no block
    ends at a height in `attention`.
    """
    if halvings > blocks:
        raise UserError(
            f"config.discriminator.halvings={halvings} is more than its {blocks} blocks; expected: 0 to that"
        )
    check_halvings("discriminator", image_shape, halvings, network)
    times_halved = [min(block, halvings) for block in range(1, blocks + 1)]
    sizes = [(image_shape[0] // 2**times, image_shape[1] // 2**times) for times in times_halved]
    check_attention("discriminator", attention, sizes)
    return sizes


class GeneratorBlock(nn.Module):
    """[B, H, W, C] to [B, 2 H, 2 W, features]: 3x3 a 3x3 up a x + up 1x1 x, with a = ReLU of batch normalization.

    The scales and offsets of the normalizations are those of the label where there are `num_classes`, and linear maps
    of each example's `vector` [B, V] where it has one. The 3x3 kernels are initially `gain` times those of
    `kernel_init`.
    """

    features: int
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

        init = _scaled(self.kernel_init, self.gain)
        y = ResampledConv(self.features, "up", init)(activated(x))
        y = Conv(self.features, (3, 3), kernel_init=init)(activated(y))
        # A 1x1 convolution commutes with nearest upsampling; before it, it takes a quarter of the work.
        return y + nearest_upsample(Conv(self.features, (1, 1), kernel_init=self.kernel_init)(x))


class DiscriminatorBlock(nn.Module):
    """[B, H, W, C] to [B, H, W, features] or, if `halves`, half of H and W: down 3x3 a 3x3 a x + 1x1 down x, a = ReLU.

    The first 3x3 convolution keeps C channels, or with `wide` has `features`. The `first` block of a network, whose
    input is the image, has no ReLU before its first convolution and is wide. A block that changes neither size nor
    channels adds x itself. `layer_norm` normalizes each example before every ReLU. The 3x3 kernels are initially `gain`
    times those of `kernel_init`.
    """

    features: int
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

        init = _scaled(self.kernel_init, self.gain)
        hidden = self.features if self.first or self.wide else x.shape[-1]
        y = activated(Conv(hidden, (3, 3), kernel_init=init)(x if self.first else activated(x)))
        if self.halves:
            x, y = average_downsample(x), ResampledConv(self.features, "down", init)(y)
        else:
            y = Conv(self.features, (3, 3), kernel_init=init)(y)
        if self.halves or self.features != x.shape[-1]:
            x = Conv(self.features, (1, 1), kernel_init=self.kernel_init)(x)
        return x + y


class ResampledConv(nn.Module):
    """A 3x3 convolution after nearest upsampling by 2 ("up"), or before average downsampling by 2 ("down").

    Either is computed as one convolution of stride 2 with 4x4 taps (transposed for "up"), whose kernel is the sum of
    the 3x3 kernel's four shifts by a pixel, as in the code of Karras et al. 2018, arXiv:1710.10196: 16 products instead
    of 36. Between 32x32 and 16x16 with 128 channels, batch 16, on two busy cores, both gradients take 193 instead of
    441 ms ("down") and 184 instead of 437 ms ("up"). The parameters are those of the 3x3 convolution.
    """

    features: int
    resample: str
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.resample == "up":
            kernel = _sum_of_shifts(kernel[::-1, ::-1].swapaxes(-1, -2))
            y = conv_transpose(x, kernel, stride=2, padding=((1, 1), (1, 1)))
        else:
            y = conv(x, _sum_of_shifts(kernel) / 4, stride=2, padding=((1, 1), (1, 1)))
        return y + bias.reshape(1, 1, 1, -1)


def discriminator_features(
    image: Array, widths: tuple[int, ...], halvings: int, attention: tuple[int, ...], init: Initializer, network: str,
    remat: bool,
) -> Array:  # fmt: skip
    """Within the discriminator of SAGAN or BigGAN: the features [B, F] of an image [B, H, W, C].

    One wide block per entry of `widths`, of which the first `halvings` halve the image, with self-attention after the
    last block that ends at a height in `attention`; ReLU; the sum over all pixels.
    """
    sizes = sizes_after_blocks(image.shape[1:], len(widths), halvings, attention, network)
    x = image
    for block, width in enumerate(widths):
        layer = rematerialized(DiscriminatorBlock, remat)
        x = layer(width, init, block < halvings, block == 0, wide=True, gain=1.0)(x)
        if x.shape[1] in attention and sizes[block] not in sizes[block + 1 :]:
            x = rematerialized(SelfAttention, remat)(init)(x)
    return jnp.sum(jax.nn.relu(x), axis=(1, 2))


def layers_of_blocks(
    image_shape: tuple[int, int, int], blocks: int, halvings: int, attention: tuple[int, ...], network: str
) -> tuple[tuple[str, ...], ...]:
    """The `layers_from_image` of a discriminator whose features are `discriminator_features`."""
    sizes = sizes_after_blocks(image_shape, blocks, halvings, attention, network)
    layers, attended = [], 0
    for block, size in enumerate(sizes):
        is_attended = size[0] in attention and size not in sizes[block + 1 :]
        layers.append((f"DiscriminatorBlock_{block}", *([f"SelfAttention_{attended}"] if is_attended else [])))
        attended += is_attended
    return tuple(layers)


def average_downsample(x: Array) -> Array:
    """The mean over each 2x2 pixels: [B, H, W, C] to [B, H / 2, W / 2, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def nearest_upsample(x: Array) -> Array:
    """Each pixel repeated to 2x2 pixels: [B, H, W, C] to [B, 2 H, 2 W, C]."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def _sum_of_shifts(kernel: Array) -> Array:
    """[3, 3, C, O] to [4, 4, C, O]: the sum of the kernel placed in each of the four corners."""
    return total(jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in (0, 1) for j in (0, 1))


def _scaled(init: Initializer, gain: float) -> Initializer:
    return lambda *given: gain * init(*given)
