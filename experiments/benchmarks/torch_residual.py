"""Residual players as PyTorch's users write them: WGAN-GP's and SNGAN's, SAGAN's and BigGAN's.

Without conditioning. Images are [B, C, H, W] here. Doubling by repetition and halving by means of 2x2 pixels stand
beside their 3x3 convolutions, as in the published code, where ours make one convolution of both.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.benchmarks.torch_layers import initialized
from gan.networks import biggan, resnet, sagan
from gan.networks.resblocks import PublishedWidths, published_widths, sizes_after_blocks

GAIN = math.sqrt(2.0)
"""How much larger than `kernel_init` says the 3x3 convolutions of resnet's blocks begin."""


class ModulatedBatchNorm(nn.Module):
    """Batch normalization whose scale and offset are linear maps of each example's own vector."""

    def __init__(self, maps: int, vector: int):
        super().__init__()
        self._norm = nn.BatchNorm2d(maps, affine=False)
        self.scale = nn.Linear(vector, maps, bias=False)
        self.offset = nn.Linear(vector, maps, bias=False)

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
    """Twice the size: 3x3 a 3x3 up a x + up 1x1 x, with a the ReLU of a batch normalization."""

    def __init__(self, inputs: int, maps: int, vector: int = 0):
        super().__init__()

        def norm(channels: int) -> nn.Module:
            return ModulatedBatchNorm(channels, vector) if vector else nn.BatchNorm2d(channels)

        self.norms = nn.ModuleList([norm(inputs), norm(maps)])
        self.enlarging = ResampledConv(inputs, maps, 3, padding=1)
        self.convs = nn.ModuleList([nn.Conv2d(maps, maps, 3, padding=1), nn.Conv2d(inputs, maps, 1)])

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to [B, maps, 2 H, 2 W]."""
        given = () if vector is None else (vector,)
        conv, shortcut = self.convs
        y = F.interpolate(F.relu(self.norms[0](x, *given)), scale_factor=2)
        y = conv(F.relu(self.norms[1](self.enlarging(y), *given)))
        return y + F.interpolate(shortcut(x), scale_factor=2)


class ResampledConv(nn.Conv2d):
    """A convolution beside which the image is doubled or halved: to be told from the others by its name."""


class DiscriminatorBlock(nn.Module):
    """down 3x3 a 3x3 a x + 1x1 down x, with a = ReLU; `wide` and `first` as in gan/networks/resnet.py."""

    def __init__(self, inputs: int, maps: int, *, halves: bool, first: bool, wide: bool):
        super().__init__()
        hidden = maps if first or wide else inputs
        last = ResampledConv if halves else nn.Conv2d
        self.convs = nn.ModuleList([nn.Conv2d(inputs, hidden, 3, padding=1), last(hidden, maps, 3, padding=1)])
        self.shortcut = nn.Conv2d(inputs, maps, 1) if halves or inputs != maps else nn.Identity()
        self._halves, self._first = halves, first

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, maps, H, W], or half the size."""
        y = self.convs[0](x if self._first else F.relu(x))
        y = self.convs[1](F.relu(y))
        return self.shortcut(self._smaller(x)) + self._smaller(y)

    def _smaller(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self._halves else x


class Upwards(nn.Module):
    """A generator of blocks that double the image, after a dense layer, with attention after some of them.

    Of a split latent the dense layer takes the first part and each block another.
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
        for inputs, maps in itertools.pairwise(widths):
            height *= 2
            self.blocks.append(GeneratorBlock(inputs, maps, latent // self._parts if split else 0))
            self.attention.append(SelfAttention(maps) if height in attention else nn.Identity())
        self.norm, self.conv = nn.BatchNorm2d(widths[-1]), nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """[B, Z] to [B, C, H, W]."""
        latent, *vectors = latent.chunk(self._parts, dim=1)
        x = self.dense(latent).unflatten(1, self._shape)
        vectors = vectors or [None] * len(self.blocks)
        for block, attention, vector in zip(self.blocks, self.attention, vectors, strict=True):
            x = attention(block(x, vector))
        return self.conv(F.relu(self.norm(x)))


class Downwards(nn.Module):
    """A discriminator of blocks, of which the first halve the image, with attention after some; logits [B]."""

    def __init__(
        self, image_shape: tuple[int, int, int], widths: Sequence[int], halvings: int, attention: Sequence[int] = (),
        *, wide: bool, pooling: str = "sum"
    ):  # fmt: skip
        super().__init__()
        channels, height, width = image_shape
        sizes = sizes_after_blocks((height, width, channels), len(widths), halvings, attention, "peer")
        blocks = []
        for index, (inputs, maps) in enumerate(itertools.pairwise((channels, *widths))):
            blocks.append(DiscriminatorBlock(inputs, maps, halves=index < halvings, first=index == 0, wide=wide))
            if sizes[index][0] in attention and sizes[index] not in sizes[index + 1 :]:
                blocks.append(SelfAttention(maps))
        self.blocks, self.dense, self._pooling = nn.Sequential(*blocks), nn.Linear(widths[-1], 1), pooling

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] to [B]."""
        x = F.relu(self.blocks(image))
        x = x.sum((2, 3)) if self._pooling == "sum" else x.mean((2, 3))
        return self.dense(x)[:, 0]


def resnet_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/resnet.py."""
    widths = settings.widths or _published("generator", image_shape, resnet.SIZES).generator
    return _begun(Upwards(latent_size, image_shape, widths), settings, GAIN)


def resnet_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/resnet.py, without its normalization of each example."""
    row = functools.partial(_published, "discriminator", image_shape, resnet.SIZES)
    widths, halvings = settings.widths or row().discriminator, settings.halvings or row().halvings
    return _begun(Downwards(image_shape, widths, halvings, wide=False, pooling=settings.pooling), settings, GAIN)


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
    return _begun(Upwards(latent_size, image_shape, widths, settings.attention, split=split), settings)


def _attentive_discriminator(
    settings: ConfigDict, image_shape: tuple[int, int, int], sizes: Mapping[int, PublishedWidths]
) -> nn.Module:
    row = functools.partial(_published, "discriminator", image_shape, sizes)
    widths = settings.widths or [settings.width * multiple for multiple in row().discriminator]
    halvings = settings.halvings or row().halvings
    return _begun(Downwards(image_shape, widths, halvings, settings.attention, wide=True), settings)


def _published(player: str, image_shape: tuple[int, int, int], sizes: Mapping[int, PublishedWidths]) -> PublishedWidths:
    channels, height, width = image_shape
    return published_widths(player, (height, width, channels), sizes, "resnet")


def _begun(player: nn.Module, settings: ConfigDict, gain: float = 1.0) -> nn.Module:
    """The player with our initial weights; the 3x3 convolutions of its blocks are `gain` times as large."""
    initialized(player, settings.kernel_init)
    for block in player.modules():
        if isinstance(block, GeneratorBlock | DiscriminatorBlock):
            for layer in block.modules():
                if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                    layer.weight.data.mul_(gain)
    return player
