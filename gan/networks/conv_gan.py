"""The small convolutional pair of an MNIST tutorial, for 28x28 images of any number of channels.

All kernels are 5x5. At 28x28x1, widths 64 and 8 and a latent of 100 the parameters are 1,186,945 and 28,577.
"""

from typing import Any, ClassVar

import jax
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.conv.primitives import Conv, ConvTranspose
from gan.networks.layers.conditioning import LabelledLatent, LabelledLogit
from gan.networks.layers.initializers import initializer
from gan.networks.layers.normalization import BatchNorm

SIZE = (28, 28)


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, 28, 28, C]. Z is a multiple of 4.

    The latent after a ReLU is the first image, 2x2 with Z / 4 channels. Transposed convolutions of stride 2 upsample it
    to 3x3, 6x6 and 12x12 with 4, 2 and 1 times `width` channels, each with batch normalization and ReLU. A last one
    without padding upsamples it to 28x28. Every convolution has a bias, initially `bias`, even before a normalization,
    which removes it.
    """

    styles: ClassVar[bool] = False
    latent_layers: ClassVar[str] = "ConvTranspose_0"
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 64
    kernel_init: str = "truncated_normal(0.1)"
    bias: float = 0.1
    conditioning: str = "none"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        _check_size(self.image_shape)
        latent = LabelledLatent(self.num_classes, self.conditioning)(latent, label)
        size = latent.shape[-1]
        if size % 4:
            raise UserError(
                f"config.latent.size={size} must be a multiple of 4, because conv_gan reshapes the latent to 2x2; "
                f"nearest valid: {4 * max(1, round(size / 4))}"
            )

        def upsampled(x: Array, features: int, output_size: tuple[int, int], padding: str = "SAME") -> Array:
            return ConvTranspose(
                features,
                (5, 5),
                stride=2,
                padding=padding,
                output_size=output_size,
                kernel_init=initializer(self.kernel_init),
                bias_init=nn.initializers.constant(self.bias),
            )(x)

        x = jax.nn.relu(latent.reshape(-1, 2, 2, size // 4))
        for features, side in ((4 * self.width, 3), (2 * self.width, 6), (self.width, 12)):
            x = upsampled(x, features, (side, side))
            x = jax.nn.relu(BatchNorm(self.axis_name)(x, train))
        # A 5x5 convolution of stride 2 maps both 27 and 28 pixels to 12.
        return upsampled(x, self.image_shape[2], SIZE, padding="VALID")


class Discriminator(nn.Module):
    """Image [B, 28, 28, C] to logits [B], and logits of the classes [B, K] where it classifies.

    Two convolutions with 1 and 2 times `width` channels, each with ReLU and 2x2 average pooling; a dense layer with 4
    times `width` features and ReLU; a dense layer to one logit.
    """

    takes_rows: ClassVar[bool] = False
    group_size: ClassVar[int] = 1
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 8
    kernel_init: str = "truncated_normal(0.02)"
    bias: float = 0.0
    conditioning: str = "none"
    axis_name: str | None = None

    def layers_from_image(self) -> tuple[tuple[str, ...], ...]:
        """See `gan.networks`: each convolution is one, and the hidden dense layer."""
        return ("Conv_0",), ("Conv_1",), ("Dense_0",)

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        _check_size(self.image_shape)
        inits: dict[str, Any] = {
            "kernel_init": initializer(self.kernel_init),
            "bias_init": nn.initializers.constant(self.bias),
        }
        x = image
        for features in (self.width, 2 * self.width):
            x = jax.nn.relu(Conv(features, (5, 5), **inits)(x))
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = jax.nn.relu(nn.Dense(4 * self.width, **inits)(x.reshape(len(x), -1)))
        logit = nn.Dense(1, **inits)(x)[:, 0]
        return LabelledLogit(self.num_classes, self.conditioning, inits["kernel_init"])(logit, x, label)


def _check_size(image_shape: tuple[int, int, int]) -> None:
    if image_shape[:2] != SIZE:
        raise UserError(f"config.data.image_size={image_shape[:2]} does not fit conv_gan; nearest valid: {SIZE}")
