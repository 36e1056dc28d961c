"""Adversarial losses on logits, per example. A leaf: plain arrays in, plain arrays out.

Every loss has the signature `(real, fake) -> loss`, with `real` and `fake` the critic's logits, float32 [B], and
`loss` float32 [B] to be averaged by the caller and minimised by its player. A generator's loss that ignores `real`
costs nothing: the compiler drops D(real) from the program.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
from jax import Array

from gan.errors import UserError

softplus = jax.nn.softplus


class Loss(NamedTuple):
    """What each player minimises: functions of the logits `(real, fake)`, each [B], to a loss per example [B]."""

    discriminator: Callable[[Array, Array], Array]
    generator: Callable[[Array, Array], Array]


def binary_cross_entropy(real: Array, fake: Array) -> Array:
    """The discriminator's loss of the original game, -log D(x) - log(1 - D(G(z))) with D = sigmoid(logit).

    -log sigmoid(r) = softplus(-r) and -log(1 - sigmoid(f)) = softplus(f); 2 ln 2 at zero logits.

    Reference: Goodfellow et al. 2014, Generative Adversarial Networks, arXiv:1406.2661, equation 1.
    """
    return softplus(-real) + softplus(fake)


@dataclasses.dataclass(frozen=True)
class SmoothedCrossEntropy:
    """The discriminator's cross-entropy against the labels a for real and b for fake images, in place of 1 and 0.

    -a log D(x) - (1 - a) log(1 - D(x)) - b log D(G(z)) - (1 - b) log(1 - D(G(z))): smallest at r = log(a / (1 - a)),
    where a hard label would drive r without end; 2 ln 2 at zero logits, whatever the labels.

    Reference: Salimans et al. 2016, Improved Techniques for Training GANs, arXiv:1606.03498, section 3.4 (b = 0).
    """

    real_label: float
    fake_label: float

    def __call__(self, real: Array, fake: Array) -> Array:
        on_real = self.real_label * softplus(-real) + (1.0 - self.real_label) * softplus(real)
        on_fake = self.fake_label * softplus(-fake) + (1.0 - self.fake_label) * softplus(fake)
        return on_real + on_fake


def minimax_generator(real: Array, fake: Array) -> Array:
    """The generator's side of the minimax game, log(1 - D(G(z))) = -softplus(f): it saturates where D wins.

    Reference: Goodfellow et al. 2014, arXiv:1406.2661, equation 1.
    """
    return -softplus(fake)


def non_saturating_generator(real: Array, fake: Array) -> Array:
    """The generator's loss in common use, -log D(G(z)) = softplus(-f): the same fixed point, a gradient early on.

    Reference: Goodfellow et al. 2014, arXiv:1406.2661, section 3.
    """
    return softplus(-fake)


def minimax() -> Loss:
    """The zero-sum game of Goodfellow et al. 2014."""
    return Loss(binary_cross_entropy, minimax_generator)


def non_saturating() -> Loss:
    """The game that Goodfellow et al. 2014 play in practice."""
    return Loss(binary_cross_entropy, non_saturating_generator)


def label_smoothed(real: float = 0.9, fake: float = 0.0) -> Loss:
    """The non-saturating game whose discriminator is shown the labels `real` and `fake`, 0 <= fake < real <= 1."""
    if not 0 <= fake < real <= 1:
        raise UserError(f"config.loss: label_smoothed(real={real}, fake={fake}); legal: 0 <= fake < real <= 1")
    return Loss(SmoothedCrossEntropy(real, fake), non_saturating_generator)


LOSSES: Mapping[str, Callable[..., Loss]] = {
    "minimax": minimax,
    "non_saturating": non_saturating,
    "label_smoothed": label_smoothed,
}
