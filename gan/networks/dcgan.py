"""DCGAN (Radford, Metz and Chintala 2016, arXiv:1511.06434), for any height, width and number of channels.

Each stage halves or doubles the image with 4x4 kernels of stride 2, and the number of channels doubles as the size
halves. At 64x64x3, width 64 and a latent of 100 the parameters are 3,576,704 and 2,765,568, as in PyTorch's widespread
version. Without `batch_norm` a logit depends on its own image only, which gradient penalties need, and the convolutions
have biases.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.conv.primitives import Conv, ConvTranspose
from gan.networks.layers.conditioning import LabelledLatent, LabelledLogit
from gan.networks.layers.initializers import initializer
from gan.networks.layers.normalization import BatchNorm


def stage_sizes(image_shape: tuple[int, int, int], depth: int) -> list[tuple[int, int]]:
    """The sizes (H, W) before and after each of `depth` stages, each the half of the last, rounded up.

    With depth 0 the number of stages is the one that brings the shorter side nearest to 4. Raises `UserError` where a
    side is too small to be halved `depth` times.
    """
    height, width, _ = image_shape
    depth = depth or max(1, round(math.log2(min(height, width) / 4)))
    smallest = 2**depth
    if min(height, width) < smallest:
        valid = tuple(max(side, smallest) for side in (height, width))
        raise UserError(
            f"config.data.image_size={(height, width)} is too small for dcgan with depth {depth}; "
            f"nearest valid: {valid}"
        )
    return [(-(-height // 2**stage), -(-width // 2**stage)) for stage in range(depth + 1)]


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C].

    A dense layer to the smallest size with width * 2^(depth - 1) channels, then transposed convolutions, each but the
    last with batch normalization and ReLU. Convolutions before a normalization have no bias, as in the authors' code;
    neither has the last one.

    With `image_latent` the latent, with as many numbers as the image, is an image of this shape. The convolutions of D
    take the place of the dense layer, with ReLU, and their channels are joined to those of the transposed convolutions
    at each size, as in a U-Net (Ronneberger et al. 2015, arXiv:1505.04597). A one-hot label is K constant channels.
    """

    styles: ClassVar[bool] = False
    latent_layers: ClassVar[str] = "Dense_0|Conv_0"
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 64
    depth: int = 0
    kernel_init: str = "normal(0.02)"
    batch_norm: bool = True
    image_latent: bool = False
    conditioning: str = "none"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        init = initializer(self.kernel_init)
        sizes = stage_sizes(self.image_shape, self.depth)
        depth = len(sizes) - 1

        def normalize(x: Array) -> Array:
            return jax.nn.relu(BatchNorm(self.axis_name, scale_init=_scale_init)(x, train) if self.batch_norm else x)

        features = self.width * 2 ** (depth - 1)
        height, width = sizes[depth]
        latent, joined = LabelledLatent(self.num_classes, self.conditioning)(latent, label), []
        if self.image_latent:
            x = _as_image(latent, self.image_shape, self.conditioning)
            for stage in range(depth):
                layer = Conv(self.width * 2**stage, (4, 4), stride=2, use_bias=not self.batch_norm, kernel_init=init)
                joined.append(x := normalize(layer(x)))
        else:
            x = nn.Dense(height * width * features, use_bias=not self.batch_norm, kernel_init=init)(latent)
            x = normalize(x.reshape(-1, height, width, features))
        for stage in range(depth - 1, 0, -1):
            x = ConvTranspose(
                self.width * 2 ** (stage - 1),
                (4, 4),
                stride=2,
                output_size=sizes[stage],
                use_bias=not self.batch_norm,
                kernel_init=init,
            )(x)
            x = normalize(x)
            x = jnp.concatenate([x, joined[stage - 1]], axis=-1) if self.image_latent else x
        channels = self.image_shape[2]
        return ConvTranspose(channels, (4, 4), stride=2, output_size=sizes[0], use_bias=False, kernel_init=init)(x)


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    Strided convolutions with leaky ReLU 0.2, each but the first with batch normalization; a dense layer without
    bias to one logit.
    """

    takes_rows: ClassVar[bool] = False
    group_size: ClassVar[int] = 1
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 64
    depth: int = 0
    kernel_init: str = "normal(0.02)"
    batch_norm: bool = True
    conditioning: str = "none"
    axis_name: str | None = None

    def layers_from_image(self) -> tuple[tuple[str, ...], ...]:
        """See `gan.networks`: each convolution with its normalization is one."""
        depth = len(stage_sizes(self.image_shape, self.depth)) - 1
        normalizations = [(f"BatchNorm_{stage - 1}",) if stage and self.batch_norm else () for stage in range(depth)]
        return tuple((f"Conv_{stage}", *normalizations[stage]) for stage in range(depth))

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        init = initializer(self.kernel_init)
        depth = len(stage_sizes(self.image_shape, self.depth)) - 1
        x = image
        for stage in range(depth):
            x = Conv(self.width * 2**stage, (4, 4), stride=2, use_bias=not self.batch_norm, kernel_init=init)(x)
            if stage > 0 and self.batch_norm:
                x = BatchNorm(self.axis_name, scale_init=_scale_init)(x, train)
            x = jax.nn.leaky_relu(x, 0.2)
        x = x.reshape(len(x), -1)
        logit = nn.Dense(1, use_bias=False, kernel_init=init)(x)[:, 0]
        return LabelledLogit(self.num_classes, self.conditioning, init)(logit, x, label)


def _as_image(latent: Array, image_shape: tuple[int, int, int], conditioning: str) -> Array:
    """A latent of an image's size [B, H W C + K] to [B, H, W, C + K]: what follows the image is constant channels."""
    size = math.prod(image_shape)
    if conditioning == "concat_embedding":
        raise UserError(
            "config.generator.conditioning='concat_embedding' has no meaning with image_latent=True; expected: none, "
            "concat, embedding"
        )
    if latent.shape[-1] < size or conditioning != "concat" and latent.shape[-1] > size:
        raise UserError(
            f"config.generator.image_latent=True needs latents of the image's size, {size}; expected: "
            f"config.latent.size=0"
        )
    image, others = latent[:, :size].reshape(-1, *image_shape), latent[:, size:]
    constant = jnp.broadcast_to(others[:, None, None], (len(latent), *image_shape[:2], others.shape[-1]))
    return jnp.concatenate([image, constant], axis=-1)


def _scale_init(key: Array, shape: tuple[int, ...], dtype) -> Array:
    """N(1, 0.02^2), the initial scale of batch normalization in the authors' code."""
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)
