"""BigGAN-deep (Brock, Donahue and Simonyan 2019, arXiv:1809.11096, appendix B, tables 7 to 9).

A network file: generator and discriminator side by side. Bottlenecks with a quarter of the maps, two to each size of
the image, whose shortcuts have no weights in the generator, and in the discriminator only those for maps that are
new. The maps are BigGAN's (SIZES in gan/networks/biggan.py). With a thousand classes, a width of 128, a latent of 128
and attention at 64x64, 128x128x3 pixels take 50,244,484 and 34,590,210 parameters. (The paper's 50.4 million count a
last convolution to 128 maps, of which three are used, as the published weights have it: 144,125 more.)

With `remat` blocks and attention are computed again for the gradient: less memory, the same network.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.attention import SelfAttention
from gan.networks.biggan import SIZES, shared_embedding
from gan.networks.conv.primitives import Conv
from gan.networks.layers import (
    BatchNorm,
    Initializer,
    LabelledLatent,
    LabelledLogit,
    ModulatedBatchNorm,
    check_conditioning,
    initializer,
    rematerialized,
)
from gan.networks.resnet import ResampledConv, published
from gan.networks.sagan import sizes_after_blocks, smallest


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C].

    The whole latent, behind a vector of the label with `embedding` numbers where `conditioning` is "shared_embedding",
    or told of the label as LabelledLatent knows, goes into the first layer and into every normalization. A stage for
    each of `widths`, or of the published multiples of `width`, but the first: `depth` blocks, of which the last one
    doubles the image and takes on the stage's maps. Self-attention follows the stages that end at a height that
    `attention` names.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 128
    widths: tuple[int, ...] = ()
    depth: int = 2
    attention: tuple[int, ...] = ()
    embedding: int = 128
    kernel_init: str = "orthogonal"
    conditioning: str = "none"
    remat: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        valid = ("none", "concat", "concat_embedding", "embedding", "shared_embedding")
        check_conditioning("generator", self.conditioning, valid, self.num_classes)
        init = initializer(self.kernel_init)
        row = functools.partial(published, "generator", self.image_shape, SIZES, "biggan_deep")
        widths = self.widths or tuple(self.width * multiple for multiple in row().generator)
        first, *others = widths
        _check_depth("generator", self.depth)
        if any(new > old for old, new in zip(widths, others, strict=False)):
            raise UserError(f"config.generator.widths={widths}; expected: numbers that do not grow, for the shortcuts")
        height, width = smallest(self.image_shape, len(others), self.attention, "biggan_deep")
        if self.conditioning == "shared_embedding":
            vector = shared_embedding(self.num_classes, self.embedding, init, label)
            vector = jnp.concatenate([vector, latent], axis=-1)
        else:
            vector = LabelledLatent(self.num_classes, self.conditioning)(latent, label)
        x = nn.Dense(height * width * first, kernel_init=init)(vector).reshape(-1, height, width, first)
        block = rematerialized(GeneratorBlock, self.remat)
        for maps in others:
            for _ in range(self.depth - 1):
                x = block(x.shape[-1], init, axis_name=self.axis_name)(x, vector, train)
            x = block(maps, init, doubles=True, axis_name=self.axis_name)(x, vector, train)
            if x.shape[1] in self.attention:
                x = rematerialized(SelfAttention, self.remat)(init)(x)
        x = jax.nn.relu(BatchNorm(self.axis_name)(x, train))
        return Conv(self.image_shape[-1], (3, 3), kernel_init=init)(x)


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    A 3x3 convolution to the first of `widths`, or of the published multiples of `width`; a stage of `depth` blocks for
    each other one, of which the first takes on its maps and, in the first `halvings` stages (0: as published), halves
    the image; self-attention after the last stage that ends at a height that `attention` names; ReLU, the sum over all
    pixels, a dense layer.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 128
    widths: tuple[int, ...] = ()
    depth: int = 2
    halvings: int = 0
    attention: tuple[int, ...] = ()
    kernel_init: str = "orthogonal"
    conditioning: str = "none"
    remat: bool = False

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        init = initializer(self.kernel_init)
        row = functools.partial(published, "discriminator", self.image_shape, SIZES, "biggan_deep")
        widths = self.widths or tuple(self.width * multiple for multiple in row().discriminator)
        halvings = self.halvings or row().halvings
        first, *others = widths
        _check_depth("discriminator", self.depth)
        if any(new < old for old, new in zip(widths, others, strict=False)):
            raise UserError(
                f"config.discriminator.widths={widths}; expected: numbers that do not fall, for the shortcuts"
            )
        sizes = sizes_after_blocks(image.shape[1:], len(others), halvings, self.attention, "biggan_deep")
        x = Conv(first, (3, 3), kernel_init=init)(image)
        block = rematerialized(DiscriminatorBlock, self.remat)
        for stage, maps in enumerate(others):
            x = block(maps, init, halves=stage < halvings)(x)
            for _ in range(self.depth - 1):
                x = block(maps, init)(x)
            if x.shape[1] in self.attention and sizes[stage] not in sizes[stage + 1 :]:
                x = rematerialized(SelfAttention, self.remat)(init)(x)
        x = jnp.sum(jax.nn.relu(x), axis=(1, 2))
        logit = nn.Dense(1, kernel_init=init)(x)[:, 0]
        return LabelledLogit(self.num_classes, self.conditioning, init)(logit, x, label)


class GeneratorBlock(nn.Module):
    """[B, H, W, C] to [B, H, W, maps] or, if `doubles`, twice H and W: 1x1 a 3x3 a 3x3 up a 1x1 a x + up x.

    a is the ReLU of a normalization with scales and offsets of the vector; the convolutions within have C / 4 maps.
    Of x, the first `maps` maps are added.
    """

    maps: int
    kernel_init: Initializer
    doubles: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, vector: Array, train: bool) -> Array:
        def activated(x: Array) -> Array:
            return jax.nn.relu(ModulatedBatchNorm(self.kernel_init, self.axis_name)(x, vector, train))

        hidden, init = max(1, x.shape[-1] // 4), self.kernel_init
        y = activated(Conv(hidden, (1, 1), kernel_init=init)(activated(x)))
        y = ResampledConv(hidden, "up", init)(y) if self.doubles else Conv(hidden, (3, 3), kernel_init=init)(y)
        y = Conv(hidden, (3, 3), kernel_init=init)(activated(y))
        y = Conv(self.maps, (1, 1), kernel_init=init)(activated(y))
        x = x[..., : self.maps]
        return y + (x.repeat(2, axis=1).repeat(2, axis=2) if self.doubles else x)


class DiscriminatorBlock(nn.Module):
    """[B, H, W, C] to [B, H, W, maps] or, if `halves`, half of H and W: 1x1 down a 3x3 a 3x3 a 1x1 a x + s down x.

    a is ReLU; the convolutions within have maps / 4 maps; s x is x with a 1x1 convolution of it for the maps that are
    new behind it.
    """

    maps: int
    kernel_init: Initializer
    halves: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden, init = max(1, self.maps // 4), self.kernel_init
        y = Conv(hidden, (1, 1), kernel_init=init)(jax.nn.relu(x))
        for _ in range(2):
            y = Conv(hidden, (3, 3), kernel_init=init)(jax.nn.relu(y))
        y = jax.nn.relu(y)
        if self.halves:
            x, y = _halved(x), _halved(y)
        y = Conv(self.maps, (1, 1), kernel_init=init)(y)
        new = self.maps - x.shape[-1]
        return y + (jnp.concatenate([x, Conv(new, (1, 1), kernel_init=init)(x)], axis=-1) if new else x)


def _halved(x: Array) -> Array:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def _check_depth(player: str, depth: int) -> None:
    if depth < 1:
        raise UserError(f"config.{player}.depth={depth} must be at least 1")
