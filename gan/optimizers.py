"""Update rules by name, with every number traced. A leaf: optax does the work.

An entry is `(hyperparams) -> optax.GradientTransformation`, with `hyperparams` anything that has the numbers of one
player, `learning_rate`, `beta1`, `beta2`, `epsilon` and `weight_decay`. A rule that has no use for one ignores it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import optax

Optimizer = Callable[[Any], optax.GradientTransformation]


def adam(numbers: Any) -> optax.GradientTransformation:
    """Kingma and Ba 2015, arXiv:1412.6980, algorithm 1."""
    return optax.adam(numbers.learning_rate, numbers.beta1, numbers.beta2, numbers.epsilon)


def adamw(numbers: Any) -> optax.GradientTransformation:
    """Adam with decoupled weight decay: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2."""
    return optax.adamw(
        numbers.learning_rate, numbers.beta1, numbers.beta2, numbers.epsilon, weight_decay=numbers.weight_decay
    )


def nadam(numbers: Any) -> optax.GradientTransformation:
    """Adam with Nesterov's momentum: Dozat 2016."""
    return optax.nadam(numbers.learning_rate, numbers.beta1, numbers.beta2, numbers.epsilon)


def adabelief(numbers: Any) -> optax.GradientTransformation:
    """Steps scaled by the spread of the gradient around its mean: Zhuang et al. 2020, arXiv:2010.07468, algorithm 2."""
    return optax.adabelief(numbers.learning_rate, numbers.beta1, numbers.beta2, numbers.epsilon)


def lion(numbers: Any) -> optax.GradientTransformation:
    """The sign of a momentum, with decoupled weight decay: Chen et al. 2023, arXiv:2302.06675, algorithm 2."""
    return optax.lion(numbers.learning_rate, numbers.beta1, numbers.beta2, weight_decay=numbers.weight_decay)


def rmsprop(numbers: Any) -> optax.GradientTransformation:
    """Steps scaled by the gradients' root mean square, which keeps beta2 of its old value: Tieleman and Hinton 2012."""
    return optax.rmsprop(numbers.learning_rate, decay=numbers.beta2, eps=numbers.epsilon)


def sgd(numbers: Any) -> optax.GradientTransformation:
    """Gradient descent with momentum beta1 (0: none): Polyak 1964."""
    return optax.sgd(numbers.learning_rate, momentum=numbers.beta1)


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
"""The rules that have a use for a weight decay."""
