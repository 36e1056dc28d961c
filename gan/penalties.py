"""Penalties on a discriminator, per example. A leaf: a critic closure and plain arrays in, plain arrays out.

Every penalty has the signature `(critic, real, fake) -> penalty` with `critic` from images [B, H, W, C] to logits
[B], and `penalty` float32 [B], to be averaged and weighted by the caller. An example's gradient is taken as that of
the summed logits, which is right only where a logit depends on its own image alone: no batch statistics.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

Critic = Callable[[Array], Array]


def squared_gradient(critic: Critic, images: Array) -> Array:
    """|d critic(x) / d x|^2 for each image x: a sum of squares, whose own gradient is finite at zero."""
    gradient = jax.grad(lambda x: jnp.sum(critic(x)))(images)
    return jnp.sum(jnp.square(gradient), axis=tuple(range(1, images.ndim)))


def r1(critic: Critic, real: Array, fake: Array) -> Array:
    """|grad D(x)|^2 at real images, without the 1/2: a paper's gamma is twice the weight here.

    Reference: Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406, equation 9.
    """
    return squared_gradient(critic, real)


def r2(critic: Critic, real: Array, fake: Array) -> Array:
    """|grad D(G(z))|^2 at generated images, without the 1/2: a paper's gamma is twice the weight here.

    Reference: Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406, equation 10.
    """
    return squared_gradient(critic, fake)


PENALTIES: Mapping[str, Callable[[Critic, Array, Array], Array]] = {"r1": r1, "r2": r2}
