"""The layers of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958): mapping, modulated convolutions, minibatch deviation.

Every weight is initially N(0, 1) and is scaled where it is used, so that Adam changes all layers at the same relative
rate (the equalized learning rate of Karras et al. 2018, arXiv:1710.10196, section 4.1).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.conv.plain import is_plain
from gan.networks.conv.primitives import conv, conv_transpose
from gan.networks.layers.conditioning import LabelledLatent
from gan.networks.layers.dropout import row_keys
from gan.networks.layers.resample import blur_after, blur_before, downsample

MAPPING_RATE = 0.01
"""The learning rate of the mapping layers, relative to all others (arXiv:1812.04948, appendix C)."""


class EqualDense(nn.Module):
    """a(rate (x W / sqrt(n) + b)) for n inputs, [B, n] to [B, features]; W is initially N(0, 1 / rate^2).

    The learning rate of the layer is `rate` times that of a layer of rate 1, with Adam. `a` is sqrt(2) times the leaky
    ReLU of slope 0.2, or the identity where `is_linear`.
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
    """gain a(x * W / sqrt(n) + b) for the n inputs of an output, [B, H, W, C] to [B, H, W, features], or half of H, W.

    `a` is as in `EqualDense`. Where `is_linear` it is the identity and there is no bias. Where `is_downsampling`, x is
    filtered with [1, 3, 3, 1] / 8 along both axes, 0 beyond the edge, before a convolution of stride 2.
    """

    features: int
    taps: int
    is_downsampling: bool = False
    is_linear: bool = False
    gain: float = 1.0
    clamp: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.taps, self.taps, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        kernel = (kernel / math.sqrt(math.prod(shape[:3]))).astype(x.dtype)
        if not self.is_downsampling:
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

    A dense layer makes a scale s_i of the style for each input channel i. The weights of an example are s_i w_ijk over
    sigma_j = sqrt(sum over i, k of (s_i w_ijk)^2 + 1e-8), for output channel j and tap k (section 2.2, equations 1 to
    3). Instead of these weights, x_i is scaled by s_i before the convolution and y_j by 1 / sigma_j after it, which is
    the same because a convolution is linear. So all examples share the weights, and sigma^2 = s^2 (sum over k of w^2)
    is a matrix product.

    Where `is_upsampling`, it is the transposed convolution of stride 2 and then the filter [1, 3, 3, 1] / 4 along both
    axes. `layer` seeds the fixed noise of evaluation.
    """

    features: int
    layer: int
    is_upsampling: bool = False
    clamp: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, style: Array, train: bool) -> Array:
        scales = EqualDense(x.shape[-1], bias_init=1.0)(style)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 3, x.shape[-1], self.features))
        norms = jax.lax.rsqrt(jnp.square(scales) @ jnp.sum(jnp.square(kernel), axis=(0, 1)) + 1e-8)
        x, kernel = _scaled(x, scales), kernel.astype(x.dtype)
        if self.is_upsampling:
            x = blur_after(conv_transpose(x, kernel.swapaxes(2, 3), stride=2, padding="VALID"))
        else:
            x = conv(x, kernel)
        strength = self.param("noise", nn.initializers.zeros, ())
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        x = _scaled(x, norms) + (strength * self._noise(x, train)).astype(x.dtype)
        return _activated(x + bias.reshape(1, 1, 1, -1), 1.0, self.clamp)

    def _noise(self, x: Array, train: bool) -> Array | np.ndarray:
        """N(0, 1) for each pixel: [B, H, W, 1] in training, and the layer's fixed [1, H, W, 1] in evaluation mode."""
        if not train:
            return (fixed_noise_array if is_plain() else fixed_noise)(self.layer, x.shape[1:3])
        keys = row_keys(self.make_rng("noise"), len(x), self.axis_name)
        return jax.vmap(lambda key: jax.random.normal(key, (*x.shape[1:3], 1)))(keys)


def fixed_noise(layer: int, size: tuple[int, ...]) -> Array:
    """The noise N(0, 1) [1, H, W, 1] of a layer in evaluation mode."""
    keys = jax.random.fold_in(jax.random.key(0), layer)[None]
    return jax.vmap(lambda key: jax.random.normal(key, (*size, 1)))(keys)


@functools.cache
def fixed_noise_array(layer: int, size: tuple[int, ...]) -> np.ndarray:
    """`fixed_noise` as a constant: a program that is exported draws no random numbers."""
    with jax.ensure_compile_time_eval():
        return np.asarray(fixed_noise(layer, size))


class ToRGB(nn.Module):
    """A modulated 1x1 convolution to the channels of the image, without demodulation, noise or activation."""

    channels: int
    clamp: float = 0.0

    @nn.compact
    def __call__(self, x: Array, style: Array) -> Array:
        inputs = x.shape[-1]
        scales = EqualDense(inputs, bias_init=1.0)(style) / math.sqrt(inputs)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (1, 1, inputs, self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,)).astype(x.dtype)
        x = conv(_scaled(x, scales), kernel.astype(x.dtype)) + bias.reshape(1, 1, 1, -1)
        return jnp.clip(x, -self.clamp, self.clamp) if self.clamp else x


class MappingLayers(nn.Module):
    """Dense layers with leaky ReLU and the relative learning rate MAPPING_RATE: [B, N] to [B, features]."""

    features: int
    layers: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(self.layers):
            x = EqualDense(self.features, MAPPING_RATE, is_linear=False)(x)
        return x


class MappingNetwork(nn.Module):
    """Latent [B, Z] and label [B] to a style [B, features]: both scaled to a mean square of 1, then `MappingLayers`."""

    features: int
    layers: int
    num_classes: int
    conditioning: str

    @nn.compact
    def __call__(self, latent: Array, label: Array) -> Array:
        if self.conditioning == "concat_embedding" and self.num_classes:
            embedding = EqualDense(self.features)(jax.nn.one_hot(label, self.num_classes))
            x = jnp.concatenate([normalized(latent), normalized(embedding)], axis=-1)
        else:
            x = normalized(LabelledLatent(self.num_classes, self.conditioning)(latent, label))
        return MappingLayers(self.features, self.layers, name="Mapping_0")(x)


class MinibatchStd(nn.Module):
    """x [B, H, W, C] with one more channel: the deviation within the group of the example, one number per group.

    It is the mean over pixels and channels of sqrt(variance over the group + 1e-8). A group is `group_size` consecutive
    examples of the whole batch, or all of a smaller batch; the authors' groups take every k-th example of a device.
    Where a device does not hold whole groups the examples of all devices are gathered.

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
            all_deviations = _deviations(jax.lax.all_gather(x, self.axis_name, tiled=True), group)
            first = jax.lax.axis_index(self.axis_name) * len(x)
            deviations = jax.lax.dynamic_slice_in_dim(all_deviations, first, len(x))
        shape = (*x.shape[:3], 1)
        return jnp.concatenate([x, jnp.broadcast_to(deviations.astype(x.dtype).reshape(-1, 1, 1, 1), shape)], axis=-1)


def _deviations(x: Array, group: int) -> Array:
    """[B, H, W, C] to the mean deviation of each example's group, float32 [B]."""
    grouped = x.astype(jnp.float32).reshape(-1, group, *x.shape[1:])
    variance = jnp.mean(jnp.square(grouped - jnp.mean(grouped, axis=1, keepdims=True)), axis=1)
    return jnp.repeat(jnp.mean(jnp.sqrt(variance + 1e-8), axis=(1, 2, 3)), group)


def _activated(x: Array, gain: float = 1.0, clamp: float = 0.0) -> Array:
    """gain sqrt(2) times the leaky ReLU, which keeps the variance at gain 1; clipped to gain * clamp if clamp > 0."""
    x = (gain * math.sqrt(2.0)) * jax.nn.leaky_relu(x, 0.2)
    return jnp.clip(x, -gain * clamp, gain * clamp) if clamp else x


def normalized(x: Array) -> Array:
    """x [B, N] scaled to a mean square of 1."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)


def _scaled(x: Array, scales: Array) -> Array:
    """Each channel of x [B, H, W, C] times its scale, [B, C]."""
    return x * scales[:, None, None, :].astype(x.dtype)
