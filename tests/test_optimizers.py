"""gan.optimizers: the first updates of each optimizer by hand, with traced hyperparameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from players import hyperparams

from gan.optimizers import DECAYING, OPTIMIZERS

RATE = 0.1


def stepped(name, gradients, start=2.0, **numbers):
    """The parameter after one update for each gradient, compiled with the hyperparameters as arguments."""

    @jax.jit
    def train(numbers):
        rule, value = OPTIMIZERS[name](numbers), jnp.float32(start)
        position = rule.init(value)
        for gradient in gradients:
            update, position = rule.update(jnp.float32(gradient), position, value)
            value = optax.apply_updates(value, update)
        return value

    return float(train(hyperparams(RATE, **numbers).generator))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("adam", 2 - 0.1),  # both moments are corrected: g / |g| = 1
        ("adamw", 2 - 0.1 * (1 + 0.01 * 2)),  # plus 0.01 of the weight
        ("nadam", 2 - 0.1 * (0.5 * 0.5 / 0.75 + 1)),  # b m / (1 - b^2) + g, with m = (1 - b) g, over |g|
        ("adabelief", 2 - 0.1 * 3 / 1.5),  # the spread is (g - m)^2 = 1.5^2 once corrected, the mean g = 3
        ("lion", 2 - 0.1 * (1 + 0.01 * 2)),  # the sign of the gradient
        ("rmsprop", 2 - 0.1 / np.sqrt(0.001)),  # an uncorrected second moment of 0.001 g^2
        ("sgd", 2 - 0.1 * 3),
    ],
)
def test_the_first_update(name, expected):
    decay = 0.01 if name in DECAYING else 0.0
    np.testing.assert_allclose(stepped(name, [3.0], weight_decay=decay), expected, rtol=1e-4)


def test_momentum_of_gradient_descent():
    # Updates of 0.1 * 3 and 0.1 * (0.5 * 3 + 1).
    np.testing.assert_allclose(stepped("sgd", [3.0, 1.0], beta1=0.5), 2 - 0.3 - 0.25, rtol=1e-6)
    np.testing.assert_allclose(stepped("sgd", [3.0, 1.0], beta1=0.0), 2 - 0.3 - 0.1, rtol=1e-6)


def test_every_optimizer_is_tested():
    tried = {case[0] for case in test_the_first_update.pytestmark[0].args[1]}
    assert tried == set(OPTIMIZERS)
