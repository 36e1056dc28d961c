"""BigGAN-deep (Brock, Donahue and Simonyan 2019, arXiv:1809.11096, appendix B, tables 7 to 9).

Each size of the image has two bottleneck blocks, whose inner convolutions have a quarter of the channels. Their
shortcuts have no weights in the generator, and in the discriminator only those of added channels. The channels are
BigGAN's (SIZES in gan/networks/biggan.py). With a thousand classes, a width of 128, a latent of 128 and attention at
64x64, the parameters at 128x128x3 are 50,244,484 and 34,590,210. (The paper's 50.4 million count a last convolution to
128 channels, of which three are used, as in the published weights: 144,125 more.)

With `remat` blocks and attention are computed again for the gradient: less memory, the same network.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.biggan import SIZES, shared_embedding
from gan.networks.conv.primitives import Conv
from gan.networks.layers.attention import SelfAttention
from gan.networks.layers.conditioning import LATENT_CONDITIONINGS, LabelledLatent, LabelledLogit, check_conditioning
from gan.networks.layers.initializers import Initializer, initializer
from gan.networks.layers.normalization import BatchNorm, ModulatedBatchNorm
from gan.networks.layers.remat import rematerialized
from gan.networks.resblocks import (
    ResampledConv,
    average_downsample,
    first_size,
    layers_of_blocks,
    nearest_upsample,
    published_widths,
    sizes_after_blocks,
)


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C].

    The whole latent is the input of the first layer and of every normalization. Where `conditioning` is
    "shared_embedding" a vector of the label with `embedding` numbers precedes it; other conditionings are those of
    `LabelledLatent`. Each entry but the first of `widths`, or of the published multiples of `width`, is a stage of
    `depth` blocks, of which the last doubles the image and has the channels of the stage. Self-attention follows the
    stages that end at a height in `attention`.
    """

    styles: ClassVar[bool] = False
    latent_layers: ClassVar[str] = r"Dense_0|GeneratorBlock_\d+/ModulatedBatchNorm_\d+/(scale|offset)"
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

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
        valid = (*LATENT_CONDITIONINGS, "shared_embedding")
        check_conditioning("generator", self.conditioning, valid, self.num_classes)
        init = initializer(self.kernel_init)
        widths = self.widths
        if not widths:
            published = published_widths("generator", self.image_shape, SIZES, "biggan_deep")
            widths = tuple(self.width * multiple for multiple in published.generator)
        first, *others = widths
        _check_depth("generator", self.depth)
        if any(new > old for old, new in zip(widths, others, strict=False)):
            raise UserError(f"config.generator.widths={widths} must not increase: shortcuts only drop channels")
        height, width = first_size(self.image_shape, len(others), self.attention, "biggan_deep")
        if self.conditioning == "shared_embedding":
            vector = shared_embedding(self.num_classes, self.embedding, init, label)
            vector = jnp.concatenate([vector, latent], axis=-1)
        else:
            vector = LabelledLatent(self.num_classes, self.conditioning)(latent, label)
        x = nn.Dense(height * width * first, kernel_init=init)(vector).reshape(-1, height, width, first)
        block = rematerialized(GeneratorBlock, self.remat)
        for features in others:
            for _ in range(self.depth - 1):
                x = block(x.shape[-1], init, axis_name=self.axis_name)(x, vector, train)
            x = block(features, init, doubles=True, axis_name=self.axis_name)(x, vector, train)
            if x.shape[1] in self.attention:
                x = rematerialized(SelfAttention, self.remat)(init)(x)
        x = jax.nn.relu(BatchNorm(self.axis_name)(x, train))
        return Conv(self.image_shape[-1], (3, 3), kernel_init=init)(x)


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    A 3x3 convolution with the first of `widths`, or of the published multiples of `width`; a stage of `depth` blocks
    for each other width, of which the first has the channels of the stage and, in the first `halvings` stages (0: as
    published), halves the image; self-attention after the last stage that ends at a height in `attention`; ReLU, the
    sum over all pixels, a dense layer.
    """

    takes_rows: ClassVar[bool] = False
    group_size: ClassVar[int] = 1
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

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

    def layers_from_image(self) -> tuple[tuple[str, ...], ...]:
        """See `gan.networks`: the blocks of each stage, with the attention after them, are one.

        The first has the convolution of the image, too.
        """
        widths, halvings = self._widths_and_halvings()
        stages = layers_of_blocks(self.image_shape, len(widths) - 1, halvings, self.attention, "biggan_deep")
        layers = [
            (*(f"DiscriminatorBlock_{stage * self.depth + block}" for block in range(self.depth)), *attention)
            for stage, (_, *attention) in enumerate(stages)
        ]
        return (("Conv_0", *layers[0]), *layers[1:]) if layers else (("Conv_0",),)

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        init = initializer(self.kernel_init)
        widths, halvings = self._widths_and_halvings()
        first, *others = widths
        _check_depth("discriminator", self.depth)
        if any(new < old for old, new in zip(widths, others, strict=False)):
            raise UserError(f"config.discriminator.widths={widths} must not decrease: shortcuts only add channels")
        sizes = sizes_after_blocks(image.shape[1:], len(others), halvings, self.attention, "biggan_deep")
        x = Conv(first, (3, 3), kernel_init=init)(image)
        block = rematerialized(DiscriminatorBlock, self.remat)
        for stage, features in enumerate(others):
            x = block(features, init, halves=stage < halvings)(x)
            for _ in range(self.depth - 1):
                x = block(features, init)(x)
            if x.shape[1] in self.attention and sizes[stage] not in sizes[stage + 1 :]:
                x = rematerialized(SelfAttention, self.remat)(init)(x)
        x = jnp.sum(jax.nn.relu(x), axis=(1, 2))
        logit = nn.Dense(1, kernel_init=init)(x)[:, 0]
        return LabelledLogit(self.num_classes, self.conditioning, init)(logit, x, label)

    def _widths_and_halvings(self) -> tuple[tuple[int, ...], int]:
        widths, halvings = self.widths, self.halvings
        if not widths or not halvings:
            published = published_widths("discriminator", self.image_shape, SIZES, "biggan_deep")
            widths = widths or tuple(self.width * multiple for multiple in published.discriminator)
            halvings = halvings or published.halvings
        return widths, halvings


class GeneratorBlock(nn.Module):
    """[B, H, W, C] to [B, H, W, features] or, if `doubles`, twice H and W: 1x1 a 3x3 a 3x3 up a 1x1 a x + up x.

    a is the ReLU of a normalization whose scales and offsets are linear maps of the vector. The inner convolutions have
    C / 4 channels. The shortcut is the first `features` channels of x.
    """

    features: int
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
        y = Conv(self.features, (1, 1), kernel_init=init)(activated(y))
        x = x[..., : self.features]
        return y + (nearest_upsample(x) if self.doubles else x)


class DiscriminatorBlock(nn.Module):
    """[B, H, W, C] to [B, H, W, features] or, if `halves`, half of H and W: 1x1 down a 3x3 a 3x3 a 1x1 a x + s down x.

    a is ReLU. The inner convolutions have features / 4 channels. s x is x, followed by a 1x1 convolution of x for the
    added channels.
    """

    features: int
    kernel_init: Initializer
    halves: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden, init = max(1, self.features // 4), self.kernel_init
        y = Conv(hidden, (1, 1), kernel_init=init)(jax.nn.relu(x))
        for _ in range(2):
            y = Conv(hidden, (3, 3), kernel_init=init)(jax.nn.relu(y))
        y = jax.nn.relu(y)
        if self.halves:
            x, y = average_downsample(x), average_downsample(y)
        y = Conv(self.features, (1, 1), kernel_init=init)(y)
        added = self.features - x.shape[-1]
        return y + (jnp.concatenate([x, Conv(added, (1, 1), kernel_init=init)(x)], axis=-1) if added else x)


def _check_depth(player: str, depth: int) -> None:
    if depth < 1:
        raise UserError(f"config.{player}.depth={depth} must be at least 1")
