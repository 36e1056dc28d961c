"""BigGAN (Brock, Donahue and Simonyan 2019, arXiv:1809.11096, appendix B, tables 4 to 6).

The blocks are those of gan/networks/resblocks.py. The channels at 128 and 256 pixels are the paper's, those at 32 and
64 of the first author's code (BigGAN-PyTorch). With a thousand classes, a width of 96, a latent of 120 and attention at
64x64, the parameters at 128x128x3 are 70,433,988 and 87,982,370.

BigGAN also has spectral normalization of both players, orthogonal regularization of the generator
(`config.penalties.ortho`), statistics of the whole batch on every device, and standing statistics for its samples
(`config.evaluation.standing_batches`): see configs/biggan.py.

With `remat` blocks and attention are computed again for the gradient: less memory, the same network.
"""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.conv.primitives import Conv
from gan.networks.layers.attention import SelfAttention
from gan.networks.layers.conditioning import LATENT_CONDITIONINGS, LabelledLatent, LabelledLogit, check_conditioning
from gan.networks.layers.initializers import Initializer, initializer
from gan.networks.layers.normalization import BatchNorm
from gan.networks.layers.remat import rematerialized
from gan.networks.resblocks import (
    GeneratorBlock,
    PublishedWidths,
    discriminator_features,
    first_size,
    layers_of_blocks,
    published_widths,
)

SIZES = {
    32: PublishedWidths((4, 4, 4, 4), (4, 4, 4, 4), 2),
    64: PublishedWidths((16, 16, 8, 4, 2), (1, 2, 4, 8, 16), 4),
    128: PublishedWidths((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),
    256: PublishedWidths((16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6),
}
"""The published channels, in multiples of `width`, by the side of the image.

In the discriminator of BigGAN-deep the first number is that of its first convolution.
"""


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C].

    With `split_latent` the latent is split into equal parts, one for the dense layer and one for each block, in this
    order: Z must be a multiple of the number of blocks plus one. Each block's normalizations take their scales and
    offsets from its part and, where `conditioning` is "shared_embedding", also from a vector of the label with
    `embedding` numbers, which all blocks share. Other conditionings are those of resnet and act on the part of the
    dense layer; "batch_norm" needs split_latent=False. Channels and attention are as for SAGAN.
    """

    styles: ClassVar[bool] = False
    latent_layers: ClassVar[str] = r"Dense_0|GeneratorBlock_\d+/ModulatedBatchNorm_\d+/(scale|offset)"
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 96
    widths: tuple[int, ...] = ()
    attention: tuple[int, ...] = ()
    split_latent: bool = True
    embedding: int = 128
    kernel_init: str = "orthogonal"
    conditioning: str = "none"
    remat: bool = False
    axis_name: str | None = None

    @property
    def latent_parts(self) -> int:
        """One for the dense layer and one for each block, where the latent is split; else 1."""
        widths = self.widths or published_widths("generator", self.image_shape, SIZES, "biggan").generator
        return len(widths) if self.split_latent else 1

    @nn.compact
    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        valid = (*LATENT_CONDITIONINGS, "batch_norm", "shared_embedding")
        check_conditioning("generator", self.conditioning, valid, self.num_classes)
        init = initializer(self.kernel_init)
        widths: Sequence[int] = self.widths
        if not widths:
            published = published_widths("generator", self.image_shape, SIZES, "biggan")
            widths = [self.width * multiple for multiple in published.generator]
        first, *others = widths
        height, width = first_size(self.image_shape, len(others), self.attention, "biggan")
        num_classes = self.num_classes if self.conditioning == "batch_norm" else 0
        parts = [latent]
        if self.split_latent:
            parts = _split(latent, len(others) + 1)
            if num_classes:
                raise UserError(
                    "config.generator.conditioning='batch_norm' takes the scales of the normalizations from the label, "
                    "and config.generator.split_latent=True takes them from the latent; expected: "
                    "conditioning='shared_embedding', or split_latent=False"
                )
        vectors = [[part] for part in parts[1:]] or [[] for _ in others]
        if self.conditioning == "shared_embedding":
            shared = shared_embedding(self.num_classes, self.embedding, init, label)
            vectors = [[shared, *vector] for vector in vectors]
        elif not num_classes:
            parts[0] = LabelledLatent(self.num_classes, self.conditioning)(parts[0], label)
        x = nn.Dense(height * width * first, kernel_init=init)(parts[0]).reshape(-1, height, width, first)
        block = rematerialized(GeneratorBlock, self.remat)
        for features, vector in zip(others, vectors, strict=True):
            joined = jnp.concatenate(vector, axis=-1) if vector else None
            x = block(features, init, num_classes, self.axis_name, gain=1.0)(x, label, train, joined)
            if x.shape[1] in self.attention:
                x = rematerialized(SelfAttention, self.remat)(init)(x)
        x = jax.nn.relu(BatchNorm(self.axis_name)(x, train))
        return Conv(self.image_shape[-1], (3, 3), kernel_init=init)(x)


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    SAGAN's, with other channels and orthogonal initialization.
    """

    takes_rows: ClassVar[bool] = False
    group_size: ClassVar[int] = 1
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 96
    widths: tuple[int, ...] = ()
    halvings: int = 0
    attention: tuple[int, ...] = ()
    kernel_init: str = "orthogonal"
    conditioning: str = "none"
    remat: bool = False

    def layers_from_image(self) -> tuple[tuple[str, ...], ...]:
        """See `gan.networks`: each block, with the attention after it, is one."""
        widths, halvings = self._widths_and_halvings()
        return layers_of_blocks(self.image_shape, len(widths), halvings, self.attention, "biggan")

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        init = initializer(self.kernel_init)
        widths, halvings = self._widths_and_halvings()
        x = discriminator_features(image, widths, halvings, self.attention, init, "biggan", self.remat)
        logit = nn.Dense(1, kernel_init=init)(x)[:, 0]
        return LabelledLogit(self.num_classes, self.conditioning, init)(logit, x, label)

    def _widths_and_halvings(self) -> tuple[tuple[int, ...], int]:
        widths, halvings = self.widths, self.halvings
        if not widths or not halvings:
            published = published_widths("discriminator", self.image_shape, SIZES, "biggan")
            widths = widths or tuple(self.width * multiple for multiple in published.discriminator)
            halvings = halvings or published.halvings
        return widths, halvings


def shared_embedding(num_classes: int, size: int, init: Initializer, label: Array) -> Array:
    """Within a generator: a learned vector of each label, [B, size]. Raises `UserError` for a size below 1."""
    if size < 1:
        raise UserError(
            f"config.generator.embedding={size} must be at least 1; to train without labels use conditioning='none'"
        )
    return nn.Embed(num_classes, size, embedding_init=init, name="shared")(label)


def _split(latent: Array, parts: int) -> list[Array]:
    """[B, Z] to `parts` arrays [B, Z / parts]. Raises `UserError` where `parts` does not divide Z."""
    size = latent.shape[-1]
    if size % parts:
        below, above = size // parts * parts, (size // parts + 1) * parts
        nearest = f"{below} or {above}" if below else f"{above}"
        raise UserError(
            f"config.latent.size={size} cannot be split into {parts} equal parts, one for the first layer and one for "
            f"each block; nearest valid: {nearest}, or config.generator.split_latent=False"
        )
    return jnp.split(latent, parts, axis=-1)
