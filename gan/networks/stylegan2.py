"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), in the version of its ADA paper (the same year, arXiv:2006.06676).

In both players `widths` go from the smallest image to the largest; n widths make images 2^(n - 1) times the size of the
learned constant, which is 4x4 as published. At the sizes of configs/stylegan2.py the numbers of parameters are those of
the authors' code, stylegan2-ada-pytorch. The layers are in gan/networks/stylegan2_layers.py.

With `remat` the stages are computed again for the gradient: less memory, the same network.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.layers.conditioning import LabelledLogit, check_conditioning
from gan.networks.layers.dropout import row_keys
from gan.networks.layers.remat import rematerialized
from gan.networks.layers.resample import upsample
from gan.networks.layers.sizes import smallest_stage, stage_dtypes
from gan.networks.layers.styles import MEAN_DECAY, STYLE_MEAN, for_all_layers, truncated
from gan.networks.stylegan2_layers import (
    EqualConv,
    EqualDense,
    MappingLayers,
    MappingNetwork,
    MinibatchStd,
    SynthesisLayer,
    ToRGB,
    normalized,
)

ARCHITECTURES = ("orig", "resnet")


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C], with output skips.

    `mapping` makes a style w [W] of each latent, and `synthesis` makes an image of L = 2 n styles, one for each of its
    2 n - 1 modulated convolutions and one for the last image. Each stage adds its image to the upsampled image of the
    stage before (section 4.1, figure 7). Training differs from evaluation:

    - Noise. In training each example has its own noise, a number per pixel times a learned strength. In evaluation each
      layer has one fixed field of noise, a function of the layer's number, the same in every run, and not stored with
      the parameters: sample i of a seed is always the same image. (The authors draw it with the weights and store it.)
    - Style mixing. With probability `style_mixing` the layers of an example from a random one on see the style of a
      second latent, drawn from N(0, 1), with the same label (arXiv:1812.04948, section 3.1; there one layer for the
      whole batch).
    - Truncation. Training updates a running mean of w. Evaluation moves all styles toward it: w <- mean + truncation
      (w - mean). No image in training depends on the mean. (It is updated once per update of G; in the authors' code
      also where D sees generated images. The EMA generator has the EMA of the mean; theirs has its last value.)

    The stages of the `bfloat16_stages` largest images are computed in bfloat16. The authors have float16, and scale
    weights and styles so that they do not overflow; bfloat16 has the range of float32. `conv_clamp` is theirs too, the
    largest absolute value of an activation; 0: no limit. The published conditioning is "concat_embedding", where label
    and latent are normalized separately; with others they are normalized together.

    Styles pass through `perturb("styles", ...)`, [B, L, W], where the path length penalty takes its gradient.

    Raises `UserError` for fields out of range and for an image that does not fit `widths`.
    """

    styles: ClassVar[bool] = True
    latent_layers: ClassVar[str] = r"Styled(Conv|Image)_\d+/EqualDense_0"
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset({STYLE_MEAN})
    equalized: ClassVar[bool] = True

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    widths: tuple[int, ...] = (512, 512, 512, 512)
    style_width: int = 512
    mapping_layers: int = 8
    style_mixing: float = 0.9
    conv_clamp: float = 0.0
    bfloat16_stages: int = 0
    conditioning: str = "none"
    remat: bool = False
    truncation: float = 1.0
    axis_name: str | None = None

    def setup(self) -> None:
        if not 0.0 <= self.style_mixing <= 1.0:
            raise UserError(f"config.generator.style_mixing={self.style_mixing}; expected: 0 <= style_mixing <= 1")
        for field in ("style_width", "mapping_layers"):
            if getattr(self, field) < 1:
                raise UserError(f"config.generator.{field}={getattr(self, field)}; expected: 1 or more")
        size = smallest_stage("stylegan2", "generator", self.image_shape, self.widths)
        self.mapping_network = MappingNetwork(
            self.style_width, self.mapping_layers, self.num_classes, self.conditioning, name="LatentMapping_0"
        )
        self.mean = self.variable("batch_stats", STYLE_MEAN, jnp.zeros, (self.style_width,))
        self.constant = self.param("constant", nn.initializers.normal(1.0), (*size, self.widths[0]))
        # The first stage has one convolution, every other stage two, of which the first doubles the size.
        self.synthesis_layers = [
            SynthesisLayer(
                self.widths[(layer + 1) // 2], layer, layer % 2 == 1, self.conv_clamp, self.axis_name,
                name=f"StyledConv_{layer}",
            )
            for layer in range(2 * len(self.widths) - 1)
        ]  # fmt: skip
        self.to_rgb = [
            ToRGB(self.image_shape[2], self.conv_clamp, name=f"StyledImage_{stage}")
            for stage in range(len(self.widths))
        ]

    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        styles = self._training_styles(latent, label) if train else self.mapping(latent, label)
        return self.synthesis(self.perturb("styles", styles), train)

    def mapping(self, latent: Array, label: Array) -> Array:
        """Latents [B, Z] and labels [B] to the styles [B, L, W] of evaluation, moved toward the mean by `truncation`.

        For `module.apply(variables, latent, label, method="mapping")`.
        """
        w = truncated(self.mapping_network(latent, label), self.mean.value[None], self.truncation)
        return for_all_layers(w, 2 * len(self.widths))

    def synthesis(self, styles: Array, train: bool = False) -> Array:
        """Styles [B, L, W] to an image before its activation [B, H, W, C], with the fixed noise unless `train`.

        For `module.apply(variables, styles, method="synthesis")`.
        """
        x = jnp.broadcast_to(self.constant[None], (styles.shape[0], *self.constant.shape))
        image: Any = None  # of the stage before
        synthesize = rematerialized(_synthesis_stage, self.remat, static=("stage", "train"))
        for stage, dtype in enumerate(stage_dtypes(len(self.widths), self.bfloat16_stages, styles.dtype)):
            x, image = synthesize(self, x.astype(dtype), image, styles, stage, train)
        return image

    def _training_styles(self, latent: Array, label: Array) -> Array:
        """The styles [B, L, W] of training, mixed with those of second latents. Updates the mean."""
        w = self.mapping_network(latent, label)
        batch_mean = jax.lax.stop_gradient(jnp.mean(w.astype(jnp.float32), axis=0))
        if self.axis_name is not None:
            batch_mean = jax.lax.pmean(batch_mean, self.axis_name)
        self.mean.value = batch_mean + MEAN_DECAY * (self.mean.value - batch_mean)
        layers = 2 * len(self.widths)
        styles = for_all_layers(w, layers)
        if self.style_mixing == 0.0:
            return styles
        first, second = self._second_latents(latent, layers)
        is_second = jnp.arange(layers)[None, :, None] >= first[:, None, None]
        return jnp.where(is_second, self.mapping_network(second, label)[:, None], styles)

    def _second_latents(self, latent: Array, layers: int) -> tuple[Array, Array]:
        """For each example the first layer that sees its second latent, int32 [B], and that latent [B, Z]."""

        def draw(key: Array) -> tuple[Array, Array]:
            gate_key, layer_key, latent_key = jax.random.split(key, 3)
            first = jax.random.randint(layer_key, (), 1, layers)
            is_mixed = jax.random.bernoulli(gate_key, self.style_mixing)
            return jnp.where(is_mixed, first, layers), jax.random.normal(latent_key, latent.shape[1:], latent.dtype)

        return jax.vmap(draw)(row_keys(self.make_rng("style_mixing"), len(latent), self.axis_name))


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    A 1x1 convolution; for each stage but the smallest two 3x3 convolutions, of which the second halves the image, plus,
    with the architecture "resnet", a 1x1 convolution of the downsampled image (figure 7; "orig" has none); at the
    smallest stage a channel of the deviation within groups of `group_size` examples, a 3x3 convolution and two dense
    layers, in the type of the images.

    With groups a logit depends on other images. Gradient penalties take the gradient of the summed logits all the same,
    as in the authors' code, so it includes the effect of an image on the logits of its group. A group is from one
    batch, either real or generated.

    The published conditioning is a variant of "projection": a mapping network makes a vector of the label, and the
    logit is its product with the last layer's outputs, over sqrt(features). `bfloat16_stages` and `conv_clamp` are as
    in the generator.

    Raises `UserError` for an unknown architecture or conditioning, and for an image that does not fit `widths`.
    """

    takes_rows: ClassVar[bool] = False
    batch_independent_stats: ClassVar[frozenset[str]] = frozenset()
    equalized: ClassVar[bool] = True

    image_shape: tuple[int, int, int]
    num_classes: int = 0
    widths: tuple[int, ...] = (512, 512, 512, 512)
    architecture: str = "resnet"
    group_size: int = 4
    mapping_layers: int = 8
    conv_clamp: float = 0.0
    bfloat16_stages: int = 0
    conditioning: str = "none"
    remat: bool = False
    axis_name: str | None = None

    def layers_from_image(self) -> tuple[tuple[str, ...], ...]:
        """See `gan.networks`: each stage is one, the first with the 1x1 convolution of the image."""
        convs = 3 if self.architecture == "resnet" else 2
        names = [
            [f"EqualConv_{stage * convs + conv + 1}" for conv in range(convs)] for stage in range(len(self.widths) - 1)
        ]
        names.append([f"EqualConv_{(len(self.widths) - 1) * convs + 1}", "EqualDense_0"])
        names[0].insert(0, "EqualConv_0")
        return tuple(map(tuple, names))

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        if self.architecture not in ARCHITECTURES:
            raise UserError(
                f"config.discriminator.architecture={self.architecture!r} is unknown; "
                f"expected: {', '.join(ARCHITECTURES)}"
            )
        check_conditioning("discriminator", self.conditioning, ("none", "projection", "classifier"), self.num_classes)
        smallest_stage("stylegan2", "discriminator", self.image_shape, self.widths)
        dtypes = stage_dtypes(len(self.widths), self.bfloat16_stages, image.dtype)
        clamp, discriminate = self.conv_clamp, rematerialized(_discriminator_stage, self.remat, static=("stage",))
        x = EqualConv(self.widths[-1], 1, clamp=clamp)(image.astype(dtypes[-1]))
        for stage in reversed(range(1, len(self.widths))):
            x = discriminate(self, x.astype(dtypes[stage]), stage)
        x = x.astype(image.dtype)
        features = x.shape[-1]
        x = EqualConv(features, 3, clamp=clamp)(MinibatchStd(self.group_size, self.axis_name)(x))
        x = EqualDense(features, is_linear=False)(x.reshape(len(x), -1))
        if self.conditioning == "projection":
            embedding = normalized(EqualDense(features)(jax.nn.one_hot(label, self.num_classes)))
            embedding = MappingLayers(features, self.mapping_layers, name="Mapping_0")(embedding)
            return jnp.sum(EqualDense(features)(x) * embedding, axis=-1) / math.sqrt(features)
        logit = EqualDense(1)(x)[:, 0]
        label_init = nn.initializers.normal(features**-0.5)
        return LabelledLogit(self.num_classes, self.conditioning, label_init)(logit, x, label)


def _synthesis_stage(
    generator: Generator, x: Array, image: Array | None, styles: Array, stage: int, train: bool
) -> tuple[Array, Array]:
    """Within the generator: a stage, from x [B, h, w, C] and the image of the stage before to those of its size."""
    for layer in (2 * stage - 1, 2 * stage) if stage > 0 else (0,):
        x = generator.synthesis_layers[layer](x, styles[:, layer], train)
    # The image of a stage and the first convolution of the next stage have the same style.
    skip = generator.to_rgb[stage](x, styles[:, 2 * stage + 1]).astype(jnp.float32)
    return x, skip if image is None else upsample(image) + skip


def _discriminator_stage(discriminator: Discriminator, x: Array, stage: int) -> Array:
    """Within the discriminator: a stage, from x [B, H, W, C] to half of H and W."""
    features, clamp = discriminator.widths[stage - 1], discriminator.conv_clamp
    y = EqualConv(x.shape[-1], 3, clamp=clamp)(x)
    if discriminator.architecture != "resnet":
        return EqualConv(features, 3, is_downsampling=True, clamp=clamp)(y)
    # The sum of two terms of variance 1/2.
    skip = EqualConv(features, 1, is_downsampling=True, is_linear=True, gain=math.sqrt(0.5))(x)
    return skip + EqualConv(features, 3, is_downsampling=True, gain=math.sqrt(0.5), clamp=clamp)(y)
