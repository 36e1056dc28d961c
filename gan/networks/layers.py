"""What several architectures share: initialisers by name, normalisation, dropout. Below every network file.

Layers that look at more than one example, or draw random numbers, know the mapped axis that the batch is split
over (`axis_name`), so that several devices compute what one would.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan import names

Initializer = Callable[..., Array]


def _truncated_normal(sd: float) -> Initializer:
    """N(0, sd^2) redrawn beyond two standard deviations, before any rescaling (as TensorFlow's of the same name)."""
    return nn.initializers.truncated_normal(stddev=sd)


def _xavier_uniform() -> Initializer:
    return nn.initializers.xavier_uniform()


def _xavier_normal() -> Initializer:
    return nn.initializers.xavier_normal()


def _he_normal() -> Initializer:
    return nn.initializers.he_normal()


INITIALIZERS: Mapping[str, Callable[..., Initializer]] = {
    "normal": nn.initializers.normal,
    "truncated_normal": _truncated_normal,
    "xavier_uniform": _xavier_uniform,
    "xavier_normal": _xavier_normal,
    "he_normal": _he_normal,
    "orthogonal": nn.initializers.orthogonal,
}


def initializer(text: str) -> Initializer:
    """The initialiser that a string such as `normal(0.02)` or `xavier_uniform` names."""
    return names.call(INITIALIZERS, text, "kernel_init")


def leaky_relu(x: Array, slope: float = 0.2) -> Array:
    """x where positive, slope * x elsewhere."""
    return jax.nn.leaky_relu(x, slope)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with the statistics of the whole batch on every device.

    y = scale * (x - mean) / sqrt(var + 1e-5) + offset; the running statistics keep `momentum` of their old value.

    Reference: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=1e-5,
            axis_name=self.axis_name if train else None,
            scale_init=self.scale_init,
        )(x)


class Dropout(nn.Module):
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate), in training only.

    Each example has a key of its own, made from its row in the whole batch, so that a batch split over devices
    loses the same elements as a batch on one.

    Reference: Srivastava et al. 2014, JMLR 15, section 10 (inverted form).
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if not train or self.rate == 0.0:
            return x
        key = self.make_rng("dropout")
        first = 0 if self.axis_name is None else jax.lax.axis_index(self.axis_name) * x.shape[0]
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + jnp.arange(x.shape[0]))
        keep = jax.vmap(lambda row: jax.random.bernoulli(row, 1.0 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1.0 - self.rate), 0.0)
