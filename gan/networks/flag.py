"""The convolutional pair of a tutorial that generates flags, for any height and width divisible by 4, any channels.

At 64x64x1 and a latent of 100 the parameters are 2,713,153 (2,764,545 with the statistics of the batch normalizations)
and 8,596,898.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.conv.primitives import Conv
from gan.networks.layers.conditioning import LabelledLatent, LabelledLogit
from gan.networks.layers.dropout import Dropout
from gan.networks.layers.initializers import initializer
from gan.networks.layers.normalization import BatchNorm
from gan.networks.layers.sizes import nearest_multiples
from gan.rows import ALL, Rows


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C].

    A dense layer to H/4 x W/4 with channels[0] channels, batch normalization of each of its outputs separately, and
    ReLU; 4x nearest upsampling; 3x3 convolutions to the other `channels`, each with batch normalization and ReLU; a 1x1
    convolution. Dropout precedes every convolution.
    """

    styles: ClassVar[bool] = False
    latent_layers: ClassVar[str] = "Dense_0"
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    channels: tuple[int, ...] = (100, 64, 32)
    dropout: float = 0.5
    dense_init: str = "xavier_normal"
    kernel_init: str = "xavier_uniform"
    conditioning: str = "none"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        _check_size(self.image_shape)
        init = initializer(self.kernel_init)

        def normalize(x: Array) -> Array:
            return jax.nn.relu(BatchNorm(self.axis_name)(x, train))

        def dropped(x: Array) -> Array:
            return Dropout(self.dropout, self.axis_name)(x, train)

        height, width, channels = self.image_shape
        first, *others = self.channels
        size = (height // 4, width // 4, first)
        latent = LabelledLatent(self.num_classes, self.conditioning)(latent, label)
        x = normalize(
            nn.Dense(size[0] * size[1] * first, kernel_init=initializer(self.dense_init, "dense_init"))(latent)
        )
        x = x.reshape(-1, *size).repeat(4, axis=1).repeat(4, axis=2)
        for features in others:
            x = normalize(Conv(features, (3, 3), kernel_init=init)(dropped(x)))
        return Conv(channels, (1, 1), kernel_init=init)(dropped(x))


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    5x5 convolutions to `channels`, at the full size of the image, each with ReLU and dropout; a dense layer of `hidden`
    with leaky ReLU 0.2 and dropout; a dense layer to two classes, fake and real.

    The two-class cross-entropy of softmax(l) is the sigmoid cross-entropy of the logit l_real - l_fake that is
    returned, since softmax(l)_real = 1 / (1 + exp(l_fake - l_real)).
    """

    takes_rows: ClassVar[bool] = True
    group_size: ClassVar[int] = 1
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    channels: tuple[int, ...] = (128, 64)
    hidden: int = 32
    dropout: float = 0.25
    kernel_init: str = "xavier_uniform"
    conditioning: str = "none"
    axis_name: str | None = None
    rows: Rows = ALL

    def layers_from_image(self) -> tuple[tuple[str, ...], ...]:
        """See `gan.networks`: each convolution is one, and the hidden dense layer."""
        return (*((f"Conv_{layer}",) for layer in range(len(self.channels))), ("Dense_0",))

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        _check_size(self.image_shape)
        init = initializer(self.kernel_init)

        def dropped(x: Array) -> Array:
            return Dropout(self.dropout, self.axis_name, self.rows)(x, train)

        x = image
        for features in self.channels:
            # The tutorial has a leaky ReLU after this ReLU, which changes nothing: no value is negative.
            x = dropped(jax.nn.relu(Conv(features, (5, 5), kernel_init=init)(x)))
        x = dropped(jax.nn.leaky_relu(nn.Dense(self.hidden, kernel_init=init)(x.reshape(len(x), -1)), 0.2))
        fake, real = jnp.moveaxis(nn.Dense(2, kernel_init=init)(x), -1, 0)
        return LabelledLogit(self.num_classes, self.conditioning, init)(real - fake, x, label)


def _check_size(image_shape: tuple[int, int, int]) -> None:
    height, width, _ = image_shape
    if height % 4 or width % 4:
        raise UserError(
            f"config.data.image_size={(height, width)} does not fit flag, which upsamples by 4; "
            f"nearest valid: {nearest_multiples((height, width), 4)}"
        )
