"""What several architectures share: initializers by name, resampling, normalization, dropout. Below every network file.

Layers that look at more than one example, or draw random numbers, know the mapped axis that the batch is split
over (`axis_name`), so that several devices compute what one would. Those that draw also know which rows of the batch
they are given (`rows`), so that an example's draws are the same with and without its batch-mates.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.config import specs
from gan.errors import UserError
from gan.rows import ALL, Rows

Initializer = Callable[..., Array]
B = TypeVar("B", bound=Callable)


def _normal(stddev: float = 1e-2) -> Initializer:
    return nn.initializers.normal(stddev)


def _truncated_normal(sd: float) -> Initializer:
    """N(0, sd^2) redrawn beyond two standard deviations, before any rescaling (as TensorFlow's of the same name)."""
    return nn.initializers.truncated_normal(stddev=sd)


def _xavier_uniform() -> Initializer:
    return nn.initializers.xavier_uniform()


def _xavier_normal() -> Initializer:
    return nn.initializers.xavier_normal()


def _fan_in_uniform() -> Initializer:
    """U(-1 / sqrt(n), 1 / sqrt(n)) for n inputs: what PyTorch's dense and convolutional layers begin with."""
    return nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _he_normal() -> Initializer:
    return nn.initializers.he_normal()


def _orthogonal(scale: float = 1.0) -> Initializer:
    return nn.initializers.orthogonal(scale)


INITIALIZERS: Mapping[str, Callable[..., Initializer]] = {
    "normal": _normal,
    "truncated_normal": _truncated_normal,
    "xavier_uniform": _xavier_uniform,
    "xavier_normal": _xavier_normal,
    "fan_in_uniform": _fan_in_uniform,
    "he_normal": _he_normal,
    "orthogonal": _orthogonal,
}


def initializer(text: str, field: str = "kernel_init") -> Initializer:
    """The initializer that a string such as `normal(0.02)` or `xavier_uniform` names, for the field that holds it."""
    return specs.call(INITIALIZERS, text, field)


def rematerialized(block: B, is_on: bool, static: tuple[str, ...] = ("train",)) -> B:
    """The block, or where `is_on` one that keeps its inputs alone, and computes the rest again for the gradient.

    Sums over a batch, statistics, are kept too: to compute them again would be to exchange them again between devices.
    Parameters, with their paths and initial values, and random draws are the same bits; outputs and gradients of every
    order are the same to rounding.

    Args:
      block: a class of modules, or a function whose first argument is the module that calls it.
      is_on: whether it is to be computed again.
      static: those of its arguments that are no arrays.

    Reference: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
    """
    if not is_on:
        return block
    arguments = inspect.signature(block.__call__ if isinstance(block, type) else block).parameters
    places = tuple(place for place, name in enumerate(arguments) if name in static)
    again = nn.remat(block, static_argnums=places, policy=_sums_over_the_batch)
    again.__name__ = block.__name__  # Flax names the parameters of a class by it
    return again


def _sums_over_the_batch(primitive: Any, *_: Any, **params: Any) -> bool:
    return primitive.name == "reduce_sum" and 0 in params["axes"]


def leaky_relu(x: Array, slope: float = 0.2) -> Array:
    """x where positive, slope * x elsewhere."""
    return jax.nn.leaky_relu(x, slope)


def smallest_stage(
    network: str, player: str, image_shape: tuple[int, int, int], widths: tuple[int, ...]
) -> tuple[int, int]:
    """(H, W) of the first stage of `widths`, where each stage doubles the one before and the last is the image.

    Raises `UserError` where there is none, or the image cannot be halved as often.
    """
    if not widths:
        raise UserError(f"config.{player}.widths=() leaves {network} without a stage; expected: one width or more")
    height, width, _ = image_shape
    factor = 2 ** (len(widths) - 1)
    if height % factor or width % factor:
        valid = tuple(factor * max(1, round(side / factor)) for side in (height, width))
        raise UserError(
            f"config.data.image_size={(height, width)} does not fit {network} with {len(widths)} widths, which needs "
            f"multiples of {factor}; nearest valid: {valid}"
        )
    return height // factor, width // factor


def stage_dtypes(stages: int, half: int, dtype: jnp.dtype) -> list[jnp.dtype]:
    """The type of each stage's computation, smallest image first: bfloat16 for the `half` largest, else `dtype`."""
    return [jnp.bfloat16 if stages - stage <= half else dtype for stage in range(stages)]


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last, with the statistics of the whole batch on every device.

    y = scale * (x - mean) / sqrt(var + 1e-5) + offset; the running statistics keep `momentum` of their old value.

    Reference: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        return _normalized(self, x, train, scale_init=self.scale_init)


class ConditionalBatchNorm(nn.Module):
    """Batch normalization whose scale and offset [C] are those of each example's label, at first 1 and 0.

    Its statistics are those of the whole batch, whatever its labels, as in `BatchNorm`.

    Reference: de Vries et al. 2017, arXiv:1707.00683, section 3; by class: Dumoulin et al. 2017, arXiv:1610.07629.
    """

    num_classes: int
    axis_name: str | None = None
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: Array, label: Array, train: bool) -> Array:
        x = _normalized(self, x, train, use_scale=False, use_bias=False)
        shape = (len(x), *[1] * (x.ndim - 2), x.shape[-1])
        scale = nn.Embed(self.num_classes, x.shape[-1], embedding_init=nn.initializers.ones, name="scale")(label)
        offset = nn.Embed(self.num_classes, x.shape[-1], embedding_init=nn.initializers.zeros, name="offset")(label)
        return x * scale.reshape(shape) + offset.reshape(shape)


class ModulatedBatchNorm(nn.Module):
    """Batch normalization whose scale and offset [C] are linear maps of each example's own vector v [B, V].

    y = (1 + A v) (x - mean) / sqrt(var + 1e-5) + B v, without biases. The statistics are those of the whole batch.

    Reference: Brock et al. 2019, arXiv:1809.11096, appendix B, figure 15.
    """

    kernel_init: Initializer = nn.initializers.orthogonal()
    axis_name: str | None = None
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: Array, vector: Array, train: bool) -> Array:
        x = _normalized(self, x, train, use_scale=False, use_bias=False)
        shape = (len(x), *[1] * (x.ndim - 2), x.shape[-1])
        scale = nn.Dense(x.shape[-1], use_bias=False, kernel_init=self.kernel_init, name="scale")(vector)
        offset = nn.Dense(x.shape[-1], use_bias=False, kernel_init=self.kernel_init, name="offset")(vector)
        return x * (1.0 + scale.reshape(shape)) + offset.reshape(shape)


class Dropout(nn.Module):
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate), in training only.

    Each example has a key of its own, made from its row in the whole batch, so that a batch split over devices
    loses the same elements as a batch on one, and a part of its rows the same as all of them.

    Reference: Srivastava et al. 2014, JMLR 15, section 10 (inverted form).
    """

    rate: float
    axis_name: str | None = None
    rows: Rows = ALL

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if not 0.0 <= self.rate < 1.0:
            raise UserError(f"dropout={self.rate} is no share; expected: 0 <= dropout < 1")
        if not train or self.rate == 0.0:
            return x
        keys = row_keys(self.make_rng("dropout"), x.shape[0], self.axis_name, self.rows)
        words = jax.vmap(_random_words, in_axes=(0, None))(keys, x.shape[1:])
        return jnp.where(words >= jnp.uint32(self.rate * 2**32), x / (1.0 - self.rate), 0.0)


def row_keys(key: Array, examples: int, axis_name: str | None, rows: Rows = ALL) -> Array:
    """A key for each of the device's examples, [B], made from its row in the whole batch, of which they are `rows`."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * examples * rows.every
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + rows.places(examples))


class LabelledLatent(nn.Module):
    """How a generator learns of the label: latent [B, Z] and label [B] to what the first layer takes, [B, Z or more].

    `conditioning` is "none"; "concat", the latent with the one-hot label behind it (Mirza and Osindero 2014,
    arXiv:1411.1784); "concat_embedding", with a learned vector of the label behind it, as long as the latent (Huang et
    al. 2024, arXiv:2501.05441), at first N(0, 1 / K) for K classes; or "embedding", the latent times a learned vector
    of the label, which keeps its size.
    """

    num_classes: int
    conditioning: str = "none"

    @nn.compact
    def __call__(self, latent: Array, label: Array) -> Array:
        valid = ("none", "concat", "concat_embedding", "embedding")
        check_conditioning("generator", self.conditioning, valid, self.num_classes)
        if self.conditioning == "concat":
            return jnp.concatenate([latent, jax.nn.one_hot(label, self.num_classes)], axis=-1)
        if self.conditioning == "concat_embedding":
            init = nn.initializers.normal(self.num_classes**-0.5)
            return jnp.concatenate(
                [latent, nn.Embed(self.num_classes, latent.shape[-1], embedding_init=init)(label)], axis=-1
            )
        if self.conditioning == "embedding":
            return latent * nn.Embed(self.num_classes, latent.shape[-1], embedding_init=_near_one)(label)
        return latent


class LabelledLogit(nn.Module):
    """How a discriminator learns of the label: its logit [B] and last features [B, F] to what it returns.

    `conditioning` is "none": the logit; "projection": the logit plus <embedding of the label, features> (Miyato and
    Koyama 2018, arXiv:1802.05637, equation 4); or "classifier": the logit and logits of the classes [B, K] (Odena et
    al. 2017, arXiv:1610.09585), which the classify_... penalties train.
    """

    num_classes: int
    conditioning: str = "none"
    kernel_init: Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, logit: Array, features: Array, label: Array) -> Array | tuple[Array, Array]:
        check_conditioning("discriminator", self.conditioning, ("none", "projection", "classifier"), self.num_classes)
        if self.conditioning == "projection":
            embedding = nn.Embed(self.num_classes, features.shape[-1], embedding_init=self.kernel_init)(label)
            return logit + jnp.sum(embedding * features, axis=-1)
        if self.conditioning == "classifier":
            return logit, nn.Dense(self.num_classes, kernel_init=self.kernel_init)(features)
        return logit


def check_conditioning(player: str, conditioning: str, valid: tuple[str, ...], num_classes: int) -> None:
    """Raises `UserError` for an unknown conditioning, and for a known one without classes to learn of."""
    if conditioning not in valid:
        raise UserError(f"config.{player}.conditioning={conditioning!r} is unknown; expected: {', '.join(valid)}")
    if conditioning != "none" and not num_classes:
        raise UserError(
            f"config.{player}.conditioning={conditioning!r} needs labels, and the dataset has none; expected: 'none'"
        )


def _normalized(norm: nn.Module, x: Array, train: bool, **affine: Any) -> Array:
    """x by the batch's statistics in training, over all devices, else by the running ones: for the classes above."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=norm.momentum,
        epsilon=1e-5,
        axis_name=norm.axis_name if train else None,
        **affine,
    )(x)


def _near_one(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    return 1.0 + 0.5 * jax.random.normal(key, shape, dtype)


def _random_words(key: Array, shape: tuple[int, ...]) -> Array:
    """Random uint32 words of a shape: a hash of the element's number and two words that JAX draws from the key.

    On a CPU JAX's own generator takes 190 ms for the 32x64x64x128 elements of a batch, as long as the convolution
    around them; this takes 32. The hash is the finalizer of MurmurHash3 (Appleby 2011, public domain), twice.
    """
    number = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    for word in jax.random.bits(key, (2,), jnp.uint32):
        number = number ^ word
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            number = (number ^ (number >> shift)) * jnp.uint32(factor)
        number = number ^ (number >> 16)
    return number.reshape(shape)
