"""Adversarial losses on logits, per example. Plain arrays in, plain arrays out.

Every loss has the signature `(real, fake) -> loss`. `real` and `fake` are the discriminator's logits of the whole
batch, float32 [B]. `loss` is float32 [B]; the caller averages it and the player minimizes the mean. So a loss may pair
the images, or take means over them. A generator's loss that ignores `real` costs nothing: the compiler removes D(real)
from the program. Below, r and f are the logits of a real and of a generated image.

Losses built with the same arguments are equal, so a game that holds them can be a static argument of `jax.jit`. They
are module-level functions, or frozen dataclasses of such functions, names and numbers.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gan.errors import UserError, lookup

softplus, relu, logsumexp = jax.nn.softplus, jax.nn.relu, jax.nn.logsumexp

PlayerLoss = Callable[[Array, Array], Array]
"""A loss of one player: the logits `(real, fake)`, each [B], to a loss per example [B]."""


class Loss(NamedTuple):
    """What each player minimizes."""

    discriminator: PlayerLoss
    generator: PlayerLoss


@dataclasses.dataclass(frozen=True)
class Swapped:
    """The generator's loss that is the discriminator's loss with real and generated images swapped."""

    loss: PlayerLoss

    def __call__(self, real: Array, fake: Array) -> Array:
        return self.loss(fake, real)


@dataclasses.dataclass(frozen=True)
class ZeroSum:
    """The generator's loss in a zero-sum game: minus the discriminator's loss."""

    loss: PlayerLoss

    def __call__(self, real: Array, fake: Array) -> Array:
        return -self.loss(real, fake)


def binary_cross_entropy(real: Array, fake: Array) -> Array:
    """The discriminator's loss of the original game, -log D(x) - log(1 - D(G(z))) with D = sigmoid(logit).

    It is softplus(-r) + softplus(f), because -log sigmoid(r) = softplus(-r) and -log(1 - sigmoid(f)) = softplus(f). The
    value at zero logits is 2 ln 2.

    Reference: Goodfellow et al. 2014, Generative Adversarial Networks, arXiv:1406.2661, equation 1.
    """
    return softplus(-real) + softplus(fake)


@dataclasses.dataclass(frozen=True)
class SmoothedCrossEntropy:
    """The discriminator's cross-entropy against the labels a for real and b for generated images, instead of 1 and 0.

    -a log D(x) - (1 - a) log(1 - D(x)) - b log D(G(z)) - (1 - b) log(1 - D(G(z))). The minimum is at the finite logit
    r = log(a / (1 - a)), while a hard label has none. The value at zero logits is 2 ln 2 for all labels.

    Reference: Salimans et al. 2016, Improved Techniques for Training GANs, arXiv:1606.03498, section 3.4 (b = 0).
    """

    real_label: float
    fake_label: float

    def __call__(self, real: Array, fake: Array) -> Array:
        on_real = self.real_label * softplus(-real) + (1.0 - self.real_label) * softplus(real)
        on_fake = self.fake_label * softplus(-fake) + (1.0 - self.fake_label) * softplus(fake)
        return on_real + on_fake


def minimax_generator(real: Array, fake: Array) -> Array:
    """The generator's loss of the minimax game, log(1 - D(G(z))) = -softplus(f). It saturates where D is confident.

    Reference: Goodfellow et al. 2014, arXiv:1406.2661, equation 1.
    """
    return -softplus(fake)


def non_saturating_generator(real: Array, fake: Array) -> Array:
    """The common generator's loss, -log D(G(z)) = softplus(-f). Same fixed point; no saturation where D is confident.

    Reference: Goodfellow et al. 2014, arXiv:1406.2661, section 3.
    """
    return softplus(-fake)


@dataclasses.dataclass(frozen=True)
class LeastSquares:
    """The discriminator's squared distances to the labels, (r - real_label)^2 / 2 + (f - fake_label)^2 / 2.

    Reference: Mao et al. 2017, Least Squares Generative Adversarial Networks, arXiv:1611.04076, equation 2, with its
    1/2. Other code often omits the 1/2: its gradients, and so its weights of penalties, are twice as large.
    """

    real_label: float
    fake_label: float

    def __call__(self, real: Array, fake: Array) -> Array:
        return 0.5 * jnp.square(real - self.real_label) + 0.5 * jnp.square(fake - self.fake_label)


@dataclasses.dataclass(frozen=True)
class LeastSquaresGenerator:
    """The generator's squared distance to its target label, (f - label)^2 / 2: Mao et al. 2017, equation 2."""

    label: float

    def __call__(self, real: Array, fake: Array) -> Array:
        return 0.5 * jnp.square(fake - self.label)


def hinge_discriminator(real: Array, fake: Array) -> Array:
    """max(0, 1 - r) + max(0, 1 + f): an image that is classified correctly by a margin of 1 has no gradient.

    Reference: Lim and Ye 2017, Geometric GAN, arXiv:1705.02894; Miyato et al. 2018, Spectral Normalization for
    Generative Adversarial Networks, arXiv:1802.05957, equation 16.
    """
    return relu(1.0 - real) + relu(1.0 + fake)


def wasserstein_critic(real: Array, fake: Array) -> Array:
    """f - r. For the best critic with Lipschitz constant 1, its mean is minus the Wasserstein distance.

    The Lipschitz bound is not enforced here: it needs a penalty or weight clipping.

    Reference: Arjovsky, Chintala and Bottou 2017, Wasserstein GAN, arXiv:1701.07875, equations 2 and 3.
    """
    return fake - real


def linear_generator(real: Array, fake: Array) -> Array:
    """-f, the generator's loss of hinge and Wasserstein games. Its derivative is -1 at every logit."""
    return -fake


def relativistic_discriminator(real: Array, fake: Array) -> Array:
    """-log sigmoid(r - f) = softplus(f - r), of each real image and the generated image of the same row.

    Reference: Jolicoeur-Martineau 2018, The relativistic discriminator, arXiv:1807.00734 (RSGAN); Huang et al. 2024,
    The GAN is dead; long live the GAN!, arXiv:2501.05441, equation 2, where it is used with R1 and R2.
    """
    return softplus(fake - real)


@dataclasses.dataclass(frozen=True)
class RelativisticAverage:
    """A discriminator's loss of r - mean f and f - mean r: each logit relative to the mean logit of the other kind.

    Reference: Jolicoeur-Martineau 2018, arXiv:1807.00734 (RaSGAN, RaLSGAN, RaHingeGAN).
    """

    loss: PlayerLoss

    def __call__(self, real: Array, fake: Array) -> Array:
        return self.loss(real - jnp.mean(fake), fake - jnp.mean(real))


def contrastive_discriminator(real: Array, fake: Array) -> Array:
    """Classifies each real image against all generated ones, and each generated image against all real ones.

    log(1 + sum_j exp(f_j - r_i)) + log(1 + sum_j exp(f_i - r_j)) = softplus(lse(f) - r_i) + softplus(f_i + lse(-r)),
    with lse the logarithm of a sum of exponentials, so no [B, B] matrix is needed. 2 ln(1 + B) at equal logits.

    Reference: Yu et al. 2021, Dual Contrastive Loss and Attention for GANs, arXiv:2103.16748, section 3.
    """
    return softplus(logsumexp(fake) - real) + softplus(fake + logsumexp(-real))


class Divergence(NamedTuple):
    """The two functions of a logit v that bound an f-divergence D_f(P, Q) = E_Q[f(p/q)], f convex and f(1) = 0.

    `activation` is g(v), which maps every v into the domain of the conjugate f*(t) = sup_u (u t - f(u)) and increases;
    `conjugate` is f*(g(v)). For all v(x), E_P[g(v)] - E_Q[f*(g(v))] <= D_f(P, Q), with = where g(v) = f'(p/q).
    """

    activation: Callable[[Array], Array]
    conjugate: Callable[[Array], Array]


# Each f*(g(v)) is simplified: exponentials and logarithms that cancel are removed. The remaining exponentials belong to
# the divergence and overflow float32 above 88: of v for kl, of -v for reverse_kl, of both for squared_hellinger. A
# bounded form would be another divergence. Use a penalty that keeps the logits small.
DIVERGENCES: Mapping[str, Divergence] = {
    # f = u log u: f*(t) = exp(t - 1), g = v.
    "kl": Divergence(lambda v: v, lambda v: jnp.exp(v - 1.0)),
    # f = -log u: f*(t) = -1 - log(-t), g = -exp(-v).
    "reverse_kl": Divergence(lambda v: -jnp.exp(-v), lambda v: v - 1.0),
    # f = (u - 1)^2: f*(t) = t^2 / 4 + t, g = v. For u >= 0 it would be -1 below t = -2, which f' never reaches.
    "pearson": Divergence(lambda v: v, lambda v: v * (0.25 * v + 1.0)),
    # f = u log u - (u + 1) log((u + 1) / 2): f*(t) = -log(2 - exp(t)), g = log 2 - softplus(-v).
    "jensen_shannon": Divergence(lambda v: math.log(2) - softplus(-v), lambda v: softplus(v) - math.log(2)),
    # f = (sqrt(u) - 1)^2: f*(t) = t / (1 - t), g = 1 - exp(-v).
    "squared_hellinger": Divergence(lambda v: -jnp.expm1(-v), jnp.expm1),
}


@dataclasses.dataclass(frozen=True)
class VariationalDiscriminator:
    """f*(g(f)) - g(r). Its mean is minus the lower bound on the divergence that `Divergence` states.

    Reference: Nowozin, Cseke and Tomioka 2016, f-GAN, arXiv:1606.00709, sections 2.2 to 2.4 and table 6.
    """

    divergence: str

    def __call__(self, real: Array, fake: Array) -> Array:
        activation, conjugate = DIVERGENCES[self.divergence]
        return conjugate(fake) - activation(real)


@dataclasses.dataclass(frozen=True)
class VariationalGenerator:
    """-f*(g(f)), the generator's term of the bound, where `saturating`, and otherwise -g(f).

    Reference: Nowozin et al. 2016, arXiv:1606.00709, sections 2.3 and 3.2.
    """

    divergence: str
    saturating: bool

    def __call__(self, real: Array, fake: Array) -> Array:
        activation, conjugate = DIVERGENCES[self.divergence]
        return -conjugate(fake) if self.saturating else -activation(fake)


def minimax() -> Loss:
    """The zero-sum game of Goodfellow et al. 2014."""
    return Loss(binary_cross_entropy, minimax_generator)


def non_saturating() -> Loss:
    """The non-saturating game that Goodfellow et al. 2014 use in practice."""
    return Loss(binary_cross_entropy, non_saturating_generator)


def label_smoothed(real: float = 0.9, fake: float = 0.0) -> Loss:
    """The non-saturating game with the discriminator's labels `real` and `fake`, 0 <= fake < real <= 1."""
    if not (_finite(real, fake) and 0 <= fake < real <= 1):
        raise UserError(f"config.loss: label_smoothed(real={real}, fake={fake}); expected: 0 <= fake < real <= 1")
    return Loss(SmoothedCrossEntropy(real, fake), non_saturating_generator)


def least_squares(a: float = 0.0, b: float = 1.0, c: float = 1.0) -> Loss:
    """The game of Mao et al. 2017: D's targets are f = `a` and r = `b`, G's target is f = `c`.

    With b - a = 2 and b - c = 1, such as (-1, 1, 0), the generator minimizes a Pearson divergence. The paper's
    experiments use c = b, the default. Raises `UserError` unless a < b and a < c.
    """
    if not (_finite(a, b, c) and a < b and a < c):
        raise UserError(f"config.loss: least_squares(a={a}, b={b}, c={c}); expected: numbers, a < b and a < c")
    return Loss(LeastSquares(real_label=b, fake_label=a), LeastSquaresGenerator(c))


def hinge() -> Loss:
    """The hinge game of Lim and Ye 2017, common with spectral normalization."""
    return Loss(hinge_discriminator, linear_generator)


def wasserstein() -> Loss:
    """The game of Arjovsky et al. 2017. It needs a bound on the critic's gradient, such as a gradient penalty."""
    return Loss(wasserstein_critic, linear_generator)


def relativistic() -> Loss:
    """The paired game of Jolicoeur-Martineau 2018, a function of the difference r - f only."""
    return Loss(relativistic_discriminator, Swapped(relativistic_discriminator))


def relativistic_average(kind: str = "cross_entropy") -> Loss:
    """The game of Jolicoeur-Martineau 2018 against averages. `kind` is a name in AVERAGED."""
    loss = RelativisticAverage(lookup(AVERAGED, str(kind), "config.loss: relativistic_average's kind"))
    return Loss(loss, Swapped(loss))


def f_gan(divergence: str = "jensen_shannon", saturating: bool = False) -> Loss:
    """The game of Nowozin et al. 2016 for a `divergence` in DIVERGENCES; zero-sum if `saturating`.

    D's mean loss is at least minus the divergence. "jensen_shannon" is twice the usual Jensen-Shannon divergence; its
    game is that of Goodfellow et al. 2014 up to constants, such as 2 ln 2 in D's loss.
    """
    divergence = str(divergence)
    lookup(DIVERGENCES, divergence, "config.loss: f_gan's divergence")
    _check_flag("f_gan", saturating)
    return Loss(VariationalDiscriminator(divergence), VariationalGenerator(divergence, saturating))


def dual_contrastive(saturating: bool = False) -> Loss:
    """The game of Yu et al. 2021; zero-sum, as in the paper, if `saturating`.

    Otherwise the generator minimizes the discriminator's loss with real and generated images swapped, which does not
    saturate where D is confident.
    """
    _check_flag("dual_contrastive", saturating)
    generator = ZeroSum if saturating else Swapped
    return Loss(contrastive_discriminator, generator(contrastive_discriminator))


def _finite(*numbers: Any) -> bool:
    return all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)


def _check_flag(name: str, saturating: Any) -> None:
    if not isinstance(saturating, bool):
        raise UserError(f"config.loss: {name}(saturating={saturating!r}); expected: True, False")


AVERAGED: Mapping[str, PlayerLoss] = {
    "cross_entropy": binary_cross_entropy,
    "hinge": hinge_discriminator,
    "least_squares": LeastSquares(real_label=1.0, fake_label=-1.0),
}
"""The losses for `relativistic_average`. Labels are symmetric about 0, as the difference of two logits is."""

LOSSES: dict[str, Callable[..., Loss]] = {
    "minimax": minimax,
    "non_saturating": non_saturating,
    "label_smoothed": label_smoothed,
    "least_squares": least_squares,
    "hinge": hinge,
    "wasserstein": wasserstein,
    "relativistic": relativistic,
    "relativistic_average": relativistic_average,
    "f_gan": f_gan,
    "dual_contrastive": dual_contrastive,
}
