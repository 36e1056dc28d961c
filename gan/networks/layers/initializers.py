"""Initializers by the names that a config uses, such as `normal(0.02)`."""

from collections.abc import Callable, Mapping

from flax import linen as nn
from jax import Array

from gan.config import specs

Initializer = Callable[..., Array]
"""`(key, shape, dtype) -> array`, as in `flax.linen.initializers`."""


def _normal(stddev: float = 1e-2) -> Initializer:
    return nn.initializers.normal(stddev)


def _truncated_normal(sd: float) -> Initializer:
    """N(0, sd^2), redrawn beyond two standard deviations, without rescaling (as TensorFlow's initializer)."""
    return nn.initializers.truncated_normal(stddev=sd)


def _xavier_uniform() -> Initializer:
    return nn.initializers.xavier_uniform()


def _xavier_normal() -> Initializer:
    return nn.initializers.xavier_normal()


def _fan_in_uniform() -> Initializer:
    """U(-1 / sqrt(n), 1 / sqrt(n)) for n inputs: the default of PyTorch's dense and convolutional layers."""
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
    """The initializer that a string such as `normal(0.02)` or `xavier_uniform` names.

    `field` is the name of the field that holds the string, for error messages. Raises `UserError` for an unknown name
    or wrong arguments.
    """
    return specs.call(INITIALIZERS, text, field)
