"""The layers of GAT (Hyun, Lee and Heo 2025, arXiv:2509.24935), after the authors' code: blocks of two transformers.

Tokens are [B, T, width], one for each patch of the image, row by row. The kernels of dense layers are initially Xavier
uniform, and biases zero. Norms, softmax and rotations are computed in float32 in any type of computation.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from gan.networks.layers.conditioning import LabelledLatent
from gan.networks.layers.initializers import Initializer
from gan.networks.stylegan2_layers import MAPPING_RATE, normalized

LABEL_SD = 0.02
"""Standard deviation of the initial vectors of the labels, and of the class token."""
BRANCH_GAIN = 0.1
"""The initial scale of D's branches, and the authors' gain of the initial kernels that modulate G's."""
LEAST_INFORMATION = 0.125
"""The weight of the first level's image where its noise has one of 1 - 0.125, before NOISE_FLOOR is added."""
NOISE_FLOOR = 0.01
"""The weight of the noise of the last level."""

RMSNorm = functools.partial(nn.RMSNorm, epsilon=1e-6)
"""x / sqrt(mean(x^2) + 1e-6) over the features, times a learned scale."""


def xavier(gain: float = 1.0) -> Initializer:
    """U(-b, b) with b = gain sqrt(6 / (inputs + outputs))."""
    return nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")


Dense = functools.partial(nn.Dense, kernel_init=xavier())


class Attention(nn.Module):
    """Self-attention of tokens [B, T, width] to the same, with `heads` heads of d = width / heads features.

    softmax over j of <R_i q_i, R_j k_j> / sqrt(d), times v_j. Queries and keys are normalized (`RMSNorm` over d with a
    scale, epsilon 2^-23), then rotated by the angles of their patch (`rotations`).
    """

    heads: int

    @nn.compact
    def __call__(self, x: Array, cos: np.ndarray, sin: np.ndarray) -> Array:
        width = x.shape[-1]
        tokens = Dense(3 * width, name="qkv")(x).reshape(*x.shape[:2], 3, self.heads, width // self.heads)
        query, key, value = jnp.unstack(tokens, axis=2)
        norm = functools.partial(nn.RMSNorm, epsilon=2.0**-23)
        query, key = _rotated(norm(name="query_norm")(query), cos, sin), _rotated(norm(name="key_norm")(key), cos, sin)
        scores = jnp.einsum("bihd,bjhd->bhij", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores * (width // self.heads) ** -0.5).astype(x.dtype)
        attended = jnp.einsum("bhij,bjhd->bihd", weights, value)
        return Dense(width, name="output")(attended.reshape(x.shape))


class SwiGLU(nn.Module):
    """W3 (silu(W1 x) * W2 x) with 8 / 3 times the features, as many parameters as four times without the product.

    Reference: Shazeer 2020, GLU Variants Improve Transformer, arXiv:2002.05202.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gates, values = jnp.split(Dense(2 * (8 * x.shape[-1] // 3), name="hidden")(x), 2, axis=-1)
        return Dense(x.shape[-1], name="output")(jax.nn.silu(gates) * values)


class GeneratorBlock(nn.Module):
    """x + g1 Attention(N(x) (1 + s1)), then x + g2 SwiGLU(N(x) (1 + s2)), N the RMS norm without a scale.

    The scales s and gates g, [B, width] each, are one dense layer of silu(style), whose initial kernel has the gain
    `modulation_gain`: small in the paper (section 3.1).
    """

    heads: int
    modulation_gain: float = BRANCH_GAIN

    @nn.compact
    def __call__(self, x: Array, style: Array, cos: np.ndarray, sin: np.ndarray) -> Array:
        modulation = nn.Dense(4 * x.shape[-1], kernel_init=xavier(self.modulation_gain), name="modulation")
        scale, gate, mlp_scale, mlp_gate = jnp.split(modulation(jax.nn.silu(style))[:, None], 4, axis=-1)
        norm = RMSNorm(use_scale=False)
        x = x + gate * Attention(self.heads)(norm(x) * (1.0 + scale), cos, sin)
        return x + mlp_gate * SwiGLU()(norm(x) * (1.0 + mlp_scale))


class ToImage(nn.Module):
    """Tokens [B, T, width] to patches [B, T, features]: a dense layer of N(x) (1 + s), s as in `GeneratorBlock`."""

    features: int
    modulation_gain: float = BRANCH_GAIN

    @nn.compact
    def __call__(self, x: Array, style: Array) -> Array:
        modulation = nn.Dense(x.shape[-1], kernel_init=xavier(self.modulation_gain), name="modulation")
        scale = modulation(jax.nn.silu(style))[:, None]
        return Dense(self.features, name="patches")(RMSNorm(use_scale=False)(x) * (1.0 + scale))


class TransformerBlock(nn.Module):
    """x + a1 Attention(N(x)), then x + a2 SwiGLU(N(x)), with learned scales a [width], initially BRANCH_GAIN."""

    heads: int

    @nn.compact
    def __call__(self, x: Array, cos: np.ndarray, sin: np.ndarray) -> Array:
        def scaled(branch: Array, name: str) -> Array:
            scale = self.param(name, nn.initializers.constant(BRANCH_GAIN), (x.shape[-1],))
            return branch * scale.reshape(1, 1, -1)

        x = x + scaled(Attention(self.heads)(RMSNorm(name="attention_norm")(x), cos, sin), "attention_scale")
        return x + scaled(SwiGLU()(RMSNorm(name="mlp_norm")(x)), "mlp_scale")


class PatchTokens(nn.Module):
    """Image [B, H, W, C] to tokens [B, 1 + T, width]: a learned class token, then patches by a dense layer, placed."""

    width: int
    patch_size: int

    @nn.compact
    def __call__(self, image: Array) -> Array:
        size = image.shape[1] // self.patch_size, image.shape[2] // self.patch_size
        x = Dense(self.width, name="patches")(patches(image, self.patch_size))
        x = x + jnp.asarray(positions(size, self.width), x.dtype)[None]
        token = self.param("class_token", nn.initializers.normal(LABEL_SD), (self.width,)).astype(x.dtype)
        return jnp.concatenate([jnp.broadcast_to(token.reshape(1, 1, -1), (len(x), 1, self.width)), x], axis=1)


class SlowDense(nn.Module):
    """r (x W + b) with r = MAPPING_RATE, the relative learning rate of the layer with Adam; W is Xavier's over r."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", xavier(1.0 / MAPPING_RATE), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x @ (kernel * MAPPING_RATE) + (bias * MAPPING_RATE).reshape(1, -1)


class MappingNetwork(nn.Module):
    """Latent [B, Z] and label [B] to a style [B, features]: two slow dense layers with silu between them.

    The published conditioning is "concat_embedding": a learned vector of the label, with Z numbers, before the latent,
    both scaled to a mean square of 1. With any other what enters is scaled as a whole.
    """

    features: int
    num_classes: int
    conditioning: str

    @nn.compact
    def __call__(self, latent: Array, label: Array) -> Array:
        if self.conditioning == "concat_embedding" and self.num_classes:
            vector = nn.Embed(self.num_classes, latent.shape[-1], embedding_init=nn.initializers.normal(LABEL_SD))
            x = jnp.concatenate([normalized(vector(label)), normalized(latent)], axis=-1)
        else:
            x = normalized(LabelledLatent(self.num_classes, self.conditioning)(latent, label))
        x = jax.nn.silu(SlowDense(self.features)(x))
        return SlowDense(self.features)(x)


class LabelVector(nn.Module):
    """Label [B] to the vector [B, features] with which D's last features are multiplied."""

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, label: Array) -> Array:
        init = nn.initializers.normal(LABEL_SD)
        x = nn.Embed(self.num_classes, self.features, embedding_init=init)(label)
        x = jax.nn.silu(SlowDense(self.features)(x))
        return SlowDense(self.features)(x)


def patches(image: Array, patch_size: int) -> Array:
    """[B, H, W, C] to patches [B, T, patch_size^2 C], row by row; within a patch pixels row by row, then channels."""
    batch, height, width, channels = image.shape
    x = image.reshape(batch, height // patch_size, patch_size, width // patch_size, patch_size, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, patch_size**2 * channels)


def image_of(patches: Array, size: tuple[int, int], patch_size: int) -> Array:
    """The inverse of `patches`, for (rows, columns) of patches."""
    rows, columns = size
    x = patches.reshape(-1, rows, columns, patch_size, patch_size, patches.shape[-1] // patch_size**2)
    return x.swapaxes(2, 3).reshape(-1, rows * patch_size, columns * patch_size, x.shape[-1])


def positions(size: tuple[int, int], features: int) -> np.ndarray:
    """Fixed vectors of the places of patches, float32 [T, features] for (rows, columns) of them.

    The first half is of the column c, the second of the row r: sin(c w_k), then cos(c w_k), with w_k = 10000^(-k / n)
    for k < n = features / 4.
    """
    count = features // 4
    frequencies = 10000.0 ** (-np.arange(count) / count)
    rows, columns = (place.reshape(-1, 1) * frequencies for place in np.indices(size))
    return np.concatenate([np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)], axis=1).astype(np.float32)


def rotations(size: tuple[int, int], features: int, free: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of the angles of each token's pairs of features, float32 [free + T, features] each.

    `free` tokens come before the patches and are not rotated. The angles of a patch in row r and column c are r w_k in
    the first half of the features and c w_k in the second, one for two consecutive features, with w_k = 10000^(-k / n)
    for k < n = features / 4.

    Reference: Su et al. 2021, RoFormer, arXiv:2104.09864, along two axes.
    """
    count = features // 4
    frequencies = np.repeat(10000.0 ** (-np.arange(count) / count), 2)
    angles = np.concatenate([place.reshape(-1, 1) * frequencies for place in np.indices(size)], axis=1)
    angles = np.pad(angles, ((free, 0), (0, 0)))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def noise_weights(levels: int) -> tuple[float, ...]:
    """The weight t of the noise in each level, from the first to the last: 1 - 0.125^(1 - k / (levels - 1)) + 0.01.

    For four levels 0.885, 0.76, 0.51 and 0.01. A single level has no noise.
    """
    if levels == 1:
        return (0.0,)
    return tuple(1.0 - LEAST_INFORMATION ** (1.0 - level / (levels - 1)) + NOISE_FLOOR for level in range(levels))


def noised(images: Array, noise: Array) -> Array:
    """Each level k as (1 - t_k) x + t_k e_k, with e_k ~ N(0, 1) where `noise` is, both [B, H, W, levels, C].

    The noises of the levels are correlated: from the last to the first, the noise of a level is that of the level after
    it, scaled as the image is, and new noise: t e = (1 - t) / (1 - t') t' e' + sqrt(t^2 - ((1 - t) / (1 - t') t')^2) n.
    This is the authors' code; their paper states the weights a and sqrt(1 - a^2).
    """
    weights = noise_weights(images.shape[3])
    total, before, made = jnp.zeros_like(images[..., 0, :]), 0.0, []
    for level in reversed(range(len(weights))):
        weight = weights[level]
        kept = (1.0 - weight) / (1.0 - before)
        total = kept * total + math.sqrt(weight**2 - (kept * before) ** 2) * noise[..., level, :]
        made.append((1.0 - weight) * images[..., level, :] + total)
        before = weight
    return jnp.stack(made[::-1], axis=3)


def _rotated(x: Array, cos: np.ndarray, sin: np.ndarray) -> Array:
    """Each pair of features of x [B, T, heads, d] turned by its angle: (a, b) to (a cos - b sin, b cos + a sin)."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    cos, sin = cos[None, :, None], sin[None, :, None]
    return (x * cos + turned * sin).astype(x.dtype)
