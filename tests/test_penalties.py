"""gan.penalties: closed forms on linear, quadratic and classifying players, and derivatives in their weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from configs import default
from gan import penalties
from gan.penalties import PENALTIES
from gan.views import DiscriminatorView, GeneratorView, Path

REAL, FAKE = jax.random.normal(jax.random.key(0), (2, 5, 2, 3, 1))
KEYS = jax.random.split(jax.random.key(1), 5)
W = jnp.arange(6, dtype=jnp.float32).reshape(2, 3, 1)


def linear(images):
    return jnp.sum(images * W[None], axis=(1, 2, 3)) + 7.0


def quadratic(images):
    return jnp.sum(jnp.square(images), axis=(1, 2, 3)) / 2


def paid(name, critic, **fields):
    return PENALTIES[name].fn(DiscriminatorView(critic, REAL, FAKE, keys=KEYS, **fields))


@pytest.mark.parametrize(
    "name, expected",
    [
        # grad D = w everywhere: |w|^2 = 0 + 1 + 4 + 9 + 16 + 25 = 55, at real and at fake images.
        ("r1", 55.0),
        ("r2", 55.0),
        # (sqrt 55 - 1)^2, at every point between them, and in either order.
        ("wgan_gp", (55**0.5 - 1) ** 2),
        ("wgan_lp", (55**0.5 - 1) ** 2),
        ("dragan", (55**0.5 - 1) ** 2),
    ],
)
def test_a_linear_critic_has_its_weights_as_gradient(name, expected):
    np.testing.assert_allclose(paid(name, linear), np.full(5, expected), rtol=1e-5)


def test_a_gradient_below_one_is_not_penalized_by_the_one_sided_penalty():
    # |grad D| = 0.1 sqrt 55 = 0.742: (0.742 - 1)^2 = 0.0667 two-sided.
    np.testing.assert_allclose(paid("wgan_gp", lambda x: 0.1 * linear(x)), (0.1 * 55**0.5 - 1) ** 2, rtol=1e-5)
    np.testing.assert_array_equal(paid("wgan_lp", lambda x: 0.1 * linear(x)), 0.0)


def test_each_penalty_uses_its_own_images():
    # D = |x|^2 / 2 has grad D = x: the penalty is |x|^2 of each image.
    np.testing.assert_allclose(paid("r1", quadratic), np.sum(np.square(REAL), axis=(1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(paid("r2", quadratic), np.sum(np.square(FAKE), axis=(1, 2, 3)), rtol=1e-6)
    # R2 uses the critic with the draws of the fake images: for 3 D it is nine times as large.
    np.testing.assert_allclose(
        paid("r2", quadratic, fake_critic=lambda x: 3 * quadratic(x)), 9 * paid("r2", quadratic), rtol=1e-6
    )


def test_wgan_gp_uses_points_between_real_and_fake_and_dragan_points_near_real():
    # D = |x|^2 / 2 has |grad D(y)| = |y|. Between 0 and a unit vector |y| = 1 - e: the penalty is e^2.
    keys = jax.random.split(jax.random.key(6), 400)
    zeros, unit = jnp.zeros((400, 2, 3, 1)), jnp.zeros((400, 2, 3, 1)).at[:, 0, 0, 0].set(1.0)
    shares = np.sqrt(penalties.wgan_gp(DiscriminatorView(quadratic, zeros, unit, keys=keys)))
    assert shares.min() >= 0 and shares.max() <= 1
    np.testing.assert_allclose([shares.mean(), shares.var()], [1 / 2, 1 / 12], atol=0.06)
    # All points between an image and itself are the image.
    same = DiscriminatorView(quadratic, 3 * unit, 3 * unit, keys=keys)
    np.testing.assert_allclose(penalties.wgan_gp(same), (3 - 1) ** 2, rtol=1e-5)
    # Around 0 DRAGAN's |y|^2 is that of 6 draws of N(0, 0.25^2), 0.375 on average, and its penalty (|y| - 1)^2.
    noise = 1 - np.sqrt(penalties.dragan(DiscriminatorView(quadratic, zeros, unit, keys=keys)))
    np.testing.assert_allclose(np.mean(np.square(noise)), 6 * penalties.DRAGAN_SD**2, rtol=0.15)


@pytest.mark.parametrize("name", ["r1", "r2", "wgan_gp", "wgan_lp", "dragan"])
def test_a_flat_critic_has_finite_derivatives(name):
    def mean(scale):
        return jnp.mean(paid(name, lambda images: scale * linear(images)))

    # At a gradient of zero the norm has no derivative. It is defined as zero, so nothing is NaN.
    value = {"r1": 0.0, "r2": 0.0, "wgan_gp": 1.0, "wgan_lp": 0.0, "dragan": 1.0}[name]
    assert mean(0.0) == value
    assert jax.grad(mean)(0.0) == 0.0
    # R1 = 55 s^2 has the derivative 110 s; (7.42 s - 1)^2 has 2 (7.42 s - 1) 7.42.
    gradient = 55**0.5
    expected = {"r1": 55.0, "r2": 55.0}.get(name, 2 * (0.5 * gradient - 1) * gradient)
    np.testing.assert_allclose(jax.grad(mean)(0.5), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["r1", "wgan_gp", "dragan"])
def test_second_derivatives_pass_through(name):
    def mean(weights):
        return jnp.mean(paid(name, lambda images: jnp.tanh(jnp.sum(images * weights[None], axis=(1, 2, 3)))))

    check_grads(mean, (0.1 * W + 0.05,), order=2, modes=["rev"], atol=2e-2, rtol=2e-2)


def test_lecam_penalizes_distances_to_the_other_mean():
    view = DiscriminatorView(
        linear, REAL, FAKE, real_logits=jnp.array([1.0, 2.0]), fake_logits=jnp.array([-1.0, 0.0]),
        running_stats={"lecam": {"real": 0.5, "fake": -0.5}},
    )  # fmt: skip
    # (1 + 0.5)^2 + (-1 - 0.5)^2 = 4.5 and (2 + 0.5)^2 + (0 - 0.5)^2 = 6.5.
    np.testing.assert_allclose(penalties.lecam(view), [4.5, 6.5])


def test_centering_penalizes_the_sum_of_a_pair_of_logits():
    view = DiscriminatorView(linear, REAL, FAKE, real_logits=jnp.array([1.0, 2.0]), fake_logits=jnp.array([-1.0, 3.0]))
    # (1 - 1)^2 = 0 and (2 + 3)^2 = 25: the difference, which a relativistic loss uses, does not matter.
    np.testing.assert_allclose(penalties.centering(view), [0.0, 25.0])


def test_transport_is_the_mean_square_of_the_displacement():
    latent = jnp.arange(12, dtype=jnp.float32).reshape(2, 6)
    moved = latent.at[0, 4].add(3.0).at[1].add(-2.0)
    view = GeneratorView(None, latent, moved.reshape(2, 2, 3, 1))
    # One of six numbers moves by 3: 9 / 6. All move by -2: 4.
    np.testing.assert_allclose(penalties.transport(view), [1.5, 4.0])


def test_consistency_is_zero_for_an_invariant_critic():
    np.testing.assert_array_equal(paid("bcr", lambda images: jnp.zeros(5)), 0.0)
    flat = DiscriminatorView(linear, jnp.ones((5, 8, 8, 1)), jnp.ones((5, 8, 8, 1)), keys=KEYS)
    total = flat._replace(critic=lambda images: jnp.sum(images, axis=(1, 2, 3)))
    # A constant image is unchanged by mirroring and by shifts that repeat the edges.
    np.testing.assert_array_equal(penalties.bcr(total), 0.0)
    first = total._replace(
        critic=lambda images: images[:, 0, 0, 0], real=jax.random.normal(jax.random.key(2), (5, 8, 8, 1))
    )
    assert (penalties.bcr(first) > 0).any()


def test_consistency_of_generated_images_uses_their_own_critic():
    # The real images are constant. With 3 D on the generated ones the penalty is nine times as large.
    latent = jax.random.normal(jax.random.key(2), (5, 8, 8, 1))
    view = DiscriminatorView(
        lambda images: images[:, 0, 0, 0], jnp.ones((5, 8, 8, 1)), latent, keys=KEYS, latent=latent, generate=jnp.sin
    )
    tripled = view._replace(fake_critic=lambda images: 3 * images[:, 0, 0, 0])
    for penalty in (penalties.bcr, penalties.zcr_d):
        assert (penalty(view) > 0).any()
        np.testing.assert_allclose(penalty(tripled), 9 * penalty(view), rtol=1e-5)


def test_images_are_mirrored_with_probability_half_and_shifted_uniformly():
    images = jnp.broadcast_to(jnp.arange(16.0)[None, None, :, None], (600, 16, 16, 1))
    moved = np.asarray(penalties.flipped_and_shifted(images, jax.random.split(jax.random.key(3), 600)))[:, 8, :, 0]
    rising = moved[:, -1] > moved[:, 0]
    assert abs(rising.mean() - 0.5) < 0.1  # five standard deviations of 600 coins: 0.102
    center = moved[rising][:, 8]  # the pixel that a shift of -2 .. 2 brings to column 8
    assert set(np.unique(center)) == {6, 7, 8, 9, 10}


def test_classification_is_the_cross_entropy_of_the_label():
    logits, label = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])), jnp.array([1, 2])
    view = DiscriminatorView(linear, REAL, FAKE, label=label, real_class_logits=logits, fake_class_logits=2 * logits)
    np.testing.assert_allclose(penalties.ac_real(view), -np.log([0.25, 0.8]), rtol=1e-5)
    # Doubled logits are squared odds: 0.0625 / 0.375 and 0.64 / 0.66.
    np.testing.assert_allclose(penalties.ac_fake(view), -np.log([0.0625 / 0.375, 0.64 / 0.66]), rtol=1e-5)
    made = GeneratorView(None, None, FAKE, label=label, fake_class_logits=logits)
    np.testing.assert_allclose(penalties.ac_gen(made), -np.log([0.25, 0.8]), rtol=1e-5)


def test_path_length_of_a_linear_generator():
    latent = jax.random.normal(jax.random.key(4), (400, 3))

    def stretch(latent):  # each coordinate twice over, 2x3x1: J^T y sums the pairs
        return jnp.stack([latent, latent], axis=1)[..., None] * 2.0

    view = GeneratorView(
        stretch, latent, stretch(latent), keys=jax.random.split(jax.random.key(5), 400),
        running_stats={"path_length": {"length": 1.0}},
    )  # fmt: skip
    lengths = penalties.path_lengths(view)["length"]
    # (J^T y)_j = 2 (y_1j + y_2j) with y ~ N(0, 1/6): N(0, 4/3) in 3 coordinates, a mean square of 4.
    np.testing.assert_allclose(np.mean(np.square(lengths)), 4.0, rtol=0.2)
    # Of images 2x1x3 it is N(0, 1/2) for each number: N(0, 4) in 3 coordinates, a mean square of 12.
    in_color = view._replace(generate=lambda latent: jnp.swapaxes(stretch(latent), 2, 3))
    np.testing.assert_allclose(np.mean(np.square(penalties.path_lengths(in_color)["length"])), 12.0, rtol=0.2)
    np.testing.assert_allclose(penalties.path_length(view), np.square(lengths - 1.0), rtol=1e-5)


def test_path_length_by_styles_is_a_mean_over_layers():
    def lengths(images, start):
        return penalties.path_lengths(GeneratorView(None, None, FAKE, path=Path(images, start, KEYS)))["length"]

    by_style = lengths(lambda moved: (moved[:, 0] + 3.0 * moved[:, 1])[:, None, :, None], jnp.zeros((5, 2, 4)))
    by_latent = lengths(lambda latent: latent[:, None, :, None], jnp.zeros((5, 4)))
    # J^T y is y for the first layer and 3 y for the second: |y|^2 and 9 |y|^2, on average 5 |y|^2.
    np.testing.assert_allclose(by_style, 5**0.5 * by_latent, rtol=1e-5)
    assert by_latent.min() > 0


def test_latent_penalties_of_a_small_step():
    latent = jnp.zeros((5, 4000))
    moved = GeneratorView(lambda z: z[:, None, None, :], latent, latent[:, None, None, :], keys=KEYS)
    # |d|^2 of 4,000 draws of N(0, 0.03^2) is 3.6, to 2 sqrt(2 / 4000) = 4.5% for two standard deviations.
    np.testing.assert_allclose(penalties.zcr_g(moved), -3.6, rtol=0.1)
    judged = DiscriminatorView(
        lambda images: jnp.sum(jnp.square(images), axis=(1, 2, 3)), moved.fake, moved.fake, keys=KEYS, latent=latent,
        generate=moved.generate,
    )  # fmt: skip
    np.testing.assert_allclose(penalties.zcr_d(judged), 3.6**2, rtol=0.2)


def test_orthogonal_kernels_and_biases_are_not_penalized():
    def regularized(kernel):
        params = {"Dense_0": {"kernel": kernel, "bias": jnp.full(3, 9.0)}}
        return penalties.ortho(GeneratorView(None, None, FAKE, params=params))

    np.testing.assert_allclose(regularized(5.0 * jnp.eye(4)[:, :3]), np.zeros(5))
    # Columns (1, 1) and (1, 0): products [[2, 1], [1, 1]], off the diagonal 1 + 1.
    np.testing.assert_allclose(regularized(jnp.array([[1.0, 1.0], [1.0, 0.0]])), np.full(5, 2.0))


def test_every_penalty_has_a_weight_and_a_schedule_in_the_config():
    config = default.get_config()
    assert set(config.penalties) == set(config.schedules.penalties) == set(PENALTIES)
