"""Residual networks in PyTorch: those of WGAN-GP and SNGAN, of SAGAN and of BigGAN, without conditioning.

Images are [B, C, H, W] here. Nearest-neighbor upsampling and 2x2 average pooling are separate from the 3x3
convolutions, as in the published code; ours are fused with them.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.benchmarks.torch.layers import initialized
from gan.networks import biggan, resnet, sagan
from gan.networks.resblocks import PublishedWidths, published_widths, sizes_after_blocks

GAIN = math.sqrt(2.0)
"""The factor by which the initial 3x3 kernels of resnet's blocks exceed `kernel_init`."""


class ModulatedBatchNorm(nn.Module):
    """Batch normalization whose scale and offset are linear functions of each example's own vector."""

    def __init__(self, features: int, vector: int):
        super().__init__()
        self._norm = nn.BatchNorm2d(features, affine=False)
        self.scale = nn.Linear(vector, features, bias=False)
        self.offset = nn.Linear(vector, features, bias=False)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """[B, C, H, W] and [B, V] to the first's shape."""
        scale, offset = (layer(vector)[:, :, None, None] for layer in (self.scale, self.offset))
        return torch.addcmul(offset, self._norm(x), 1.0 + scale)


class SelfAttention(nn.Module):
    """x + gamma o(attention): keys and values are the largest of each 2x2 pixels."""

    def __init__(self, channels: int):
        super().__init__()
        mapped = functools.partial(nn.Conv2d, kernel_size=1, bias=False)
        self.query, self.key = (mapped(channels, max(1, channels // 8)) for _ in range(2))
        self.value = mapped(channels, max(1, channels // 2))
        self.output = mapped(max(1, channels // 2), channels)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        query = self.query(x).flatten(2).mT
        key, value = (F.max_pool2d(layer(x), 2).flatten(2).mT for layer in (self.key, self.value))
        seen = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.gamma * self.output(seen.mT.unflatten(2, x.shape[2:]))


class GeneratorBlock(nn.Module):
    """Upsamples by 2: conv3x3(a(conv3x3(up(a(x))))) + up(conv1x1(x)), with a = ReLU of batch normalization."""

    def __init__(self, inputs: int, features: int, vector: int = 0):
        super().__init__()

        def norm(channels: int) -> nn.Module:
            return ModulatedBatchNorm(channels, vector) if vector else nn.BatchNorm2d(channels)

        self.norms = nn.ModuleList([norm(inputs), norm(features)])
        self.upsampled = ResampledConv(inputs, features, 3, padding=1)
        self.convs = nn.ModuleList([nn.Conv2d(features, features, 3, padding=1), nn.Conv2d(inputs, features, 1)])

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to [B, features, 2 H, 2 W]."""
        given = () if vector is None else (vector,)
        conv, shortcut = self.convs
        y = F.interpolate(F.relu(self.norms[0](x, *given)), scale_factor=2)
        y = conv(F.relu(self.norms[1](self.upsampled(y), *given)))
        return y + F.interpolate(shortcut(x), scale_factor=2)


class ResampledConv(nn.Conv2d):
    """A convolution next to up- or downsampling. The class name distinguishes it in tests."""


class DiscriminatorBlock(nn.Module):
    """down(conv3x3(a(conv3x3(a(x))))) + conv1x1(down(x)), a = ReLU; `wide`, `first` as in gan/networks/resnet.py."""

    def __init__(self, inputs: int, features: int, *, downsamples: bool, first: bool, wide: bool):
        super().__init__()
        hidden = features if first or wide else inputs
        last = ResampledConv if downsamples else nn.Conv2d
        self.convs = nn.ModuleList([nn.Conv2d(inputs, hidden, 3, padding=1), last(hidden, features, 3, padding=1)])
        self.shortcut = nn.Conv2d(inputs, features, 1) if downsamples or inputs != features else nn.Identity()
        self._downsamples, self._first = downsamples, first

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, features, H, W], or half the size."""
        y = self.convs[0](x if self._first else F.relu(x))
        y = self.convs[1](F.relu(y))
        return self.shortcut(self._downsample(x)) + self._downsample(y)

    def _downsample(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self._downsamples else x


class ResidualGenerator(nn.Module):
    """A dense layer and blocks that upsample by 2, with attention after some of them.

    A split latent has a part for the dense layer and one for each block.
    """

    def __init__(
        self, latent: int, image_shape: tuple[int, int, int], widths: Sequence[int], attention: Sequence[int] = (),
        *, split: bool = False
    ):  # fmt: skip
        super().__init__()
        channels, height, width = image_shape
        first, *others = widths
        height, width = (side // 2 ** len(others) for side in (height, width))
        self._parts = len(widths) if split else 1
        self.dense = nn.Linear(latent // self._parts, first * height * width)
        self._shape = (first, height, width)
        self.blocks, self.attention = nn.ModuleList(), nn.ModuleList()
        for inputs, features in itertools.pairwise(widths):
            height *= 2
            self.blocks.append(GeneratorBlock(inputs, features, latent // self._parts if split else 0))
            self.attention.append(SelfAttention(features) if height in attention else nn.Identity())
        self.norm, self.conv = nn.BatchNorm2d(widths[-1]), nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """[B, Z] to [B, C, H, W]."""
        latent, *vectors = latent.chunk(self._parts, dim=1)
        x = self.dense(latent).unflatten(1, self._shape)
        vectors = vectors or [None] * len(self.blocks)
        for block, attention, vector in zip(self.blocks, self.attention, vectors, strict=True):
            x = attention(block(x, vector))
        return self.conv(F.relu(self.norm(x)))


class ResidualDiscriminator(nn.Module):
    """Blocks, the first of which downsample by 2, with attention after some; logits [B]."""

    def __init__(
        self, image_shape: tuple[int, int, int], widths: Sequence[int], halvings: int, attention: Sequence[int] = (),
        *, wide: bool, pooling: str = "sum"
    ):  # fmt: skip
        super().__init__()
        channels, height, width = image_shape
        sizes = sizes_after_blocks((height, width, channels), len(widths), halvings, attention, "peer")
        blocks = []
        for index, (inputs, features) in enumerate(itertools.pairwise((channels, *widths))):
            blocks.append(
                DiscriminatorBlock(inputs, features, downsamples=index < halvings, first=index == 0, wide=wide)
            )
            if sizes[index][0] in attention and sizes[index] not in sizes[index + 1 :]:
                blocks.append(SelfAttention(features))
        self.blocks, self.dense, self._pooling = nn.Sequential(*blocks), nn.Linear(widths[-1], 1), pooling

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] to [B]."""
        x = F.relu(self.blocks(image))
        x = x.sum((2, 3)) if self._pooling == "sum" else x.mean((2, 3))
        return self.dense(x)[:, 0]


def resnet_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/resnet.py."""
    widths = settings.widths or _published("generator", image_shape, resnet.SIZES).generator
    return _initialized(ResidualGenerator(latent_size, image_shape, widths), settings, GAIN)


def resnet_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/resnet.py, without its normalization of each example."""
    row = functools.partial(_published, "discriminator", image_shape, resnet.SIZES)
    widths, halvings = settings.widths or row().discriminator, settings.halvings or row().halvings
    return _initialized(
        ResidualDiscriminator(image_shape, widths, halvings, wide=False, pooling=settings.pooling), settings, GAIN
    )


def sagan_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/sagan.py."""
    return _attentive_generator(settings, latent_size, image_shape, sagan.SIZES)


def sagan_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/sagan.py."""
    return _attentive_discriminator(settings, image_shape, sagan.SIZES)


def biggan_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/biggan.py."""
    return _attentive_generator(settings, latent_size, image_shape, biggan.SIZES, split=settings.split_latent)


def biggan_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/biggan.py."""
    return _attentive_discriminator(settings, image_shape, biggan.SIZES)


def _attentive_generator(
    settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int], sizes: Mapping[int, PublishedWidths],
    *, split: bool = False
) -> nn.Module:  # fmt: skip
    row = functools.partial(_published, "generator", image_shape, sizes)
    widths = settings.widths or [settings.width * multiple for multiple in row().generator]
    return _initialized(ResidualGenerator(latent_size, image_shape, widths, settings.attention, split=split), settings)


def _attentive_discriminator(
    settings: ConfigDict, image_shape: tuple[int, int, int], sizes: Mapping[int, PublishedWidths]
) -> nn.Module:
    row = functools.partial(_published, "discriminator", image_shape, sizes)
    widths = settings.widths or [settings.width * multiple for multiple in row().discriminator]
    halvings = settings.halvings or row().halvings
    return _initialized(ResidualDiscriminator(image_shape, widths, halvings, settings.attention, wide=True), settings)


def _published(player: str, image_shape: tuple[int, int, int], sizes: Mapping[int, PublishedWidths]) -> PublishedWidths:
    channels, height, width = image_shape
    return published_widths(player, (height, width, channels), sizes, "resnet")


def _initialized(player: nn.Module, settings: ConfigDict, gain: float = 1.0) -> nn.Module:
    """Initializes a network as ours; the 3x3 kernels of its blocks are scaled by `gain`."""
    initialized(player, settings.kernel_init)
    for block in player.modules():
        if isinstance(block, GeneratorBlock | DiscriminatorBlock):
            for layer in block.modules():
                if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                    layer.weight.data.mul_(gain)
    return player
