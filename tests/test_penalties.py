"""gan.penalties: closed forms on a linear and a quadratic critic, and their derivatives in the critic's weights."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from gan.penalties import PENALTIES, r1, r2

REAL, FAKE = jax.random.normal(jax.random.key(0), (2, 5, 2, 3, 1))
W = jnp.arange(6, dtype=jnp.float32).reshape(2, 3, 1)


def linear(images):
    return jnp.sum(images * W[None], axis=(1, 2, 3)) + 7.0


def quadratic(images):
    return jnp.sum(jnp.square(images), axis=(1, 2, 3)) / 2


def test_a_linear_critic_has_the_squared_norm_of_its_weights():
    # grad D = w everywhere: |w|^2 = 0 + 1 + 4 + 9 + 16 + 25 = 55, at real and at fake images.
    for penalty in PENALTIES.values():
        np.testing.assert_allclose(penalty(linear, REAL, FAKE), np.full(5, 55.0), rtol=1e-6)


def test_each_penalty_looks_at_its_own_images():
    # D = |x|^2 / 2 has grad D = x: the penalty is |x|^2 of each image.
    np.testing.assert_allclose(r1(quadratic, REAL, FAKE), np.sum(np.square(REAL), axis=(1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(r2(quadratic, REAL, FAKE), np.sum(np.square(FAKE), axis=(1, 2, 3)), rtol=1e-6)


def test_a_flat_critic_pays_nothing_and_has_finite_derivatives():
    def paid(scale):
        return jnp.mean(r1(lambda images: scale * linear(images), REAL, FAKE))

    # 55 s^2: zero at s = 0, and so is its derivative 110 s. A norm in place of the squared one would give NaN.
    assert paid(0.0) == 0.0
    assert jax.grad(paid)(0.0) == 0.0
    np.testing.assert_allclose(jax.grad(paid)(0.5), 55.0, rtol=1e-6)


def test_second_derivatives_pass_through():
    def paid(weights):
        return jnp.mean(r1(lambda images: jnp.tanh(jnp.sum(images * weights[None], axis=(1, 2, 3))), REAL, FAKE))

    check_grads(paid, (0.1 * W,), order=2, modes=["rev"], atol=1e-2, rtol=1e-2)
