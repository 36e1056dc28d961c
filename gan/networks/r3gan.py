"""R3GAN (Huang, Gokaslan, Kuleshov and Tompkin 2024, arXiv:2501.05441), configuration E: a ResNeXt without tricks.

Generator and discriminator mirror each other. They have no normalization, no noise and no styles. The initialization
makes every residual block the identity at first, which stabilizes training. In both players `widths` go from the
smallest image to the largest; n widths make images 2^(n - 1) times the size of the learned basis, which is 4x4 as
published. At the sizes of configs/r3gan.py the parameters are those of the paper's table 9: 20,732,160 and 20,683,776
for StackedMNIST.

A logit depends on its own image only, which gradient penalties need. With `remat` the residual blocks are computed
again for the gradient: less memory, the same network.
"""

import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.conv.primitives import Conv
from gan.networks.layers.conditioning import LabelledLatent, LabelledLogit
from gan.networks.layers.initializers import Initializer
from gan.networks.layers.remat import rematerialized
from gan.networks.layers.resample import downsample, upsample
from gan.networks.layers.sizes import smallest_stage, stage_dtypes


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C].

    The learned basis, an image for each channel of the first stage, is multiplied by a linear map of the latent. Each
    later stage starts with a 1x1 convolution, where its width differs, and `upsample`. Every stage has `blocks`
    residual blocks. A last 1x1 convolution makes the image. Only the blocks have biases.

    The stages of the `bfloat16_stages` largest images are computed in bfloat16, as the authors do (they report that
    float16 fails). The published conditioning is "concat_embedding".
    """

    styles: ClassVar[bool] = False
    latent_layers: ClassVar[str] = "Dense_0"
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()
    zero_kernels: ClassVar[bool] = True

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
                x = _conv_1x1(x, width)
            if stage > 0:
                x = upsample(x)
            x = _residual_blocks(self, "generator", x)
        return _conv_1x1(x, self.image_shape[2])


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    The generator in reverse: a 1x1 convolution; stages of `blocks` residual blocks, each but the last followed by
    `downsample` and a 1x1 convolution, where the next width differs; the product with the basis, summed over pixels (a
    depthwise convolution of the size of the image that is left); a dense layer. Only the blocks have biases.

    The published conditioning is a variant of "projection": the dense layer keeps the number of channels, and the logit
    is the product of its outputs with the label's embedding, without a term that all labels share.
    """

    takes_rows: ClassVar[bool] = False
    group_size: ClassVar[int] = 1
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()
    zero_kernels: ClassVar[bool] = True

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    widths: tuple[int, ...] = (768, 768, 768, 768)
    blocks: int = 2
    expansion: int = 2
    group_width: int = 16
    bfloat16_stages: int = 0
    conditioning: str = "none"
    remat: bool = False

    def layers_from_image(self) -> tuple[tuple[str, ...], ...]:
        """See `gan.networks`: the residual blocks of each stage, with the 1x1 convolution before them, are one."""
        layers, convs = [], 0
        for index, width in enumerate(reversed(self.widths)):
            changes = index == 0 or width != self.widths[len(self.widths) - index]
            blocks = (f"ResidualBlock_{index * self.blocks + block}" for block in range(self.blocks))
            layers.append((*((f"Conv_{convs}",) if changes else ()), *blocks))
            convs += changes
        return tuple(layers)

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        size = smallest_stage("r3gan", "discriminator", self.image_shape, self.widths)
        types = stage_dtypes(len(self.widths), self.bfloat16_stages, image.dtype)
        dense = functools.partial(nn.Dense, use_bias=False, kernel_init=scaled_normal())
        x = _conv_1x1(image.astype(types[-1]), self.widths[-1])
        for stage in reversed(range(len(self.widths))):
            x = _residual_blocks(self, "discriminator", x.astype(types[stage]))
            if stage > 0:
                x = downsample(x)
                if self.widths[stage - 1] != x.shape[-1]:
                    x = _conv_1x1(x, self.widths[stage - 1])
        features = self.widths[0]
        basis = self.param("basis", nn.initializers.normal(math.prod(size) ** -0.5), (*size, features))
        x = jnp.einsum("bhwc,hwc->bc", x.astype(jnp.float32), basis)
        if self.conditioning == "projection":
            logit, x = jnp.zeros(len(x)), dense(features)(x)
        else:
            logit = dense(1)(x)[:, 0]
        # A linear map of a one-hot label has variance 1 / K, and a product over all features has variance 1 / features.
        label_init = nn.initializers.normal((max(self.num_classes, 1) * features) ** -0.5)
        return LabelledLogit(self.num_classes, self.conditioning, label_init)(logit, x, label)


class ResidualBlock(nn.Module):
    """x + W3 a(W2 a(W1 x + b1) + b2), [B, H, W, C] to the same, with a the leaky ReLU of slope 0.2.

    W1 is a 1x1 convolution to `expansion` times C channels, W2 a 3x3 convolution in groups of `group_width` channels,
    W3 a 1x1 convolution back to C channels. W3 is initially zero. W1 and W2 have the gain sqrt(2 / 1.04) of the leaky
    ReLU times L^(-1/4), with L the number of residual blocks of the player: Fixup's L^(-1 / (2 m - 2)) for branches of
    m = 3 layers (Zhang, Dauphin and Ma 2019, arXiv:1901.09321).
    """

    expansion: int
    group_width: int
    residual_blocks: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = self.expansion * x.shape[-1]
        init = scaled_normal(math.sqrt(2 / (1 + 0.2**2)) * self.residual_blocks**-0.25)
        y = jax.nn.leaky_relu(Conv(hidden, (1, 1), kernel_init=init, dtype=x.dtype)(x), 0.2)
        y = Conv(hidden, (3, 3), groups=hidden // self.group_width, kernel_init=init, dtype=x.dtype)(y)
        y = jax.nn.leaky_relu(y, 0.2)
        last = Conv(x.shape[-1], (1, 1), use_bias=False, kernel_init=nn.initializers.zeros, dtype=x.dtype)
        return x + last(y)


def scaled_normal(gain: float = 1.0) -> Initializer:
    """N(0, gain^2 / fan-in)."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


def _residual_blocks(player: Generator | Discriminator, name: str, x: Array) -> Array:
    """Within a player: the residual blocks of a stage. Raises `UserError` where groups do not divide the channels."""
    hidden = player.expansion * x.shape[-1]
    if min(hidden, player.group_width) < 1 or hidden % player.group_width:
        raise UserError(
            f"config.{name}.group_width={player.group_width} does not divide {hidden} channels, expansion * width; "
            f"expected: {', '.join(str(size) for size in range(1, hidden + 1) if hidden % size == 0)}"
        )
    block = rematerialized(ResidualBlock, player.remat)
    for _ in range(player.blocks):
        x = block(player.expansion, player.group_width, player.blocks * len(player.widths))(x)
    return x


def _conv_1x1(x: Array, features: int) -> Array:
    return Conv(features, (1, 1), use_bias=False, kernel_init=scaled_normal(), dtype=x.dtype)(x)
