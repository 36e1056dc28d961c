"""The small convolutional pair of an MNIST tutorial, for 28x28 images of any number of channels.

A network file: generator and discriminator side by side. Kernels are 5x5 throughout. At 28x28x1, widths 64 and 8, a
latent of 100 the parameters are 1,186,945 and 28,577.
"""

import jax
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.conv.primitives import Conv, ConvTranspose
from gan.networks.layers import BatchNorm, LabelledLatent, LabelledLogit, initializer

SIZE = (28, 28)


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, 28, 28, C]. Z is a multiple of 4.

    The latent itself is the first image, 2x2 with Z / 4 maps, after a ReLU. Transposed convolutions of stride 2 bring
    it to 3x3, 6x6 and 12x12 with 4, 2 and 1 times `width` maps, each with batch normalization and ReLU, and a last
    one without padding to 28x28. Every convolution has a bias that begins at `bias`, those too whose bias the
    normalization takes away again.
    """

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
                f"config.latent.size={size} is no 2x2 image, which conv_gan begins with; "
                f"nearest valid: {4 * max(1, round(size / 4))}"
            )

        def enlarged(x: Array, maps: int, output_size: tuple[int, int], padding: str = "SAME") -> Array:
            return ConvTranspose(
                maps,
                (5, 5),
                stride=2,
                padding=padding,
                output_size=output_size,
                kernel_init=initializer(self.kernel_init),
                bias_init=nn.initializers.constant(self.bias),
            )(x)

        x = jax.nn.relu(latent.reshape(-1, 2, 2, size // 4))
        for maps, side in ((4 * self.width, 3), (2 * self.width, 6), (self.width, 12)):
            x = enlarged(x, maps, (side, side))
            x = jax.nn.relu(BatchNorm(self.axis_name)(x, train))
        # 5x5 taps at stride 2 bring 27 and 28 alike to 12.
        return enlarged(x, self.image_shape[2], SIZE, padding="VALID")


class Discriminator(nn.Module):
    """Image [B, 28, 28, C] to logits [B], and logits of the classes [B, K] where it classifies.

    Two convolutions with 1 and 2 times `width` maps, each with ReLU and 2x2 average pooling; a dense layer of 4 times
    `width` with ReLU; a dense layer to one logit.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 8
    kernel_init: str = "truncated_normal(0.02)"
    bias: float = 0.0
    conditioning: str = "none"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        _check_size(self.image_shape)
        inits = {
            "kernel_init": initializer(self.kernel_init),
            "bias_init": nn.initializers.constant(self.bias),
        }
        x = image
        for maps in (self.width, 2 * self.width):
            x = jax.nn.relu(Conv(maps, (5, 5), **inits)(x))
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = jax.nn.relu(nn.Dense(4 * self.width, **inits)(x.reshape(len(x), -1)))
        logit = nn.Dense(1, **inits)(x)[:, 0]
        return LabelledLogit(self.num_classes, self.conditioning, inits["kernel_init"])(logit, x, label)


def _check_size(image_shape: tuple[int, int, int]) -> None:
    if image_shape[:2] != SIZE:
        raise UserError(f"config.data.image_size={image_shape[:2]} does not fit conv_gan; nearest valid: {SIZE}")
