"""GAT (Hyun, Lee and Heo 2025, arXiv:2509.24935): plain transformers as generator and discriminator.

The sizes of the paper are S, B, L and XL: `width` 384, 768, 1024 and 1152, `depth` 12, 12, 24 and 28, and 6, 12, 16 and
16 `heads`. It trains them on the latents of an autoencoder; here they make pixels. G of size XL on 32x32x4 with
patches of 2 and 1000 classes has 601,936,640 parameters. The paper's 602 million also count the fixed positions and a
layer without effect, 314,496 numbers.

Multi-level noised outputs (section 3.2, MNG): in training G returns `levels` images, one after every depth / levels
blocks, each the sum of all outputs so far, and D sees all of them at once, with noise that decreases from the first to
the last (`gat_layers.noised`). A real image stands for all levels. With `levels` 1 D sees the last image alone, without
noise: the paper's network before this change.

A logit depends on its own image only, which gradient penalties need. With `remat` the blocks are computed again for
the gradient: less memory, the same network.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.gat_layers import (
    BRANCH_GAIN,
    Dense,
    GeneratorBlock,
    LabelVector,
    MappingNetwork,
    PatchTokens,
    RMSNorm,
    ToImage,
    TransformerBlock,
    image_of,
    noised,
    positions,
    rotations,
    xavier,
)
from gan.networks.layers.conditioning import LabelledLogit, check_conditioning
from gan.networks.layers.dropout import row_keys
from gan.networks.layers.remat import rematerialized
from gan.networks.layers.sizes import nearest_multiples
from gan.networks.layers.styles import MEAN_DECAY, STYLE_MEAN, for_all_layers, truncated
from gan.rows import ALL, Rows


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C]; in training to `levels` of them, [B, H, W, L C].

    A mapping network makes a style w [B, width] of the latent. The first tokens are the fixed `positions` of the
    patches; `depth` blocks change them, modulated by w. The published conditioning is "concat_embedding".

    Truncation: training updates a running mean of w, for each class where labels are used. Evaluation moves the style
    of each block toward the mean of its class: w <- mean + truncation (w - mean). The authors' `truncation_psi` is one
    minus this. The EMA generator has the EMA of the mean; theirs has its last value.

    Styles pass through `perturb("styles", ...)`, [B, depth, width]; an image is modulated as the block before it.

    Raises `UserError` for fields out of range and for an image that patches do not fill.
    """

    styles: ClassVar[bool] = True
    latent_layers: ClassVar[str] = r"(blocks|to_image)_\d+/modulation"
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset({STYLE_MEAN})
    equalized: ClassVar[bool] = True

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 384
    depth: int = 12
    heads: int = 6
    patch_size: int = 2
    levels: int = 4
    modulation_gain: float = BRANCH_GAIN
    conditioning: str = "none"
    remat: bool = False
    truncation: float = 1.0
    axis_name: str | None = None

    def setup(self) -> None:
        self.size = _checked_size("generator", self)
        self.mapping_network = MappingNetwork(self.width, self.num_classes, self.conditioning)
        classes = (self.num_classes,) if self.conditioning != "none" else ()
        self.mean = self.variable("batch_stats", STYLE_MEAN, jnp.zeros, (*classes, self.width))
        block = rematerialized(GeneratorBlock, self.remat)
        self.blocks = [block(self.heads, self.modulation_gain) for _ in range(self.depth)]
        features = self.patch_size**2 * self.image_shape[2]
        self.to_image = [ToImage(features, self.modulation_gain) for _ in range(self.levels)]

    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        styles = self._training_styles(latent, label) if train else self.mapping(latent, label)
        return self.synthesis(self.perturb("styles", styles), train)

    def mapping(self, latent: Array, label: Array) -> Array:
        """Latents [B, Z] and labels [B] to the styles [B, depth, width] of evaluation, moved toward the mean.

        For `module.apply(variables, latent, label, method="mapping")`.
        """
        mean = self.mean.value[label] if self.mean.value.ndim == 2 else self.mean.value[None]
        return for_all_layers(truncated(self.mapping_network(latent, label), mean, self.truncation), self.depth)

    def synthesis(self, styles: Array, train: bool = False) -> Array:
        """Styles [B, depth, width] to an image before its activation, or with `train` to those of all levels.

        For `module.apply(variables, styles, method="synthesis")`.
        """
        cos, sin = rotations(self.size, self.width // self.heads)
        x = jnp.asarray(positions(self.size, self.width), styles.dtype)[None]
        x = jnp.broadcast_to(x, (styles.shape[0], *x.shape[1:]))
        image, images = jnp.zeros(()), []
        for index, block in enumerate(self.blocks):
            style = styles[:, index]
            x = block(x, style, cos, sin)
            level, rest = divmod(index + 1, self.depth // self.levels)
            if not rest:
                output = image_of(self.to_image[level - 1](x, style), self.size, self.patch_size)
                image = image + output.astype(jnp.float32)
                images.append(image)
        return jnp.concatenate(images, axis=-1) if train else image

    def _training_styles(self, latent: Array, label: Array) -> Array:
        """The styles [B, depth, width] of training. Updates the means of the classes that are in the batch."""
        w = self.mapping_network(latent, label)
        mean, detached = self.mean.value, jax.lax.stop_gradient(w.astype(jnp.float32))
        rows = jax.nn.one_hot(label, len(mean)) if mean.ndim == 2 else jnp.ones((len(w), 1))
        sums, counts = rows.T @ detached, jnp.sum(rows, axis=0)[:, None]
        if self.axis_name is not None:
            sums, counts = jax.lax.psum((sums, counts), self.axis_name)
        batch_means = (sums / jnp.maximum(counts, 1.0)).reshape(mean.shape)
        moved = batch_means + MEAN_DECAY * (mean - batch_means)
        self.mean.value = jnp.where((counts > 0).reshape(*mean.shape[:-1], 1), moved, mean)
        return for_all_layers(w, self.depth)


class Discriminator(nn.Module):
    """Image [B, H, W, C], or its levels [B, H, W, L C], to logits [B], and of the classes [B, K] where it classifies.

    The levels of the image, noised in training, are the channels of one image, whose patches are tokens after a class
    token; `depth` transformer blocks; the normalized class token, and a dense layer. Noise is drawn for each row. In
    evaluation it is its mean, zero.

    The published conditioning is "projection", without a term that all labels share: the dense layer has `label_width`
    outputs, and the logit is their product with a vector of the label.

    Raises `UserError` as the generator does.
    """

    takes_rows: ClassVar[bool] = True
    group_size: ClassVar[int] = 1
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    width: int = 384
    depth: int = 12
    heads: int = 6
    patch_size: int = 2
    levels: int = 4
    label_width: int = 2048
    conditioning: str = "none"
    remat: bool = False
    axis_name: str | None = None
    rows: Rows = ALL

    @property
    def equalized(self) -> bool:
        """See `gan.networks`: the vector of the label has slow layers."""
        return self.conditioning == "projection"

    def layers_from_image(self) -> tuple[tuple[str, ...], ...]:
        """See `gan.networks`: each block is one, the first with the tokens and the last with the norm after it."""
        layers = [[f"TransformerBlock_{index}"] for index in range(self.depth)]
        layers[0].insert(0, "PatchTokens_0")
        layers[-1].append("RMSNorm_0")
        return tuple(map(tuple, layers))

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        check_conditioning("discriminator", self.conditioning, ("none", "projection", "classifier"), self.num_classes)
        size = _checked_size("discriminator", self)
        x = PatchTokens(self.width, self.patch_size)(self._levels(image, train).astype(image.dtype))
        cos, sin = rotations(size, self.width // self.heads, free=1)
        block = rematerialized(TransformerBlock, self.remat)
        for _ in range(self.depth):
            x = block(self.heads)(x, cos, sin)
        x = RMSNorm()(x[:, 0])
        if self.conditioning == "projection":
            vector = LabelVector(self.num_classes, self.label_width)(label)
            # In float32, because an estimate of the gradient divides a small difference of logits.
            return jnp.sum(Dense(self.label_width)(x).astype(jnp.float32) * vector.astype(jnp.float32), axis=-1)
        logit = Dense(1)(x)[:, 0]
        return LabelledLogit(self.num_classes, self.conditioning, xavier())(logit, x, label)

    def _levels(self, image: Array, train: bool) -> Array:
        """An image, or its levels, as float32 levels [B, H, W, L C], with noise in training."""
        copies = self.levels * self.image_shape[2] // image.shape[-1]
        images = jnp.tile(image.astype(jnp.float32), (1, 1, 1, copies))
        shape = (*images.shape[1:3], self.levels, self.image_shape[2])
        images = images.reshape(-1, *shape)
        if train and self.levels > 1:
            keys = row_keys(self.make_rng("noise"), len(image), self.axis_name, self.rows)
            noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        else:
            noise = jnp.zeros_like(images)
        return noised(images, noise).reshape(*images.shape[:3], -1)


def _checked_size(name: str, player: Generator | Discriminator) -> tuple[int, int]:
    """The rows and columns of patches. Raises `UserError` where the fields of a player do not fit."""
    height, width, _ = player.image_shape
    for field in ("depth", "heads", "patch_size", "levels"):
        if getattr(player, field) < 1:
            raise UserError(f"config.{name}.{field}={getattr(player, field)}; expected: 1 or more")
    if height % player.patch_size or width % player.patch_size:
        raise UserError(
            f"config.data.image_size={(height, width)} does not fit config.{name}.patch_size={player.patch_size}; "
            f"nearest valid: {nearest_multiples((height, width), player.patch_size)}"
        )
    if player.width % (4 * player.heads):
        raise UserError(
            f"config.{name}.width={player.width} is not a multiple of 4 * heads = {4 * player.heads}: each head "
            f"rotates pairs of features by row and by column"
        )
    if player.depth % player.levels:
        raise UserError(
            f"config.{name}.depth={player.depth} is not a multiple of config.{name}.levels={player.levels}, the number "
            f"of images that a generator of this depth makes"
        )
    return height // player.patch_size, width // player.patch_size
