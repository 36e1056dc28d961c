"""SAGAN (Zhang et al. 2019, arXiv:1805.08318): residual networks with self-attention, both spectrally normalized.

A network file: generator and discriminator side by side, of the blocks of gan/networks/resnet.py. At 128x128 the maps
are those of the authors' code, with attention at 32x32 in both players; at 32, 64 and 256 pixels those of StudioGAN
(Kang and Park 2020), which has the attention at 16x16 of 32x32, and at 32x32 of 64x64. With a thousand classes at
128x128x3 the parameters are 42,078,852 and 39,463,618.

The spectral normalization is the players' (`config.generator.spectral_norm` and the discriminator's): it takes in
every kernel and the discriminator's embedding, and not the scales of the classes, as in the authors' code.

With `remat` blocks and attention are computed again for the gradient: less memory, the same network.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.attention import SelfAttention, check_attention
from gan.networks.conv.primitives import Conv
from gan.networks.layers import (
    BatchNorm,
    Initializer,
    LabelledLatent,
    LabelledLogit,
    check_conditioning,
    initializer,
    rematerialized,
)
from gan.networks.resnet import DiscriminatorBlock, GeneratorBlock, Size, check_size, published

# In multiples of `width`.
SIZES = {
    32: Size((4, 4, 4, 4), (2, 2, 2, 2), 2),
    64: Size((16, 8, 4, 2, 1), (1, 2, 4, 8, 16), 4),
    128: Size((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),
    256: Size((16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6),
}


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C].

    A dense layer to the smallest image; blocks that double it, with self-attention after those that end at a height
    that `attention` names; batch normalization, ReLU and a 3x3 convolution. The maps of the smallest image and after
    each block are `widths`, or where there are none the published multiples of `width`. `conditioning` is as for
    resnet: "batch_norm" gives the blocks' normalizations the label's scales and offsets.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 64
    widths: tuple[int, ...] = ()
    attention: tuple[int, ...] = ()
    kernel_init: str = "xavier_uniform"
    conditioning: str = "none"
    remat: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        valid = ("none", "concat", "concat_embedding", "embedding", "batch_norm")
        check_conditioning("generator", self.conditioning, valid, self.num_classes)
        init = initializer(self.kernel_init)
        row = functools.partial(published, "generator", self.image_shape, SIZES, "sagan")
        first, *others = self.widths or [self.width * multiple for multiple in row().generator]
        height, width = smallest(self.image_shape, len(others), self.attention, "sagan")
        labels_normalize = self.conditioning == "batch_norm"
        if not labels_normalize:
            latent = LabelledLatent(self.num_classes, self.conditioning)(latent, label)
        x = nn.Dense(height * width * first, kernel_init=init)(latent).reshape(-1, height, width, first)
        for maps in others:
            classes = self.num_classes if labels_normalize else 0
            x = rematerialized(GeneratorBlock, self.remat)(maps, init, classes, self.axis_name, gain=1.0)(
                x, label, train
            )
            if x.shape[1] in self.attention:
                x = rematerialized(SelfAttention, self.remat)(init)(x)
        x = jax.nn.relu(BatchNorm(self.axis_name)(x, train))
        return Conv(self.image_shape[-1], (3, 3), kernel_init=init)(x)


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    The `features` of the image and a dense layer. `widths`, or the published multiples of `width`, are the maps after
    each block, `halvings` (0: as published) how many of the blocks, the first ones, halve the image.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 64
    widths: tuple[int, ...] = ()
    halvings: int = 0
    attention: tuple[int, ...] = ()
    kernel_init: str = "xavier_uniform"
    conditioning: str = "none"
    remat: bool = False

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        init = initializer(self.kernel_init)
        row = functools.partial(published, "discriminator", self.image_shape, SIZES, "sagan")
        widths = self.widths or tuple(self.width * multiple for multiple in row().discriminator)
        x = features(image, widths, self.halvings or row().halvings, self.attention, init, "sagan", self.remat)
        logit = nn.Dense(1, kernel_init=init)(x)[:, 0]
        return LabelledLogit(self.num_classes, self.conditioning, init)(logit, x, label)


def features(
    image: Array, widths: tuple[int, ...], halvings: int, attention: tuple[int, ...], init: Initializer, network: str,
    remat: bool,
) -> Array:  # fmt: skip
    """Within a module: what a discriminator of wide residual blocks sees in an image [B, H, W, C], [B, F].

    A block for each of `widths`, of which the first `halvings` halve the image, with self-attention after the last one
    that ends at a height that `attention` names; ReLU; the sum over all pixels.
    """
    sizes = sizes_after_blocks(image.shape[1:], len(widths), halvings, attention, network)
    x = image
    for block, maps in enumerate(widths):
        layer = rematerialized(DiscriminatorBlock, remat)
        x = layer(maps, init, block < halvings, block == 0, wide=True, gain=1.0)(x)
        if x.shape[1] in attention and sizes[block] not in sizes[block + 1 :]:
            x = rematerialized(SelfAttention, remat)(init)(x)
    return jnp.sum(jax.nn.relu(x), axis=(1, 2))


def sizes_after_blocks(
    image_shape: tuple[int, int, int], blocks: int, halvings: int, attention: tuple[int, ...], network: str
) -> list[tuple[int, int]]:
    """The height and width after each block of a discriminator. Raises `UserError` for what does not fit them."""
    if halvings > blocks:
        raise UserError(f"config.discriminator.halvings={halvings}, but it has {blocks} blocks; expected: 0 to that")
    check_size("discriminator", image_shape, halvings, network)
    halved = [min(block, halvings) for block in range(1, blocks + 1)]
    sizes = [(image_shape[0] // 2**times, image_shape[1] // 2**times) for times in halved]
    check_attention("discriminator", attention, sizes)
    return sizes


def smallest(
    image_shape: tuple[int, int, int], doublings: int, attention: tuple[int, ...], network: str
) -> tuple[int, int]:
    """The height and width that a generator begins with. Raises `UserError` for what does not fit its image."""
    check_size("generator", image_shape, doublings, network)
    sizes = [(image_shape[0] // 2**times, image_shape[1] // 2**times) for times in range(doublings, -1, -1)]
    check_attention("generator", attention, sizes[1:])
    return sizes[0]
