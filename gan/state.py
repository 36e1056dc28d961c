"""`TrainState`, a pytree of arrays only, and how its one PRNG key is split by name.

It holds no constant of a config, so that a resumed run uses its config and not its checkpoint.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from gan import penalties
from gan.game import Game, initial_variables, named_key
from gan.schedules import Hyperparams

IMAGE_GRADIENT = "image_gradient"
"""The name in `TrainState.running_stats` of the squared gradient of G's loss with respect to its images."""


class Player(struct.PyTreeNode):
    """One player's parameters, batch statistics and optimizer state."""

    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict:
        """The variables with which the Flax module is applied."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class GeneratorEMA(struct.PyTreeNode):
    """The exponential moving average of the generator's parameters and batch statistics: samples are drawn from it."""

    params: Any
    batch_stats: Any

    @property
    def variables(self) -> dict:
        """The variables with which the Flax module is applied."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class TrainState(struct.PyTreeNode):
    """Everything that the next train step depends on, besides the config and the data."""

    step: Array
    """Train steps done, int32."""
    images: Array
    """Real images shown to the discriminator, uint32."""
    key: Array
    """One typed PRNG key, the same on every device; each update splits it once, as does a train step with shared
    latents."""
    generator: Player
    discriminator: Player
    ema: GeneratorEMA
    running_stats: dict
    """Running statistics of penalties, of an adaptive augmentation and of the gradient of G's images, by name."""


def create(game: Game, hyperparams: Hyperparams, seed: int) -> TrainState:
    """The state before the first step, a pure function of the game and the seed."""
    key = jax.random.key(seed)
    generator, discriminator = initial_variables(game, named_key(key, "generator"), named_key(key, "discriminator"))
    return TrainState(
        step=jnp.int32(0),
        images=jnp.uint32(0),
        key=named_key(key, "train"),
        generator=Player(
            **generator, opt_state=game.generator.optimizer(hyperparams.generator).init(generator["params"])
        ),
        discriminator=Player(
            **discriminator,
            opt_state=game.discriminator.optimizer(hyperparams.discriminator).init(discriminator["params"]),
        ),
        # A copy: a donated state must not hold one buffer twice.
        ema=GeneratorEMA(**jax.tree.map(jnp.copy, generator)),
        running_stats=_initial_running_stats(game, hyperparams),
    )


def _initial_running_stats(game: Game, hyperparams: Hyperparams) -> dict:
    running_stats = penalties.initial_running_stats(game.discriminator.penalties + game.generator.penalties)
    if game.normalizes_gradient:
        running_stats[IMAGE_GRADIENT] = {name: jnp.float32(0.0) for name in ("square", "weight")}
    if game.adaptive_augment:
        # p; and since p last changed: the sum of the mean signs of D's logits on real images, and the updates.
        running_stats["augment"] = {"p": hyperparams.augment.p, "signs": jnp.float32(0.0), "updates": jnp.int32(0)}
    return running_stats


def example_keys(key: Array, rows: Array) -> Array:
    """One key for each row of the whole batch, rows int32 [B] to keys [B].

    What is drawn for an example depends on its row alone, not on the other examples or on how the batch is split.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)
