"""gan.losses: closed forms at known logits, derivatives, invariances, the bounds of f-GANs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from gan.config import specs
from gan.errors import UserError
from gan.losses import DIVERGENCES, LOSSES, binary_cross_entropy, f_gan, label_smoothed, least_squares

ZERO = jnp.zeros(3)

# Two pairs of logits, their means, and the losses of both players for each pair, from the formulas in double precision.
R, F = np.array([2.0, 0.25]), np.array([-3.0, 0.5])
AVERAGE_R, AVERAGE_F = R - -1.25, F - 1.125  # [3.25, 1.5] and [-4.125, -0.625]


def ln1p_exp(x):
    return np.log(1 + np.exp(x))


RELATIVISTIC = {
    # The differences r - f are 5 and -1/4.
    "relativistic": (ln1p_exp(np.array([-5, 0.25])), ln1p_exp(np.array([5, -0.25]))),
    "relativistic_average": (
        ln1p_exp(-AVERAGE_R) + ln1p_exp(AVERAGE_F),
        ln1p_exp(AVERAGE_R) + ln1p_exp(-AVERAGE_F),
    ),
    # D: [0 + 0, 0 + (1 - 0.625)]; G: [(1 + 3.25) + (1 + 4.125), (1 + 1.5) + (1 + 0.625)].
    'relativistic_average("hinge")': ([0, 0.375], [9.375, 4.125]),
    # Labels 1 and -1: D: [(2.25^2 + 3.125^2) / 2, (0.5^2 + 0.375^2) / 2]; G: [(4.25^2 + 5.125^2) / 2, ...].
    'relativistic_average("least_squares")': ([7.4140625, 0.1953125], [22.1640625, (2.5**2 + 1.625**2) / 2]),
}
# Each r against both f, then each f against both r.
CONTRAST = np.log(1 + np.exp(F[None] - R[:, None]).sum(1)) + np.log(1 + np.exp(F[:, None] - R[None]).sum(1))
PAID = {
    "minimax": (ln1p_exp(-R) + ln1p_exp(F), -ln1p_exp(F)),
    "non_saturating": (ln1p_exp(-R) + ln1p_exp(F), ln1p_exp(-F)),
    # a ln(1 + e^-r) + (1 - a) ln(1 + e^r) = ln(1 + e^-r) + (1 - a) r, and the same for b.
    "label_smoothed": (ln1p_exp(-R) + 0.1 * R + ln1p_exp(F), ln1p_exp(-F)),
    "label_smoothed(0.9, 0.1)": (ln1p_exp(-R) + 0.1 * R + ln1p_exp(F) - 0.1 * F, ln1p_exp(-F)),
    # D: [(1^2 + 3^2) / 2, (0.75^2 + 0.5^2) / 2]; G: [4^2 / 2, 0.5^2 / 2].
    "least_squares": ([5, 0.40625], [8, 0.125]),
    # D: [(1^2 + 2^2) / 2, (0.75^2 + 1.5^2) / 2]; G: [3^2 / 2, 0.5^2 / 2].
    "least_squares(-1, 1, 0)": ([2.5, 1.40625], [4.5, 0.125]),
    # D: [0 + 0, 0.75 + 1.5].
    "hinge": ([0, 2.25], [3, -0.5]),
    "wasserstein": ([-5, 0.25], [3, -0.5]),
    **RELATIVISTIC,
    "dual_contrastive": (
        CONTRAST,
        np.log(1 + np.exp(R - F[:, None]).sum(1)) + np.log(1 + np.exp(R[:, None] - F).sum(1)),
    ),
    "dual_contrastive(saturating=True)": (CONTRAST, -CONTRAST),
    'f_gan("kl")': (np.exp(F - 1) - R, [3, -0.5]),
    'f_gan("kl", saturating=True)': (np.exp(F - 1) - R, -np.exp(F - 1)),
    'f_gan("reverse_kl")': (np.exp(-R) + F - 1, np.exp(-F)),
    'f_gan("reverse_kl", saturating=True)': (np.exp(-R) + F - 1, 1 - F),
    # D: [-2 + 9/4 - 3, -1/4 + 1/16 + 1/2]; G: -f, or [-(9/4 - 3), -(1/16 + 1/2)].
    'f_gan("pearson")': ([-2.75, 0.3125], [3, -0.5]),
    'f_gan("pearson", saturating=True)': ([-2.75, 0.3125], [0.75, -0.5625]),
    "f_gan": (ln1p_exp(-R) + ln1p_exp(F) - 2 * np.log(2), ln1p_exp(-F) - np.log(2)),
    "f_gan(saturating=True)": (ln1p_exp(-R) + ln1p_exp(F) - 2 * np.log(2), np.log(2) - ln1p_exp(F)),
    'f_gan("squared_hellinger")': (np.exp(-R) + np.exp(F) - 2, np.exp(-F) - 1),
    'f_gan("squared_hellinger", saturating=True)': (np.exp(-R) + np.exp(F) - 2, 1 - np.exp(F)),
}


def build(text):
    """The game of a config's `loss`."""
    return specs.call(LOSSES, text, "config.loss")


GAMES = {text: build(text) for text in PAID}


def evaluate(real, fake):
    """For each game and player: the loss [2], and the gradients of its sum in the real [2] and fake [2] logits."""
    return _evaluate(jnp.asarray(real, jnp.float32), jnp.asarray(fake, jnp.float32))


@jax.jit
def _evaluate(real, fake):
    def player(loss):
        return loss(real, fake), *jax.grad(lambda *logits: jnp.sum(loss(*logits)), argnums=(0, 1))(real, fake)

    return {text: [player(loss) for loss in game] for text, game in GAMES.items()}


def test_every_loss_is_tested():
    assert {specs.parse(text, "")[0] for text in PAID} == set(LOSSES)


@pytest.mark.parametrize("text", PAID)
def test_losses_equal_their_formulas(text):
    for (loss, _, _), paid in zip(evaluate(R, F)[text], PAID[text], strict=True):
        assert loss.shape == (2,) and loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, paid, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("text", PAID)
def test_discriminators_separate_the_logits_and_generators_raise_theirs(text):
    # Between the labels, margins and vertices of each game: 0 to 1, but where the generator wants 0, below it.
    below = 0.8 if text == "least_squares(-1, 1, 0)" else 0.0
    (_, real, fake), (_, _, raised) = evaluate(np.array([0.2, 0.7]) - below, np.array([0.3, 0.6]) - below)[text]
    assert (real < 0).all() and (fake > 0).all()
    assert (raised < 0).all()


def test_derivatives_of_both_orders_are_right():
    # Losses and gradients are differentiated together. No logit, difference or deviation is within 0.1 of a margin.
    check_grads(
        _evaluate, (jnp.float32([1.4, -0.3]), jnp.float32([-0.7, 0.8])), order=1, modes=["fwd"], atol=1e-2, rtol=1e-2
    )


def test_discriminator_losses_at_equal_logits():
    # softplus(0) = ln 2, for the real and for the fake logit, or for a pair; 1 of 1 + B for each contrast.
    pays = dict.fromkeys(["minimax", "non_saturating", "label_smoothed", "relativistic_average"], 2 * np.log(2))
    pays |= {"relativistic": np.log(2), "least_squares": 0.5, "hinge": 2, "wasserstein": 0, "f_gan": 0}
    pays |= {"dual_contrastive": 2 * np.log(1 + 2), 'relativistic_average("least_squares")': 1}
    paid = evaluate([0.0, 0.0], [0.0, 0.0])
    for text, pay in pays.items():
        np.testing.assert_allclose(paid[text][0][0], pay, rtol=1e-6, atol=1e-7)
    # -log sigmoid(0) = ln 2, and log(1 - sigmoid(0)) = -ln 2.
    np.testing.assert_allclose(paid["non_saturating"][1][0], np.log(2), rtol=1e-6)
    np.testing.assert_allclose(paid["minimax"][1][0], -np.log(2), rtol=1e-6)


def test_discriminator_losses_at_confident_logits():
    wins, loses = [30.0, 30.0], [-30.0, -30.0]
    np.testing.assert_allclose(evaluate(wins, loses)["non_saturating"][0][0], 0.0, atol=1e-6)
    # softplus(30) is 30 + log(1 + e^-30), twice.
    np.testing.assert_allclose(evaluate(loses, wins)["non_saturating"][0][0], 60.0, rtol=1e-6)


# Divergences with exponentials: whether D's loss and G's loss overflow at logits of size 1e4.
NEVER = (lambda r, f: False,) * 2
OVERFLOWS = {
    'f_gan("kl")': (lambda r, f: f > 0, lambda r, f: False),
    'f_gan("kl", saturating=True)': (lambda r, f: f > 0, lambda r, f: f > 0),
    'f_gan("reverse_kl")': (lambda r, f: r < 0, lambda r, f: f < 0),
    'f_gan("reverse_kl", saturating=True)': (lambda r, f: r < 0, lambda r, f: False),
    'f_gan("squared_hellinger")': (lambda r, f: r < 0 or f > 0, lambda r, f: f < 0),
    'f_gan("squared_hellinger", saturating=True)': (lambda r, f: r < 0 or f > 0, lambda r, f: f > 0),
}


@pytest.mark.parametrize("text", PAID)
def test_losses_and_gradients_are_finite_at_huge_logits_except_known_exponentials(text):
    for r, f in itertools.product((-1e4, 1e4), repeat=2):
        for numbers, overflows in zip(evaluate([r, r], [f, f])[text], OVERFLOWS.get(text, NEVER), strict=True):
            assert not np.isnan(numbers).any()
            assert np.isfinite(numbers).all() != overflows(r, f)


def test_minimax_saturates_where_the_discriminator_wins_and_non_saturating_does_not():
    wins = {text: generator[2] for text, (_, generator) in evaluate([10.0, 10.0], [-10.0, -10.0]).items()}
    # d/df -softplus(f) = -sigmoid(-10) = -4.54e-5; d/df softplus(-f) = -sigmoid(10) = -0.99995.
    np.testing.assert_allclose(wins["minimax"], -4.5398e-5, rtol=1e-3)
    np.testing.assert_allclose(wins["non_saturating"], -0.9999546, rtol=1e-6)
    # A difference of 20, to 2 images of the other kind, twice: -2 sigmoid(20 + ln 2), and -2 sigmoid(-20 + ln 2).
    np.testing.assert_allclose(wins["dual_contrastive"], -2.0, rtol=1e-6)
    np.testing.assert_allclose(wins["dual_contrastive(saturating=True)"], -4 * np.exp(-20), rtol=1e-3)
    # d/df -exp(f - 1) = -e^-11, against -1.
    np.testing.assert_allclose(wins['f_gan("kl", saturating=True)'], -np.exp(-11), rtol=1e-5)
    np.testing.assert_allclose(wins['f_gan("kl")'], -1.0)


def test_a_hinge_has_no_gradient_beyond_its_margin():
    _, real, fake = evaluate([0.9, 1.1], [-0.9, -1.1])["hinge"][0]
    np.testing.assert_array_equal(real, [-1.0, 0.0])
    np.testing.assert_array_equal(fake, [1.0, 0.0])


@pytest.mark.parametrize("text", PAID)
def test_relativistic_games_depend_on_differences_of_logits_only(text):
    of_gaps = text in RELATIVISTIC or text.startswith("dual_contrastive")
    expected = (of_gaps or text == "wasserstein", of_gaps)
    for here, higher, same in zip(evaluate(R, F)[text], evaluate(R + 1.0, F + 1.0)[text], expected, strict=True):
        assert np.allclose(here[0], higher[0], atol=1e-5) == same


@pytest.mark.parametrize("text", PAID)
def test_the_order_of_a_batch_matters_only_where_images_are_paired(text):
    for here, together, apart in zip(
        evaluate(R, F)[text], evaluate(R[::-1], F[::-1])[text], evaluate(R, F[::-1])[text], strict=True
    ):
        np.testing.assert_allclose(here[0], together[0][::-1], rtol=1e-6, atol=1e-7)
        assert np.allclose(here[0].mean(), apart[0].mean(), rtol=1e-5) == (text != "relativistic")


@pytest.mark.parametrize("real_label, fake_label", [(0.9, 0.0), (0.9, 0.1), (1.0, 0.3), (0.6, 0.2)])
def test_smoothed_labels_are_cross_entropies_with_a_finite_best_logit(real_label, fake_label):
    loss = label_smoothed(real_label, fake_label).discriminator
    # softplus(0) = ln 2 with the weights a + (1 - a) and b + (1 - b).
    np.testing.assert_allclose(loss(ZERO, ZERO), 2 * np.log(2), rtol=1e-6)
    real, fake = jax.random.normal(jax.random.key(0), (2, 5))
    cross_entropy = optax.sigmoid_binary_cross_entropy
    expected = cross_entropy(real, jnp.full(5, real_label)) + cross_entropy(fake, jnp.full(5, fake_label))
    np.testing.assert_allclose(loss(real, fake), expected, rtol=1e-5)
    # d/dr [a softplus(-r) + (1 - a) softplus(r)] = sigmoid(r) - a: zero at log(a / (1 - a)), and the same for b.
    gradients = jax.grad(lambda *logits: loss(*logits).sum(), argnums=(0, 1))
    for gradient, label, logits in zip(gradients(real, fake), (real_label, fake_label), (real, fake), strict=True):
        np.testing.assert_allclose(gradient, jax.nn.sigmoid(logits) - label, atol=1e-6)
    best = jnp.log(jnp.float32([0.9]) / 0.1)
    gradient = jax.grad(lambda r: label_smoothed(0.9, fake_label).discriminator(r, best).sum())(best)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_hard_labels_are_the_original_game():
    real, fake = 5.0 * jax.random.normal(jax.random.key(0), (2, 50))
    hard = label_smoothed(real=1.0, fake=0.0)
    np.testing.assert_array_equal(hard.discriminator(real, fake), binary_cross_entropy(real, fake))
    np.testing.assert_array_equal(hard.generator(real, fake), GAMES["non_saturating"].generator(real, fake))


# f in double precision; the logit v where g(v) = f'(u); the divergence of p and q written out.
F_DIVERGENCES = {
    "kl": (
        lambda u: u * np.log(u),
        lambda u: 1 + np.log(u),
        lambda p, q: np.sum(p * np.log(p / q)),
    ),
    "reverse_kl": (
        lambda u: -np.log(u),
        np.log,
        lambda p, q: np.sum(q * np.log(q / p)),
    ),
    "pearson": (
        lambda u: (u - 1) ** 2,
        lambda u: 2 * (u - 1),
        lambda p, q: np.sum((p - q) ** 2 / q),
    ),
    "jensen_shannon": (
        lambda u: u * np.log(u) - (u + 1) * np.log((u + 1) / 2),
        np.log,  # log 2 - log(1 + 1/u) = log(2 u / (u + 1)) = f'(u)
        lambda p, q: np.sum(p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))),
    ),
    "squared_hellinger": (
        lambda u: (np.sqrt(u) - 1) ** 2,
        lambda u: np.log(u) / 2,  # 1 - u^(-1/2) = f'(u)
        lambda p, q: np.sum((np.sqrt(p) - np.sqrt(q)) ** 2),
    ),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_conjugates_are_suprema(name):
    f, _, _ = F_DIVERGENCES[name]
    v = jnp.linspace(-1.9, 2.0, 14)  # pearson's conjugate is its table's from t = -2 up
    activation, conjugate = DIVERGENCES[name]
    t, u = np.float64(activation(v)), np.geomspace(1e-4, 1e4, 20001)
    assert (np.diff(t) > 0).all()  # a higher logit indicates a real image
    np.testing.assert_allclose(conjugate(v), np.max(u[None] * t[:, None] - f(u)[None], axis=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_bound_is_the_divergence_at_the_best_logits_and_below_it_elsewhere(name):
    _, best, divergence = F_DIVERGENCES[name]
    p, q = np.array([5, 3, 2]), np.array([2, 2, 6])  # tenths: a batch of ten holds both distributions exactly
    logits = jnp.float32(best(p / q))
    real, fake = np.repeat(np.arange(3), p), np.repeat(np.arange(3), q)

    def bound(logits):
        return -jnp.mean(f_gan(name).discriminator(logits[real], logits[fake]))

    np.testing.assert_allclose(bound(logits), divergence(p / 10, q / 10), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(bound)(logits), 0.0, atol=1e-6)
    for step in np.float32(0.2) * np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32):
        assert bound(logits + step) < bound(logits) - 1e-3


def test_pearson_least_squares_reach_the_pearson_divergence():
    # The best D is (p - q) / (p + q). With b - a = 2 and b - c = 1 G's value there, over real images too, is half the
    # Pearson divergence of 2 q from p + q, the sum of (p + q - 2 q)^2 / (p + q): Mao et al. 2017, section 3.2.
    p, q = np.array([5, 3, 2]), np.array([2, 2, 6])
    real, fake = np.repeat(np.arange(3), p), np.repeat(np.arange(3), q)
    discriminator, generator = least_squares(-1.0, 1.0, 0.0)
    logits = jnp.float32((p - q) / (p + q))
    gradient = jax.grad(lambda logits: jnp.mean(discriminator(logits[real], logits[fake])))(logits)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-7)
    value = jnp.mean(generator(logits[real], logits[fake])) + jnp.mean(generator(logits[fake], logits[real]))
    mean, twice = (p + q) / 10, 2 * q / 10
    np.testing.assert_allclose(value, np.sum((mean - twice) ** 2 / mean) / 2, rtol=1e-5)


def test_two_builds_of_a_game_are_equal_and_no_two_games_are():
    for text, game in GAMES.items():
        assert build(text) == game
        assert hash(build(text)) == hash(game)
    assert len(set(GAMES.values())) == len(GAMES)
    assert label_smoothed() == label_smoothed(0.9, 0.0)


@pytest.mark.parametrize("labels", [(9, 0.0), (0.9, -0.1), (0.2, 0.5), ("high", 0.0)])
def test_invalid_labels_are_reported_in_one_line(labels):
    with pytest.raises(UserError, match="expected: 0 <= fake < real <= 1"):
        label_smoothed(*labels)


@pytest.mark.parametrize(
    "text, valid",
    [
        ("least_squares(1.0, 0.0)", "expected: numbers, a < b and a < c"),
        ("least_squares(c=-1.0)", "expected: numbers, a < b and a < c"),
        ("least_squares(b=1e999)", "b=inf; expected: a number"),
        ('least_squares("0")', "a='0'; expected: a number"),
        (
            'f_gan("pearsons")',
            "nearest: 'pearson'; expected: jensen_shannon, kl, pearson, reverse_kl, squared_hellinger",
        ),
        ('f_gan(["kl"])', "divergence=['kl']; expected: a string"),
        ('f_gan("kl", saturating="no")', "saturating='no'; expected: True or False"),
        ("dual_contrastive(2)", "saturating=2; expected: True or False"),
        ('relativistic_average("wasserstein")', "expected: cross_entropy, hinge, least_squares"),
        ("hinge(1.0)", "expected: hinge()"),
    ],
)
def test_unknown_games_are_reported_in_one_line(text, valid):
    with pytest.raises(UserError) as error:
        build(text)
    assert "config.loss" in str(error.value) and valid in str(error.value) and "\n" not in str(error.value)
