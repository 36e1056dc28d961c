"""Estimators of |grad D(x)|^2 for R1 and R2: exact, or by finite differences.

An estimator is `(critic, images, logits, keys, use) -> [B]`, or fewer for an estimator that uses a part of the rows.
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
"""`critic(images [B, H, W, C]) -> logits [B]`; `critic(images, rows)` where the images are these rows of the batch."""


@dataclasses.dataclass(frozen=True)
class Exact:
    """The exact |grad D(x)|^2, from the gradient of the summed logits. The update differentiates it again."""

    rows: Rows = dataclasses.field(default=ALL, init=False)

    def __call__(self, critic: Critic, images: Array, logits: Array | None, keys: Array | None, use: str) -> Array:
        """|grad D(x)|^2 for each image, [B]. Only `critic` and `images` are used."""
        return squared_gradient(critic, images)


@dataclasses.dataclass(frozen=True)
class FiniteDifference:
    """((D(x + sigma e) - D(x)) / sigma)^2 with e ~ N(0, I) for each image, without second derivatives.

    Its mean over e is |grad D(x)|^2 + O(sigma^2). The noise is added to the image before any augmentation. Both logits
    have the same random draws, of the augmentation and of D, and both are differentiated. D(x) is reused from the
    update, so a penalty costs one more forward and backward pass of D over `rows`.

    Where a logit depends on other images of its group, noise is added to all of them. The mean for logit j is then the
    sum over images i of |d D_j / d x_i|^2, while `Exact` computes |sum_j d D_j / d x_i|^2 for image i.

    Reference: Lin et al. 2025, arXiv:2501.08316, section 3.4: (D(x) - D(x + sigma e))^2 with sigma 0.01 for images, 0.1
    for videos and a weight of 100, which is 0.01 here at sigma 0.01. Divided by sigma, on a quarter of the batch: Lin
    et al. 2025, arXiv:2511.22475. With equal augmentation and noise in both passes: Hyun et al. 2025, arXiv:2509.24935.
    """

    sigma: float
    rows: Rows = ALL

    def __call__(self, critic: Critic, images: Array, logits: Array, keys: Array, use: str) -> Array:
        """The estimate for each image of `rows`, [B / every].

        Args:
          critic: images to logits, with the same random draws as for `logits`.
          images: of the whole batch, [B, H, W, C].
          logits: the critic's logits of the images, [B].
          keys: one PRNG key for each image, [B].
          use: the name with which e is drawn from the keys.
        """
        noise = normal(self.rows.of(keys), use, images.shape[1:])
        noisy = self.rows.of(images) + self.sigma * noise
        noisy_logits = critic(noisy) if self.rows.every == 1 else critic(noisy, self.rows)
        return jnp.square((noisy_logits - self.rows.of(logits)) / self.sigma)


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
    """|d critic(x) / d x|^2 for each image x, [B]. As a sum of squares it is differentiable at zero."""
    gradient = jax.grad(lambda x: jnp.sum(critic(x)))(images)
    return sum_of_squares(gradient)


def normal(keys: Array, use: str, shape: tuple[int, ...]) -> Array:
    """N(0, 1) for each key, [B] to [B, *shape], drawn with the name `use`."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(fold(keys, use))


def fold(keys: Array, use: str) -> Array:
    """The keys [B] of one use, so penalties that share the examples' keys draw different numbers."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, zlib.crc32(use.encode()))


def sum_of_squares(x: Array) -> Array:
    """The sum of squares of each example, [B, ...] to [B]."""
    return jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))
