"""Small players and games that several tests use, made of plain Flax modules: no config, no file of ours."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from twins import jit

from gan import losses, state, steps
from gan.game import Game, Normal, Output, PlayerSpec
from gan.networks.layers.dropout import Dropout
from gan.networks.layers.normalization import BatchNorm
from gan.optimizers import adam
from gan.rows import ALL, Rows
from gan.schedules import AugmentHyperparams, Hyperparams, PlayerHyperparams


def identity(image):
    return image


class PointGenerator(nn.Module):
    """Latent to a point in the plane, as an image of 1x1 pixel with two channels."""

    @nn.compact
    def __call__(self, latent, label, train):
        x = latent
        for _ in range(2):
            x = nn.relu(nn.Dense(128)(x))
        return nn.Dense(2)(x).reshape(-1, 1, 1, 2)


class PointDiscriminator(nn.Module):
    @nn.compact
    def __call__(self, image, label, train):
        x = image.reshape(len(image), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(128)(x))
        return nn.Dense(1)(x)[:, 0]


class NoisyGenerator(nn.Module):
    """Batch normalization and dropout: all that can make one example's output depend on others or on devices.

    No biases: one that a normalization removes again, here or in the discriminator, has no gradient but rounding,
    and Adam makes a full step of that.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, latent, label, train):
        x = nn.Dense(16, use_bias=False)(latent)
        x = nn.relu(BatchNorm(self.axis_name)(x, train))
        x = Dropout(0.3, self.axis_name)(x, train)
        return nn.Dense(12, use_bias=False)(x).reshape(-1, 2, 2, 3)


class NoisyDiscriminator(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image, label, train):
        x = nn.Dense(16, use_bias=False)(image.reshape(len(image), -1))
        x = nn.leaky_relu(BatchNorm(self.axis_name)(x, train))
        x = Dropout(0.3, self.axis_name)(x, train)
        return nn.Dense(1)(x)[:, 0]


class DropoutDiscriminator(nn.Module):
    """Dropout alone: random draws by row, and no look at the batch."""

    axis_name: str | None = None
    rows: Rows = ALL

    @nn.compact
    def __call__(self, image, label, train):
        x = nn.leaky_relu(nn.Dense(16)(image.reshape(len(image), -1)))
        x = Dropout(0.3, self.axis_name, self.rows)(x, train)
        return nn.Dense(1)(jnp.tanh(x))[:, 0]


def hyperparams(
    learning_rate=1e-3, beta1=0.5, ema_halflife=100.0, *, p=0.0, target=0.0, weight_clip=0.0, top_k=1.0,
    weight_decay=0.0, clip_norm=0.0, **penalties
):  # fmt: skip
    player = PlayerHyperparams(*map(jnp.float32, (learning_rate, beta1, 0.999, 1e-8, weight_decay, clip_norm)))
    weights = {name: jnp.float32(weight) for name, weight in penalties.items()}
    augment = AugmentHyperparams(*map(jnp.float32, (p, target, 1000.0)))
    numbers = map(jnp.float32, (weight_clip, top_k))
    return Hyperparams(player, player, jnp.float32(ema_halflife), weights, augment, *numbers)


def point_game(*, generator=None, discriminator=None, **changes):
    """The game of the ring: points in the plane, MLP players. `generator` and `discriminator` change their rules."""
    game = Game(
        generator=PlayerSpec(PointGenerator(), adam),
        discriminator=PlayerSpec(PointDiscriminator(), adam),
        loss=losses.non_saturating(),
        prior=Normal(),
        latent_size=8,
        output=Output(identity, (-1.0, 1.0)),
        image_shape=(1, 1, 2),
    )
    return changed(game, generator=generator, discriminator=discriminator, **changes)


def noisy_game(*, generator=None, discriminator=None, **changes):
    """A game on 2x2x3 images whose players draw random numbers and look at the whole batch."""
    game = point_game(
        generator={"module": NoisyGenerator()}, discriminator={"module": NoisyDiscriminator()}, image_shape=(2, 2, 3)
    )
    return changed(game, generator=generator, discriminator=discriminator, **changes)


def changed(game, *, generator=None, discriminator=None, **changes):
    """The game with other rules, and with other rules of its players."""
    return dataclasses.replace(
        game,
        generator=dataclasses.replace(game.generator, **(generator or {})),
        discriminator=dataclasses.replace(game.discriminator, **(discriminator or {})),
        **changes,
    )


def batches(game, *, size=16, seed=0):
    """A step's batches of random images: [discriminator_steps, size, ...]."""
    shape = (game.discriminator.steps, size)
    return {
        "image": jax.random.uniform(jax.random.key(seed), (*shape, *game.image_shape), minval=-1.0),
        "label": jnp.zeros(shape, jnp.int32),
        "row": jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32)[None], shape),
    }


def first_step(game, hyperparams):
    """The first step of a game, on four images: the states before and after it, and its metrics."""

    @jit
    def train():
        start = state.create(game, hyperparams, seed=0)
        return start, *steps.train_step(start, batches(game, size=4), hyperparams, game=game)

    return train()


def largest_move(before, after, player):
    """The largest change of any of a player's parameters."""
    old, new = (jax.tree.leaves(getattr(current, player).params) for current in (before, after))
    return max(float(jnp.abs(a - b).max()) for a, b in zip(old, new, strict=True))
