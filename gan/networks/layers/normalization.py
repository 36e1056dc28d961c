"""Batch normalization with statistics of the whole batch: with one scale, with one per class, or one per example."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from gan.networks.layers.initializers import Initializer
from gan.networks.layers.row_sums import row_sums, spread

EPSILON = 1e-5
"""What is added to the variance."""


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last, with the statistics of the whole batch on every device.

    y = scale * (x - mean) / sqrt(var + 1e-5) + offset. The running statistics keep `momentum` of their old value.

    Reference: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        return _normalized(self, x, train, scale_init=self.scale_init)


class ConditionalBatchNorm(nn.Module):
    """Batch normalization with a scale and an offset [C] for each class, initially 1 and 0: x [B, ..., C], label [B].

    The statistics are those of the whole batch, of all classes together, as in `BatchNorm`.

    Reference: de Vries et al. 2017, arXiv:1707.00683, section 3; by class: Dumoulin et al. 2017, arXiv:1610.07629.
    """

    num_classes: int
    axis_name: str | None = None
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: Array, label: Array, train: bool) -> Array:
        x = _normalized(self, x, train, has_affine=False)
        shape = (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])
        scale = nn.Embed(self.num_classes, x.shape[-1], embedding_init=nn.initializers.ones, name="scale")(label)
        offset = nn.Embed(self.num_classes, x.shape[-1], embedding_init=nn.initializers.zeros, name="offset")(label)
        return x * scale.reshape(shape) + offset.reshape(shape)


class ModulatedBatchNorm(nn.Module):
    """Batch normalization whose scale and offset [C] are linear maps of a vector v of each example, [B, V].

    y = (1 + A v) (x - mean) / sqrt(var + 1e-5) + B v, without biases. The statistics are those of the whole batch.

    Reference: Brock et al. 2019, arXiv:1809.11096, appendix B, figure 15.
    """

    kernel_init: Initializer = nn.initializers.orthogonal()
    axis_name: str | None = None
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: Array, vector: Array, train: bool) -> Array:
        x = _normalized(self, x, train, has_affine=False)
        shape = (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])
        scale = nn.Dense(x.shape[-1], use_bias=False, kernel_init=self.kernel_init, name="scale")(vector)
        offset = nn.Dense(x.shape[-1], use_bias=False, kernel_init=self.kernel_init, name="offset")(vector)
        return x * (1.0 + scale.reshape(shape)) + offset.reshape(shape)


def _normalized(norm: nn.Module, x: Array, train: bool, **affine: Any) -> Array:
    """Within `norm`: x by the batch's statistics, over all devices, in training, and else by the running ones."""
    return Standardized(
        uses_running_stats=not train,
        momentum=norm.momentum,
        axis_name=norm.axis_name if train else None,
        name="BatchNorm_0",
        **affine,
    )(x)


class Standardized(nn.Module):
    """Flax's batch normalization, with the sums of training and of their gradients in two stages on GPU.

    In training x is standardized by its own mean and variance, which it adds to the running statistics; else by those.
    """

    uses_running_stats: bool
    momentum: float
    axis_name: str | None = None
    has_affine: bool = True
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size, given = x.shape[-1:], [x]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, size)
        running_var = self.variable("batch_stats", "var", jnp.ones, size)
        mean, var = running_mean.value, running_var.value
        if not self.uses_running_stats:
            mean, var = self._statistics(x)
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        mul = lax.rsqrt(var + EPSILON)
        if self.has_affine:
            given.append(self.param("scale", self.scale_init, size, jnp.float32))
            mul *= given[-1]
        wide = functools.partial(spread, x=x, in_stages=not self.uses_running_stats)
        y = (x - wide(mean)) * wide(mul)
        if self.has_affine:
            given.append(self.param("bias", nn.initializers.zeros, size, jnp.float32))
            y += wide(given[-1].astype(y.dtype))  # so that its gradient is summed in this type
        return y.astype(jnp.result_type(*given))

    def _statistics(self, x: Array) -> tuple[Array, Array]:
        """The mean and the variance of each channel, [C], over the rows of all devices."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, square = (total / (x.size // x.shape[-1]) for total in row_sums(x, jnp.square(x)))
        if self.axis_name is not None and not self.is_initializing():
            mean, square = lax.pmean((mean, square), self.axis_name)
        return mean, jnp.maximum(0.0, square - mean * mean)
