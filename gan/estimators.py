"""Estimators of |grad D(x)|^2 for R1 and R2: exact, or by finite differences. Below everything: closures and arrays in.

An estimator is `(critic, images, logits, keys, use) -> [B]`, or of a part of the examples, those of its `rows`.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

from gan.errors import UserError
from gan.rows import ALL, Rows

Critic = Callable[..., Array]
"""Images [B, H, W, C] to logits [B]; `critic(images, rows)` judges images of these rows of the batch only."""


@dataclasses.dataclass(frozen=True)
class Exact:
    """|grad D(x)|^2 itself: the gradient of the critic's summed logits, which the update differentiates again."""

    rows: Rows = dataclasses.field(default=ALL, init=False)

    def __call__(self, critic: Critic, images: Array, logits: Array | None, keys: Array | None, use: str) -> Array:
        """|grad D(x)|^2 for each image, [B]. Only the critic and the images are used."""
        return squared_gradient(critic, images)


@dataclasses.dataclass(frozen=True)
class FiniteDifference:
    """((D(x + sigma e) - D(x)) / sigma)^2 with e ~ N(0, I) for each image: no gradient of a gradient.

    Its mean over e is |grad D(x)|^2 + O(sigma^2). The noise is added to the image before any augmentation. Both logits
    have the same random draws, of the augmentation and of D, and the gradient goes through both. D(x) is the update's
    own, so that a penalty costs one more forward and backward pass of D over `rows`.

    Where a logit depends on other images of its group, noise is added to all of them: the mean for logit j is the sum
    over images i of |d D_j / d x_i|^2, while `Exact` takes |sum_j d D_j / d x_i|^2.

    Reference: Lin et al. 2025, arXiv:2501.08316, section 3.4: (D(x) - D(x + sigma e))^2 with sigma 0.01 for images, 0.1
    for videos and a weight of 100, which is 0.01 here at sigma 0.01. Divided by sigma, on a quarter of the batch: Lin
    et al. 2025, arXiv:2511.22475. With equal augmentation and noise in both passes: Hyun et al. 2025, arXiv:2509.24935.
    """

    sigma: float
    rows: Rows = ALL

    def __call__(self, critic: Critic, images: Array, logits: Array, keys: Array, use: str) -> Array:
        """The estimate for each image of `rows`, [B / every].

        Args:
          critic: images to logits, with the draws that gave `logits`.
          images: of the whole batch, [B, H, W, C].
          logits: what the critic says of them, [B].
          keys: one PRNG key for each image, [B].
          use: the name by which e is drawn from the keys.
        """
        noise = normal(self.rows.of(keys), use, images.shape[1:])
        moved = self.rows.of(images) + self.sigma * noise
        moved_logits = critic(moved) if self.rows.every == 1 else critic(moved, self.rows)
        return jnp.square((moved_logits - self.rows.of(logits)) / self.sigma)


def finite_difference(sigma: float = 0.01, every: int = 1) -> FiniteDifference:
    """The estimator on every `every`-th example of a batch. Raises `UserError` unless sigma > 0 and every >= 1."""
    if not 0.0 < sigma < math.inf:
        raise UserError(f"config.gradient_estimator: finite_difference's sigma={sigma} must be above 0")
    if every < 1:
        raise UserError(f"config.gradient_estimator: finite_difference's every={every} must be at least 1")
    return FiniteDifference(sigma, Rows(every))


GRADIENT_ESTIMATORS: Mapping[str, Callable[..., Exact | FiniteDifference]] = {
    "exact": Exact, "finite_difference": finite_difference,
}  # fmt: skip
"""The estimators by name."""


def squared_gradient(critic: Critic, images: Array) -> Array:
    """|d critic(x) / d x|^2 for each image x: a sum of squares, whose own gradient is finite at zero."""
    gradient = jax.grad(lambda x: jnp.sum(critic(x)))(images)
    return sum_of_squares(gradient)


def normal(keys: Array, use: str, shape: tuple[int, ...]) -> Array:
    """N(0, 1) for each key, [B] to [B, *shape], drawn by the name of a use."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(fold(keys, use))


def fold(keys: Array, use: str) -> Array:
    """Keys of one use: penalties that draw from the same examples' keys do not draw the same numbers."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, zlib.crc32(use.encode()))


def sum_of_squares(x: Array) -> Array:
    """The sum of squares of each example, [B, ...] to [B]."""
    return jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))
