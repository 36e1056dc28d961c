"""gan.losses: closed forms at known logits, first and second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from gan.errors import UserError
from gan.losses import LOSSES, binary_cross_entropy, label_smoothed

ZERO = jnp.zeros(3)


def test_discriminator_loss_at_zero_logits_is_2_ln_2():
    # softplus(0) = ln 2, once for the real and once for the fake.
    for name in ("minimax", "non_saturating", "label_smoothed"):
        np.testing.assert_allclose(LOSSES[name]().discriminator(ZERO, ZERO), 2 * np.log(2), rtol=1e-6)


def test_generator_losses_at_zero_logits():
    # -log sigmoid(0) = ln 2, and log(1 - sigmoid(0)) = -ln 2.
    np.testing.assert_allclose(LOSSES["non_saturating"]().generator(ZERO, ZERO), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(LOSSES["minimax"]().generator(ZERO, ZERO), -np.log(2), rtol=1e-6)


def test_a_discriminator_that_wins_pays_nothing_and_one_that_loses_pays_its_margins():
    loss = LOSSES["non_saturating"]().discriminator
    np.testing.assert_allclose(loss(jnp.float32([30.0]), jnp.float32([-30.0])), 0.0, atol=1e-6)
    # softplus(30) is 30 + log(1 + e^-30), twice.
    np.testing.assert_allclose(loss(jnp.float32([-30.0]), jnp.float32([30.0])), 60.0, rtol=1e-6)


def test_minimax_saturates_where_the_discriminator_wins_and_non_saturating_does_not():
    fake = jnp.float32(-10.0)
    gradients = {name: jax.grad(LOSSES[name]().generator, argnums=1)(fake, fake) for name in LOSSES}
    # d/df -softplus(f) = -sigmoid(-10) = -4.54e-5; d/df softplus(-f) = -sigmoid(10) = -0.99995.
    np.testing.assert_allclose(gradients["minimax"], -4.5398e-5, rtol=1e-3)
    np.testing.assert_allclose(gradients["non_saturating"], -0.9999546, rtol=1e-6)


@pytest.mark.parametrize("real_label, fake_label", [(0.9, 0.0), (0.9, 0.1), (1.0, 0.3), (0.6, 0.2)])
def test_smoothed_labels_are_cross_entropies_with_a_finite_best_logit(real_label, fake_label):
    loss = label_smoothed(real_label, fake_label).discriminator
    # softplus(0) = ln 2 with the weights a + (1 - a) and b + (1 - b).
    np.testing.assert_allclose(loss(ZERO, ZERO), 2 * np.log(2), rtol=1e-6)
    real, fake = jax.random.normal(jax.random.key(0), (2, 5))
    cross_entropy = optax.sigmoid_binary_cross_entropy
    expected = cross_entropy(real, jnp.full(5, real_label)) + cross_entropy(fake, jnp.full(5, fake_label))
    np.testing.assert_allclose(loss(real, fake), expected, rtol=1e-5)
    # d/dr [a softplus(-r) + (1 - a) softplus(r)] = sigmoid(r) - a: zero at log(a / (1 - a)), and as much for b.
    slopes = jax.grad(lambda *logits: loss(*logits).sum(), argnums=(0, 1))
    for slope, label, logits in zip(slopes(real, fake), (real_label, fake_label), (real, fake), strict=True):
        np.testing.assert_allclose(slope, jax.nn.sigmoid(logits) - label, atol=1e-6)
    best = jnp.log(jnp.float32([0.9]) / 0.1)
    slope = jax.grad(lambda r: label_smoothed(0.9, fake_label).discriminator(r, best).sum())(best)
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)


def test_hard_labels_are_the_original_game():
    real, fake = 5.0 * jax.random.normal(jax.random.key(0), (2, 50))
    hard = label_smoothed(real=1.0, fake=0.0)
    np.testing.assert_array_equal(hard.discriminator(real, fake), binary_cross_entropy(real, fake))
    np.testing.assert_array_equal(hard.generator(real, fake), LOSSES["non_saturating"]().generator(real, fake))
    assert label_smoothed() == label_smoothed(0.9, 0.0) != hard  # so that games with the same labels are equal


@pytest.mark.parametrize("labels", [(9, 0.0), (0.9, -0.1), (0.2, 0.5)])
def test_labels_that_make_no_game_are_one_line(labels):
    with pytest.raises(UserError, match="legal: 0 <= fake < real <= 1"):
        label_smoothed(*labels)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_per_example_with_right_derivatives(name):
    real, fake = jax.random.normal(jax.random.key(0), (2, 5))
    for loss in LOSSES[name]():
        assert loss(real, fake).shape == (5,)
        check_grads(loss, (real, fake), order=2, modes=["fwd", "rev"], atol=1e-2, rtol=1e-2)
        order = jnp.array([3, 1, 4, 0, 2])
        np.testing.assert_array_equal(loss(real, fake)[order], loss(real[order], fake[order]))
