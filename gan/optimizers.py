"""Optimizers by name, from optax, with traced hyperparameters.

An entry is `(hyperparams) -> optax.GradientTransformation`. `hyperparams` is any object with the attributes
`learning_rate`, `beta1`, `beta2`, `epsilon` and `weight_decay`. An optimizer ignores those that it does not use.
"""

from collections.abc import Callable, Mapping
from typing import Any

import optax

Optimizer = Callable[[Any], optax.GradientTransformation]


def adam(hyperparams: Any) -> optax.GradientTransformation:
    """Kingma and Ba 2015, arXiv:1412.6980, algorithm 1."""
    return optax.adam(hyperparams.learning_rate, hyperparams.beta1, hyperparams.beta2, hyperparams.epsilon)


def adamw(hyperparams: Any) -> optax.GradientTransformation:
    """Adam with decoupled weight decay: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2."""
    return optax.adamw(
        hyperparams.learning_rate,
        hyperparams.beta1,
        hyperparams.beta2,
        hyperparams.epsilon,
        weight_decay=hyperparams.weight_decay,
    )


def nadam(hyperparams: Any) -> optax.GradientTransformation:
    """Adam with Nesterov's momentum: Dozat 2016."""
    return optax.nadam(hyperparams.learning_rate, hyperparams.beta1, hyperparams.beta2, hyperparams.epsilon)


def adabelief(hyperparams: Any) -> optax.GradientTransformation:
    """Adam scaled by the gradient's deviation from its mean: Zhuang et al. 2020, arXiv:2010.07468, algorithm 2."""
    return optax.adabelief(hyperparams.learning_rate, hyperparams.beta1, hyperparams.beta2, hyperparams.epsilon)


def lion(hyperparams: Any) -> optax.GradientTransformation:
    """The sign of a momentum, with decoupled weight decay: Chen et al. 2023, arXiv:2302.06675, algorithm 2."""
    return optax.lion(
        hyperparams.learning_rate, hyperparams.beta1, hyperparams.beta2, weight_decay=hyperparams.weight_decay
    )


def rmsprop(hyperparams: Any) -> optax.GradientTransformation:
    """Updates scaled by the running root mean square of the gradient, with decay beta2: Tieleman and Hinton 2012."""
    return optax.rmsprop(hyperparams.learning_rate, decay=hyperparams.beta2, eps=hyperparams.epsilon)


def sgd(hyperparams: Any) -> optax.GradientTransformation:
    """Gradient descent with momentum beta1 (0: none): Polyak 1964."""
    return optax.sgd(hyperparams.learning_rate, momentum=hyperparams.beta1)


OPTIMIZERS: Mapping[str, Optimizer] = {
    "adam": adam,
    "adamw": adamw,
    "nadam": nadam,
    "adabelief": adabelief,
    "lion": lion,
    "rmsprop": rmsprop,
    "sgd": sgd,
}

DECAYING = ("adamw", "lion")
"""The optimizers that use a weight decay."""
