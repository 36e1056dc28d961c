"""Multi-layer perceptrons, for any height, width and number of channels.

Each entry of `layers` is a hidden layer with that many times `width` features. A `slope` of 0 makes the leaky ReLU a
ReLU.
"""

import math
from typing import ClassVar

import jax
from flax import linen as nn
from jax import Array

from gan.networks.layers.conditioning import LabelledLatent, LabelledLogit
from gan.networks.layers.dropout import Dropout
from gan.networks.layers.initializers import initializer
from gan.rows import ALL, Rows


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C].

    Dense layers, each but the last with leaky ReLU and dropout. For 28x28x1 and a latent of 100 the parameters are
    1,486,352.
    """

    styles: ClassVar[bool] = False
    latent_layers: ClassVar[str] = "Dense_0"
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 256
    layers: tuple[int, ...] = (1, 2, 4)
    slope: float = 0.2
    dropout: float = 0.0
    kernel_init: str = "xavier_uniform"
    conditioning: str = "none"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        init = initializer(self.kernel_init)
        x = LabelledLatent(self.num_classes, self.conditioning)(latent, label)
        for multiple in self.layers:
            x = jax.nn.leaky_relu(nn.Dense(self.width * multiple, kernel_init=init)(x), self.slope)
            x = Dropout(self.dropout, self.axis_name)(x, train)
        return nn.Dense(math.prod(self.image_shape), kernel_init=init)(x).reshape(-1, *self.image_shape)


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    Dense layers, each but the last with leaky ReLU and dropout. For 28x28x1 the parameters are 1,460,225.
    """

    takes_rows: ClassVar[bool] = True
    group_size: ClassVar[int] = 1
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 256
    layers: tuple[int, ...] = (4, 2, 1)
    slope: float = 0.2
    dropout: float = 0.0
    kernel_init: str = "xavier_uniform"
    conditioning: str = "none"
    axis_name: str | None = None
    rows: Rows = ALL

    def layers_from_image(self) -> tuple[tuple[str, ...], ...]:
        """See `gan.networks`: each hidden layer is one."""
        return tuple((f"Dense_{layer}",) for layer in range(len(self.layers)))

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        init = initializer(self.kernel_init)
        x = image.reshape(len(image), -1)
        for multiple in self.layers:
            x = jax.nn.leaky_relu(nn.Dense(self.width * multiple, kernel_init=init)(x), self.slope)
            x = Dropout(self.dropout, self.axis_name, self.rows)(x, train)
        logit = nn.Dense(1, kernel_init=init)(x)[:, 0]
        return LabelledLogit(self.num_classes, self.conditioning, init)(logit, x, label)
