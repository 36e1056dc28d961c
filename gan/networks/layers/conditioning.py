"""Conditioning on class labels: how a label enters a generator's latent and a discriminator's logit."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.layers.initializers import Initializer

LATENT_CONDITIONINGS = ("none", "concat", "concat_embedding", "embedding")
LOGIT_CONDITIONINGS = ("none", "projection", "classifier")


class LabelledLatent(nn.Module):
    """Conditions a generator: latent [B, Z] and label [B] to the input of its first layer, [B, Z] or wider.

    `conditioning` is one of:

    - "none": the latent;
    - "concat": the latent and then the one-hot label (Mirza and Osindero 2014, arXiv:1411.1784);
    - "concat_embedding": the latent and then a learned vector of the label with Z numbers, initially N(0, 1 / K) for K
      classes (Huang et al. 2024, arXiv:2501.05441);
    - "embedding": the latent times a learned vector of the label.
    """

    num_classes: int
    conditioning: str = "none"

    @nn.compact
    def __call__(self, latent: Array, label: Array) -> Array:
        check_conditioning("generator", self.conditioning, LATENT_CONDITIONINGS, self.num_classes)
        if self.conditioning == "concat":
            return jnp.concatenate([latent, jax.nn.one_hot(label, self.num_classes)], axis=-1)
        if self.conditioning == "concat_embedding":
            init = nn.initializers.normal(self.num_classes**-0.5)
            return jnp.concatenate(
                [latent, nn.Embed(self.num_classes, latent.shape[-1], embedding_init=init)(label)], axis=-1
            )
        if self.conditioning == "embedding":
            return latent * nn.Embed(self.num_classes, latent.shape[-1], embedding_init=_near_one)(label)
        return latent


class LabelledLogit(nn.Module):
    """Conditions a discriminator: its logit [B] and last features [B, F] to its result.

    `conditioning` is one of:

    - "none": the logit;
    - "projection": the logit plus <embedding of the label, features> (Miyato and Koyama 2018, arXiv:1802.05637,
      equation 4);
    - "classifier": the logit, and logits of the classes [B, K], which the ac_... penalties train (Odena et al. 2017,
      arXiv:1610.09585).
    """

    num_classes: int
    conditioning: str = "none"
    kernel_init: Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, logit: Array, features: Array, label: Array) -> Array | tuple[Array, Array]:
        check_conditioning("discriminator", self.conditioning, LOGIT_CONDITIONINGS, self.num_classes)
        if self.conditioning == "projection":
            embedding = nn.Embed(self.num_classes, features.shape[-1], embedding_init=self.kernel_init)(label)
            return logit + jnp.sum(embedding * features, axis=-1)
        if self.conditioning == "classifier":
            return logit, nn.Dense(self.num_classes, kernel_init=self.kernel_init)(features)
        return logit


def check_conditioning(player: str, conditioning: str, valid: tuple[str, ...], num_classes: int) -> None:
    """Raises `UserError` for an unknown conditioning, and for any but "none" where the dataset has no labels."""
    if conditioning not in valid:
        raise UserError(f"config.{player}.conditioning={conditioning!r} is unknown; expected: {', '.join(valid)}")
    if conditioning != "none" and not num_classes:
        raise UserError(
            f"config.{player}.conditioning={conditioning!r} needs labels, and the dataset has none; expected: 'none'"
        )


def _near_one(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """N(1, 1/4)."""
    return 1.0 + 0.5 * jax.random.normal(key, shape, dtype)
