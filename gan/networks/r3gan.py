"""R3GAN (Huang, Gokaslan, Kuleshov and Tompkin 2024, arXiv:2501.05441), configuration E: a ResNeXt without tricks.

A network file: generator and discriminator side by side, mirror images of each other. No normalization, no noise, no
style: what holds it is the initialization, under which every residual block begins as the identity. `widths` are
listed from the smallest image to the largest in both players; n of them make images 2^(n - 1) times the size of the
learnt basis, which is 4x4 as published. At the sizes of configs/r3gan.py the parameters are those of the paper's
table 9: 20,732,160 and 20,683,776 for StackedMNIST.

What an image is judged by is that image alone, as slope penalties need it. With `remat` the residual blocks are
computed again for the gradient: less memory, the same network.
"""

import functools
import math

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.conv.primitives import Conv
from gan.networks.layers import (
    Initializer,
    LabelledLatent,
    LabelledLogit,
    leaky_relu,
    rematerialized,
    smallest_stage,
    stage_dtypes,
)
from gan.networks.resample import downsample, upsample


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C].

    The basis, an image for each map of the first stage, times a linear map of the latent. Each later stage begins with
    a 1x1 convolution, where its width is another, and `upsample`; all consist of `blocks` residual blocks. A last 1x1
    convolution makes the image. Outside of the blocks nothing has a bias.

    The stages of the `bfloat16_stages` largest images are computed in bfloat16, as the authors do (float16 fails
    them). The published conditioning is "concat_embedding".
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    widths: tuple[int, ...] = (768, 768, 768, 768)
    blocks: int = 2
    expansion: int = 2
    group_width: int = 16
    bfloat16_stages: int = 0
    conditioning: str = "none"
    remat: bool = False

    @nn.compact
    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        size = smallest_stage("r3gan", "generator", self.image_shape, self.widths)
        types = stage_dtypes(len(self.widths), self.bfloat16_stages, latent.dtype)
        latent = LabelledLatent(self.num_classes, self.conditioning)(latent, label)
        gains = nn.Dense(self.widths[0], use_bias=False, kernel_init=scaled_normal())(latent)
        basis = self.param("basis", nn.initializers.normal(1.0), (*size, self.widths[0]))
        x = basis[None] * gains[:, None, None, :]
        for stage, (width, dtype) in enumerate(zip(self.widths, types, strict=True)):
            x = x.astype(dtype)
            if width != x.shape[-1]:
                x = _mixed(x, width)
            if stage > 0:
                x = upsample(x)
            x = _blocks(self, "generator", x)
        return _mixed(x, self.image_shape[2])


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    The generator backwards: a 1x1 convolution; stages of `blocks` residual blocks, each but the last with `downsample`
    at its end and a 1x1 convolution, where the next width is another; the product with the basis, summed over pixels (a
    depthwise convolution over the whole of what is left); a dense layer. Outside of the blocks nothing has a bias.

    The published conditioning is "projection" in a form of its own: the dense layer keeps the number of maps, and
    the logit is the product of its outputs with the label's embedding, without a term that is the same for all labels.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    widths: tuple[int, ...] = (768, 768, 768, 768)
    blocks: int = 2
    expansion: int = 2
    group_width: int = 16
    bfloat16_stages: int = 0
    conditioning: str = "none"
    remat: bool = False

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        size = smallest_stage("r3gan", "discriminator", self.image_shape, self.widths)
        types = stage_dtypes(len(self.widths), self.bfloat16_stages, image.dtype)
        dense = functools.partial(nn.Dense, use_bias=False, kernel_init=scaled_normal())
        x = _mixed(image.astype(types[-1]), self.widths[-1])
        for stage in reversed(range(len(self.widths))):
            x = _blocks(self, "discriminator", x.astype(types[stage]))
            if stage > 0:
                x = downsample(x)
                if self.widths[stage - 1] != x.shape[-1]:
                    x = _mixed(x, self.widths[stage - 1])
        maps = self.widths[0]
        basis = self.param("basis", nn.initializers.normal(math.prod(size) ** -0.5), (*size, maps))
        x = jnp.einsum("bhwc,hwc->bc", x.astype(jnp.float32), basis)
        if self.conditioning == "projection":
            logit, x = jnp.zeros(len(x)), dense(maps)(x)
        else:
            logit = dense(1)(x)[:, 0]
        # The variance of a linear map of the one-hot label, 1 / K, and of a product over all maps, 1 / maps.
        label_init = nn.initializers.normal((max(self.num_classes, 1) * maps) ** -0.5)
        return LabelledLogit(self.num_classes, self.conditioning, label_init)(logit, x, label)


class ResidualBlock(nn.Module):
    """x + W3 a(W2 a(W1 x + b1) + b2), [B, H, W, C] to the same, with a the leaky ReLU of slope 0.2.

    W1 is 1x1 to `expansion` times the maps, W2 3x3 within groups of `group_width` maps, W3 1x1 back. W3 begins at
    zero, W1 and W2 with the gain sqrt(2 / 1.04) of the leaky ReLU times L^(-1/4), L the residual blocks of the whole
    player: Fixup's L^(-1 / (2 m - 2)) for branches of m = 3 layers (Zhang, Dauphin and Ma 2019, arXiv:1901.09321).
    """

    expansion: int
    group_width: int
    residual_blocks: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        maps = self.expansion * x.shape[-1]
        init = scaled_normal(math.sqrt(2 / (1 + 0.2**2)) * self.residual_blocks**-0.25)
        y = leaky_relu(Conv(maps, (1, 1), kernel_init=init, dtype=x.dtype)(x))
        y = leaky_relu(Conv(maps, (3, 3), groups=maps // self.group_width, kernel_init=init, dtype=x.dtype)(y))
        last = Conv(x.shape[-1], (1, 1), use_bias=False, kernel_init=nn.initializers.zeros, dtype=x.dtype)
        return x + last(y)


def scaled_normal(gain: float = 1.0) -> Initializer:
    """N(0, gain^2 / fan-in)."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


def _blocks(player: Generator | Discriminator, name: str, x: Array) -> Array:
    maps = player.expansion * x.shape[-1]
    if min(maps, player.group_width) < 1 or maps % player.group_width:
        raise UserError(
            f"config.{name}.group_width={player.group_width} does not divide {maps} maps, expansion * width; "
            f"expected: {', '.join(str(size) for size in range(1, maps + 1) if maps % size == 0)}"
        )
    block = rematerialized(ResidualBlock, player.remat)
    for _ in range(player.blocks):
        x = block(player.expansion, player.group_width, player.blocks * len(player.widths))(x)
    return x


def _mixed(x: Array, maps: int) -> Array:
    return Conv(maps, (1, 1), use_bias=False, kernel_init=scaled_normal(), dtype=x.dtype)(x)
