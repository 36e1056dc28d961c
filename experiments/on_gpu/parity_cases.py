"""The cases of experiments.on_gpu.parity: convolutions of every kind that the networks use, and every network."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.networks.conv.primitives import Padding, conv, conv_transpose


class Case(NamedTuple):
    """A convolution of [B, H, W, C] with a kernel to `features` channels, or the transpose of one."""

    name: str
    size: tuple[int, int]
    """H, W of the input."""
    kernel: tuple[int, int]
    channels: int
    features: int
    stride: int = 1
    padding: Padding = "SAME"
    groups: int = 1
    is_transposed: bool = False
    members: int = 0
    """The number of images and kernels under `vmap`, as in a population; 0: no `vmap`."""

    def operands(self) -> tuple[np.ndarray, np.ndarray]:
        """An image N(0, 1) and a kernel N(0, 1 / fan-in), the same in every process."""
        rng = np.random.default_rng(0)
        inner, outer = self.channels // self.groups, self.features
        if self.is_transposed:  # the kernel is that of the transposed convolution
            inner, outer = self.features // self.groups, self.channels
        members = (self.members,) if self.members else ()
        image = rng.standard_normal((*members, 4, *self.size, self.channels))
        kernel = rng.standard_normal((*members, *self.kernel, inner, outer))
        return image, kernel / math.sqrt(math.prod(self.kernel) * self.channels / self.groups)

    def apply(self, image: Array, kernel: Array) -> Array:
        """The convolution."""
        function = conv_transpose if self.is_transposed else conv

        def one(image: Array, kernel: Array) -> Array:
            return function(image, kernel, stride=self.stride, padding=self.padding, groups=self.groups)

        return jax.vmap(one)(image, kernel) if self.members else one(image, kernel)

    def quantities(self, image: Array, kernel: Array) -> dict[str, Array | tuple[Array, Array]]:
        """The result, its derivatives for both operands along a fixed direction, and second derivatives.

        The latter are the gradients of |d s / d image|^2, with s the sum of tanh(y), as R1 needs them.
        """
        value, vjp_fn = jax.vjp(self.apply, image, kernel)
        direction = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
        # Rounded to bfloat16's 7 bits, so that it is the same in every dtype.
        direction = jax.lax.reduce_precision(direction, 8, 7).astype(value.dtype)

        def squared_gradient_norm(image: Array, kernel: Array) -> Array:
            # Only the convolution is in half precision: its rounding is compared, not that of tanh.
            wide = jnp.promote_types(value.dtype, jnp.float32)
            gradient = jax.grad(lambda image: jnp.sum(jnp.tanh(self.apply(image, kernel).astype(wide))))(image)
            return jnp.sum(jnp.square(gradient.astype(wide)))

        return {
            "value": value,
            "first derivatives": vjp_fn(direction),
            "second derivatives": jax.grad(squared_gradient_norm, (0, 1))(image, kernel),
        }


CASES = (
    Case("3x3", (16, 16), (3, 3), 64, 64),
    Case("3x3, uneven image", (13, 9), (3, 3), 32, 48),
    Case("3x3, stride 2, uneven image", (13, 9), (3, 3), 32, 48, stride=2),
    Case("4x4, stride 2", (16, 16), (4, 4), 64, 128, stride=2),
    Case("4x4, stride 2, from 3 channels", (32, 32), (4, 4), 3, 64, stride=2),
    Case("4x4, stride 2, padding 1", (16, 16), (4, 4), 64, 64, stride=2, padding=((1, 1), (1, 1))),
    Case("5x5", (28, 28), (5, 5), 32, 64),
    Case("1x1", (16, 16), (1, 1), 64, 96),
    Case("3x3 to 1 channel", (16, 16), (3, 3), 64, 1),
    Case("4x4 transposed, stride 2", (8, 8), (4, 4), 128, 64, stride=2, is_transposed=True),
    Case("4x4 transposed, stride 2, to 3 channels", (16, 16), (4, 4), 64, 3, stride=2, is_transposed=True),
    Case("5x5 transposed, stride 2, no padding", (12, 12), (5, 5), 64, 16, stride=2, padding="VALID",
         is_transposed=True),
    Case("3x3 in 4 groups", (16, 16), (3, 3), 64, 64, groups=4),
    Case("3x3 in 4 groups, stride 2", (16, 16), (3, 3), 64, 64, stride=2, groups=4),
    Case("4x4 of each channel, stride 2", (16, 16), (4, 4), 32, 32, stride=2, padding=((1, 1), (1, 1)), groups=32),
    Case("4x4 of each channel transposed, stride 2", (8, 8), (4, 4), 32, 32, stride=2, padding=((1, 1), (1, 1)),
         groups=32, is_transposed=True),
    Case("3x3 with kernels of 3 members", (16, 16), (3, 3), 32, 32, members=3),
    Case("4x4 transposed, stride 2, with kernels of 3 members", (8, 8), (4, 4), 32, 16, stride=2, is_transposed=True,
         members=3),
)  # fmt: skip

TINY_CASES = (
    Case("3x3, stride 2, uneven image", (7, 5), (3, 3), 3, 4, stride=2),
    Case("4x4 transposed, stride 2, in 2 groups", (4, 3), (4, 4), 4, 2, stride=2, groups=2, is_transposed=True),
)

CLASSES = 10

WITHOUT_UPDATES = tuple(
    f"{player}.{field}"
    for player in ("generator", "discriminator")
    for field in ("optimizer=sgd", "learning_rate=0.0", "beta1=0.5", "weight_decay=0.0")
) + ("discriminator_steps=1", "generator_steps=1", "batch_size=8")
"""Changes to every compared config: SGD with a learning rate of 0."""

GREY, COLOR = "data.channels=1", "data.channels=3"

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "mlp": ("configs/mlp_gan.py", GREY),
    "dcgan": ("configs/dcgan.py:digits", COLOR),
    "dcgan with R1": ("configs/dcgan.py:digits", COLOR, "discriminator.batch_norm=False", "penalties.r1=5.0"),
    "conv_gan": ("configs/conv_gan.py", GREY),
    "flag": ("configs/flag_gan.py:small", COLOR),
    "resnet with WGAN-GP": ("configs/wgan_gp.py", COLOR, "generator.widths=(32, 32, 32, 32)",
                            "discriminator.widths=(32, 32, 32, 32)"),
    "resnet, spectrally normalized": ("configs/sngan.py", COLOR, "generator.widths=(32, 32, 32, 32)",
                                      "discriminator.widths=(32, 32, 32, 32)"),
    "sagan": ("configs/sagan.py", COLOR),
    "biggan": ("configs/biggan.py", COLOR),
    "biggan_deep": ("configs/biggan.py:small_deep", COLOR),
    "r3gan": ("configs/r3gan.py", COLOR, "data.image_size=(16, 16)", "generator.widths=(32, 32, 16)",
              "discriminator.widths=(32, 32, 16)"),
    "stylegan2": ("configs/stylegan2.py", COLOR, "data.image_size=(16, 16)", "generator.widths=(32, 32, 16)",
                  "discriminator.widths=(32, 32, 16)", "penalties.path_length=2.0"),
    "gat": ("configs/gat.py", COLOR, "data.image_size=(16, 16)", "generator.width=32", "discriminator.width=32",
            "generator.patch_size=4", "discriminator.patch_size=4"),
}  # fmt: skip
"""A config for each network, at sizes that compile quickly."""

TINY_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "dcgan with R1": (
        "configs/dcgan.py:digits", GREY, "data.image_size=(8, 8)", "generator.width=4", "discriminator.width=4",
        "discriminator.batch_norm=False", "penalties.r1=5.0",
    ),
}  # fmt: skip
