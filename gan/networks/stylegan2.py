"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), in the form of its ADA paper (the same year, arXiv:2006.06676).

A network file: generator and discriminator side by side, the layers that are theirs alone below them. `widths` are
listed from the smallest image to the largest in both players; n of them make images 2^(n - 1) times the size of the
learnt constant, which is 4x4 as published. At the sizes of configs/stylegan2.py the parameters are as many as in the
authors' own code, stylegan2-ada-pytorch.

Every weight begins as N(0, 1) and is scaled where it is used, so that Adam moves all layers at the same relative pace
(the equalized learning rate of Karras et al. 2018, arXiv:1710.10196, section 4.1).

With `remat` the stages are computed again for the gradient: less memory, the same network.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.conv.primitives import conv, conv_transpose
from gan.networks.layers import (
    LabelledLatent,
    LabelledLogit,
    check_conditioning,
    leaky_relu,
    rematerialized,
    row_keys,
    smallest_stage,
    stage_dtypes,
)
from gan.networks.resample import blur_after, blur_before, downsample, upsample

STYLE_MEAN = "style_mean"
"""Where, among the generator's batch statistics, the running mean of the styles w is kept."""
MEAN_DECAY = 0.995
"""How much of that mean stays at each update (the authors' code; in StyleGAN3's 0.998)."""
MAPPING_RATE = 0.01
"""The learning rate of the mapping layers, relative to all others (arXiv:1812.04948, appendix C)."""
ARCHITECTURES = ("orig", "resnet")


class Generator(nn.Module):
    """Latent [B, Z] to an image before its activation [B, H, W, C], with output skips.

    A mapping network makes a style w of the latent; all modulated convolutions read it, 2 n of them one after the
    other, the last of them the last image's. Each stage adds its image to the enlarged one of the stage before
    (section 4.1, figure 7). Training differs from use:

    - noise, a number per pixel times a learnt strength, is drawn for each example; in evaluation mode a layer has one
      fixed field of noise. It is a function of the layer's number, the same in every run, and not kept with the
      parameters: sample i of a seed is one image. (The authors draw it with the weights, and keep it.)
    - with probability `style_mixing` an example's layers from a random one on see the style of a second latent, drawn
      from N(0, 1) (arXiv:1812.04948, section 3.1; there the same layer for a whole batch).
    - a running mean of w is kept, to which evaluation mode draws all styles: w <- mean + truncation (w - mean). No
      image depends on it in training. (Once for each update of G; in the authors' code also where D sees its images. An
      averaged generator has the average of that mean, where theirs has the last one.)

    The stages of the `bfloat16_stages` largest images are computed in bfloat16, where the authors have float16, with
    weights and styles scaled so as not to overflow: bfloat16 reaches as far as float32. `conv_clamp` is theirs too, the
    largest size of an activation; 0: none. The published conditioning is "concat_embedding", where label and latent
    are normalized apart; the others are normalized together. A label's second latent has the same label.

    Styles pass through `perturb("styles", ...)`, [B, 2 n, W], for path length to take its slope there.
    """

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

    @nn.compact
    def __call__(self, latent: Array, label: Array, train: bool) -> Array:
        if not 0.0 <= self.style_mixing <= 1.0:
            raise UserError(f"config.generator.style_mixing={self.style_mixing}; expected: 0 <= style_mixing <= 1")
        for field in ("style_width", "mapping_layers"):
            if getattr(self, field) < 1:
                raise UserError(f"config.generator.{field}={getattr(self, field)}; expected: 1 or more")
        size = smallest_stage("stylegan2", "generator", self.image_shape, self.widths)
        types = stage_dtypes(len(self.widths), self.bfloat16_stages, latent.dtype)
        mapping = MappingNetwork(
            self.style_width, self.mapping_layers, self.num_classes, self.conditioning, name="LatentMapping_0"
        )
        w = mapping(latent, label)
        mean = self.variable("batch_stats", STYLE_MEAN, jnp.zeros, (self.style_width,))
        if not train and self.truncation != 1.0:
            w = (mean.value[None] + self.truncation * (w - mean.value[None])).astype(w.dtype)
        layers = 2 * len(self.widths)
        styles = jnp.broadcast_to(w[:, None], (len(w), layers, self.style_width))
        if train:
            here = jax.lax.stop_gradient(jnp.mean(w.astype(jnp.float32), axis=0))
            everywhere = here if self.axis_name is None else jax.lax.pmean(here, self.axis_name)
            mean.value = everywhere + MEAN_DECAY * (mean.value - everywhere)
            if self.style_mixing > 0.0:
                first, second = self._second_latents(latent, layers)
                is_second = jnp.arange(layers)[None, :, None] >= first[:, None, None]
                styles = jnp.where(is_second, mapping(second, label)[:, None], styles)
        styles = self.perturb("styles", styles)

        constant = self.param("constant", nn.initializers.normal(1.0), (*size, self.widths[0]))
        x = jnp.broadcast_to(constant[None], (len(latent), *constant.shape))
        image, made = None, rematerialized(_made, self.remat, static=("stage", "train"))
        for stage, dtype in enumerate(types):
            x, image = made(self, x.astype(dtype), image, styles, stage, train)
        return image

    def _second_latents(self, latent: Array, layers: int) -> tuple[Array, Array]:
        """For each example the first layer that sees its second latent, int32 [B], and that latent [B, Z]."""

        def draw(key: Array) -> tuple[Array, Array]:
            gate, place, value = jax.random.split(key, 3)
            first = jax.random.randint(place, (), 1, layers)
            is_mixed = jax.random.bernoulli(gate, self.style_mixing)
            return jnp.where(is_mixed, first, layers), jax.random.normal(value, latent.shape[1:], latent.dtype)

        return jax.vmap(draw)(row_keys(self.make_rng("style_mixing"), len(latent), self.axis_name))


class Discriminator(nn.Module):
    """Image [B, H, W, C] to logits [B], and logits of the classes [B, K] where it classifies.

    A 1x1 convolution; for each stage but the smallest two 3x3 convolutions, the second of them a halving, to which in
    the architecture "resnet" a halved 1x1 convolution is added (figure 7; in "orig" none); at the smallest stage the
    deviation within groups of `group_size` examples as a further map, a 3x3 convolution and two dense layers, in the
    type of the images.

    Its groups make a logit depend on other images. Slope penalties take the gradient of the summed logits all the same,
    as the authors do, what an image does to its group's logits included; their groups are of one batch, real or fake.

    The published conditioning is "projection" in a form of its own: a mapping network makes a vector of the label, and
    the logit is its product with the last layer's outputs over sqrt(maps). `bfloat16_stages` and `conv_clamp` are as
    the generator's.
    """

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

    @nn.compact
    def __call__(self, image: Array, label: Array, train: bool) -> Array | tuple[Array, Array]:
        if self.architecture not in ARCHITECTURES:
            raise UserError(
                f"config.discriminator.architecture={self.architecture!r} is unknown; "
                f"expected: {', '.join(ARCHITECTURES)}"
            )
        check_conditioning("discriminator", self.conditioning, ("none", "projection", "classifier"), self.num_classes)
        smallest_stage("stylegan2", "discriminator", self.image_shape, self.widths)
        types = stage_dtypes(len(self.widths), self.bfloat16_stages, image.dtype)
        clamp, seen = self.conv_clamp, rematerialized(_seen, self.remat, static=("stage",))
        x = EqualConv(self.widths[-1], 1, clamp=clamp)(image.astype(types[-1]))
        for stage in reversed(range(1, len(self.widths))):
            x = seen(self, x.astype(types[stage]), stage)
        x = x.astype(image.dtype)
        maps = x.shape[-1]
        x = EqualConv(maps, 3, clamp=clamp)(MinibatchStd(self.group_size, self.axis_name)(x))
        x = EqualDense(maps, is_linear=False)(x.reshape(len(x), -1))
        if self.conditioning == "projection":
            told = _normalized(EqualDense(maps)(jax.nn.one_hot(label, self.num_classes)))
            told = Mapping(maps, self.mapping_layers)(told)
            return jnp.sum(EqualDense(maps)(x) * told, axis=-1) / math.sqrt(maps)
        logit = EqualDense(1)(x)[:, 0]
        label_init = nn.initializers.normal(maps**-0.5)
        return LabelledLogit(self.num_classes, self.conditioning, label_init)(logit, x, label)


def _made(
    generator: Generator, x: Array, image: Array | None, styles: Array, stage: int, train: bool
) -> tuple[Array, Array]:
    """Within the generator: a stage, from x [B, h, w, C] and the image of the stage before to those of its size."""
    width, clamp = generator.widths[stage], generator.conv_clamp
    layer = max(2 * stage - 1, 0)  # the first stage has one convolution, all others two
    for is_enlarging in (True, False) if stage > 0 else (False,):
        synthesis = SynthesisLayer(
            width, layer, is_enlarging, clamp, generator.axis_name, name=f"StyledConv_{layer}"
        )  # fmt: skip
        x = synthesis(x, styles[:, layer], train)
        layer += 1
    # The next stage's first convolution sees the same style as this image.
    to_rgb = ToRGB(generator.image_shape[2], clamp, name=f"StyledImage_{stage}")
    part = to_rgb(x, styles[:, layer]).astype(jnp.float32)
    return x, part if image is None else upsample(image) + part


def _seen(discriminator: Discriminator, x: Array, stage: int) -> Array:
    """Within the discriminator: a stage, from x [B, H, W, C] to half of H and W."""
    width, clamp = discriminator.widths[stage - 1], discriminator.conv_clamp
    y = EqualConv(x.shape[-1], 3, clamp=clamp)(x)
    if discriminator.architecture != "resnet":
        return EqualConv(width, 3, is_halving=True, clamp=clamp)(y)
    # Two terms of variance 1/2.
    skip = EqualConv(width, 1, is_halving=True, is_linear=True, gain=math.sqrt(0.5))(x)
    return skip + EqualConv(width, 3, is_halving=True, gain=math.sqrt(0.5), clamp=clamp)(y)


class EqualDense(nn.Module):
    """a(rate (x W / sqrt(n) + b)) for n inputs, [B, n] to [B, features]; at first W is N(0, 1 / rate^2).

    A step of Adam's is worth `rate` of what it is in a layer of rate 1. `a` is sqrt(2) times the leaky ReLU of slope
    0.2, or the identity where `is_linear`.
    """

    features: int
    rate: float = 1.0
    bias_init: float = 0.0
    is_linear: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.normal(1.0 / self.rate), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.constant(self.bias_init), (self.features,))
        x = x @ (kernel * (self.rate / math.sqrt(x.shape[-1]))) + self.rate * bias[None]
        return x if self.is_linear else _activated(x)


class EqualConv(nn.Module):
    """gain a(x * W / sqrt(n) + b) for n inputs of a pixel, [B, H, W, C] to [B, H, W, features], or half the size.

    `a` is as in `EqualDense`; where `is_linear` there is no bias either. A halving filters with [1, 3, 3, 1] / 8 along
    both axes, 0 beyond the edge, and then convolves with stride 2.
    """

    features: int
    taps: int
    is_halving: bool = False
    is_linear: bool = False
    gain: float = 1.0
    clamp: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.taps, self.taps, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        kernel = (kernel / math.sqrt(math.prod(shape[:3]))).astype(x.dtype)
        if not self.is_halving:
            x = conv(x, kernel)
        elif self.taps == 1:
            x = conv(downsample(x), kernel)
        else:
            x = conv(blur_before(x), kernel, stride=2, padding="VALID")
        if self.is_linear:
            return self.gain * x
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        return _activated(x + bias.reshape(1, 1, 1, -1), self.gain, self.clamp)


class SynthesisLayer(nn.Module):
    """A modulated 3x3 convolution, noise, bias and leaky ReLU: [B, H, W, C] and a style [B, W] to [B, H, W, features].

    A dense layer makes a scale s_i of the style for each input map. The weights of an example are s_i w_ijk, over the
    norm of all that lead to output j, sigma_j = sqrt(sum over i, k of (s_i w_ijk)^2 + 1e-8) (section 2.2, equations 1
    to 3). A convolution is linear in its inputs and in its outputs, and s_i belongs to an input and 1 / sigma_j to an
    output: so x_i is scaled by s_i before it and y_j by 1 / sigma_j after it, and the weights are the same for all
    examples; sigma^2 = s^2 (sum over k of w^2) is a matrix product.

    An enlarging one is the transposed convolution of stride 2 and then the filter [1, 3, 3, 1] / 4 along both axes.
    """

    features: int
    layer: int
    is_enlarging: bool = False
    clamp: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, style: Array, train: bool) -> Array:
        scales = EqualDense(x.shape[-1], bias_init=1.0)(style)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 3, x.shape[-1], self.features))
        norms = jax.lax.rsqrt(jnp.square(scales) @ jnp.sum(jnp.square(kernel), axis=(0, 1)) + 1e-8)
        x, kernel = _scaled(x, scales), kernel.astype(x.dtype)
        if self.is_enlarging:
            x = blur_after(conv_transpose(x, kernel.swapaxes(2, 3), stride=2, padding="VALID"))
        else:
            x = conv(x, kernel)
        strength = self.param("noise", nn.initializers.zeros, ())
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        x = _scaled(x, norms) + (strength * self._noise(x, train)).astype(x.dtype)
        return _activated(x + bias.reshape(1, 1, 1, -1), 1.0, self.clamp)

    def _noise(self, x: Array, train: bool) -> Array:
        """N(0, 1) for each pixel, [B, H, W, 1] in training, and [1, H, W, 1] of this layer in evaluation mode."""
        if train:
            keys = row_keys(self.make_rng("noise"), len(x), self.axis_name)
        else:
            keys = jax.random.fold_in(jax.random.key(0), self.layer)[None]
        return jax.vmap(lambda key: jax.random.normal(key, (*x.shape[1:3], 1)))(keys)


class ToRGB(nn.Module):
    """A modulated 1x1 convolution to the channels of the image, without demodulation, noise or activation."""

    channels: int
    clamp: float = 0.0

    @nn.compact
    def __call__(self, x: Array, style: Array) -> Array:
        maps = x.shape[-1]
        scales = EqualDense(maps, bias_init=1.0)(style) / math.sqrt(maps)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (1, 1, maps, self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,)).astype(x.dtype)
        x = conv(_scaled(x, scales), kernel.astype(x.dtype)) + bias.reshape(1, 1, 1, -1)
        return jnp.clip(x, -self.clamp, self.clamp) if self.clamp else x


class Mapping(nn.Module):
    """Dense layers with leaky ReLUs that learn at MAPPING_RATE: [B, N] to [B, features]."""

    features: int
    layers: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(self.layers):
            x = EqualDense(self.features, MAPPING_RATE, is_linear=False)(x)
        return x


class MappingNetwork(nn.Module):
    """Latent [B, Z] and label [B] to a style [B, features]: both scaled to a mean square of 1, then `Mapping`."""

    features: int
    layers: int
    num_classes: int
    conditioning: str

    @nn.compact
    def __call__(self, latent: Array, label: Array) -> Array:
        if self.conditioning == "concat_embedding" and self.num_classes:
            told = EqualDense(self.features)(jax.nn.one_hot(label, self.num_classes))
            x = jnp.concatenate([_normalized(latent), _normalized(told)], axis=-1)
        else:
            x = _normalized(LabelledLatent(self.num_classes, self.conditioning)(latent, label))
        return Mapping(self.features, self.layers)(x)


class MinibatchStd(nn.Module):
    """x [B, H, W, C] with a further map: how much the examples of a group differ, a number for each group.

    It is the mean over pixels and channels of sqrt(variance over the group + 1e-8). Groups are `group_size` consecutive
    examples of the whole batch, or all of a smaller batch; the authors' are of every k-th example of a device's
    share. Where a device does not hold whole groups the examples of all devices are gathered.

    Raises `UserError` where groups do not divide the batch.

    Reference: Karras et al. 2018, arXiv:1710.10196, section 3; in groups: arXiv:1912.04958, appendix B.
    """

    group_size: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        devices = 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)
        batch = devices * len(x)
        group = min(self.group_size, batch)
        if group < 1 or batch % group:
            valid = ", ".join(str(size) for size in range(1, batch + 1) if batch % size == 0)
            raise UserError(
                f"config.discriminator.group_size={self.group_size} does not divide the {batch} examples that an "
                f"update sees at once; expected: {valid}, or more than {batch} for one group of all"
            )
        if len(x) % group == 0:
            deviations = _deviations(x, group)
        else:
            everyone = _deviations(jax.lax.all_gather(x, self.axis_name, tiled=True), group)
            first = jax.lax.axis_index(self.axis_name) * len(x)
            deviations = jax.lax.dynamic_slice_in_dim(everyone, first, len(x))
        shape = (*x.shape[:3], 1)
        return jnp.concatenate([x, jnp.broadcast_to(deviations.astype(x.dtype).reshape(-1, 1, 1, 1), shape)], axis=-1)


def _deviations(x: Array, group: int) -> Array:
    """[B, H, W, C] to the mean deviation of each example's group, float32 [B]."""
    grouped = x.astype(jnp.float32).reshape(-1, group, *x.shape[1:])
    variance = jnp.mean(jnp.square(grouped - jnp.mean(grouped, axis=1, keepdims=True)), axis=1)
    return jnp.repeat(jnp.mean(jnp.sqrt(variance + 1e-8), axis=(1, 2, 3)), group)


def _activated(x: Array, gain: float = 1.0, clamp: float = 0.0) -> Array:
    """gain sqrt(2) times the leaky ReLU, about as large as x at gain 1; within gain * clamp, where there is a clamp."""
    x = (gain * math.sqrt(2.0)) * leaky_relu(x)
    return jnp.clip(x, -gain * clamp, gain * clamp) if clamp else x


def _normalized(x: Array) -> Array:
    """x [B, N] scaled to a mean square of 1."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)


def _scaled(x: Array, scales: Array) -> Array:
    """Each map of x [B, H, W, C] times its scale, [B, C]."""
    return x * scales[:, None, None, :].astype(x.dtype)
