"""The rules of a two-player game, frozen and hashable, and `build`: the one place where names become functions.

On the spine after `schedules`: what is built here is all that the state and the steps know of a config.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array
from ml_collections import ConfigDict

from gan import names
from gan.errors import UserError, lookup, nearest
from gan.losses import LOSSES, Loss
from gan.networks import NETWORKS
from gan.schedules import PlayerHyperparams, penalties_in


@dataclasses.dataclass(frozen=True)
class Normal:
    """Latents from N(mean, sd^2), independently in each of the `size` coordinates."""

    mean: float = 0.0
    sd: float = 1.0

    def __call__(self, key: Array, size: int) -> Array:
        return self.mean + self.sd * jax.random.normal(key, (size,))


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Latents from U(low, high), independently in each of the `size` coordinates."""

    low: float = -1.0
    high: float = 1.0

    def __call__(self, key: Array, size: int) -> Array:
        return jax.random.uniform(key, (size,), minval=self.low, maxval=self.high)


@dataclasses.dataclass(frozen=True)
class Output:
    """How the generator's last layer becomes an image: the activation, and the range that real images are put in."""

    activation: Callable[[Array], Array]
    image_range: tuple[float, float]


def adam(hyperparams: PlayerHyperparams) -> optax.GradientTransformation:
    """Kingma and Ba 2015, arXiv:1412.6980, with every number traced."""
    return optax.adam(hyperparams.learning_rate, hyperparams.beta1, hyperparams.beta2, hyperparams.epsilon)


def _identity(image: Array) -> Array:
    return image


PRIORS: Mapping[str, Callable[..., Callable[[Array, int], Array]]] = {"normal": Normal, "uniform": Uniform}
OUTPUTS: Mapping[str, Output] = {
    "tanh": Output(jnp.tanh, (-1.0, 1.0)),
    "sigmoid": Output(nn.sigmoid, (0.0, 1.0)),
    "linear": Output(_identity, (-1.0, 1.0)),
}
OPTIMIZERS: Mapping[str, Callable[[PlayerHyperparams], optax.GradientTransformation]] = {"adam": adam}


@dataclasses.dataclass(frozen=True)
class Game:
    """Who plays, for what, and in which order. Holds no arrays and no numbers that a schedule may change.

    The players are any Flax modules called as `generator(latent [B, Z], label [B], train)` to an image before its
    activation [B, H, W, C], and `discriminator(image [B, H, W, C], label [B], train)` to logits [B].
    """

    generator: nn.Module
    discriminator: nn.Module
    generator_optimizer: Callable[[PlayerHyperparams], optax.GradientTransformation]
    discriminator_optimizer: Callable[[PlayerHyperparams], optax.GradientTransformation]
    loss: Loss
    prior: Callable[[Array, int], Array]
    latent_size: int
    output: Output
    image_shape: tuple[int, int, int]
    num_classes: int = 0
    discriminator_steps: int = 1
    generator_steps: int = 1
    shared_latents: bool = False
    """Whether all updates of a turn, of both players, see the same latents, rather than fresh ones each."""
    penalties: tuple[str, ...] = ()
    """Names of PENALTIES on the discriminator, each weighted by the number of that name in Hyperparams."""

    def latents(self, keys: Array) -> Array:
        """One latent for each key: keys [B] to latents [B, Z]."""
        return jax.vmap(self.prior, in_axes=(0, None))(keys, self.latent_size)

    def generate(self, variables: dict, latent: Array, label: Array, *, train: bool, key: Array | None = None):
        """Images [B, H, W, C] in the game's range, and the batch statistics that drawing them leaves behind."""
        image, batch_stats = _apply(self.generator, variables, latent, label, train, key)
        return self.output.activation(image.astype(jnp.float32)), batch_stats

    def discriminate(self, variables: dict, image: Array, label: Array, *, train: bool, key: Array | None = None):
        """Logits float32 [B] of images [B, H, W, C], and the batch statistics that judging them leaves behind."""
        logits, batch_stats = _apply(self.discriminator, variables, image, label, train, key)
        if logits.shape != image.shape[:1]:
            raise ValueError(f"a discriminator returns logits {image.shape[:1]}, not {logits.shape}")
        return logits.astype(jnp.float32), batch_stats

    def on_axis(self, axis_name: str | None) -> "Game":
        """The same game with the players' batch statistics taken over the devices of a mapped axis."""
        if axis_name is None:
            return self
        return dataclasses.replace(
            self, generator=_on_axis(self.generator, axis_name), discriminator=_on_axis(self.discriminator, axis_name)
        )


def build(config: ConfigDict, *, image_shape: tuple[int, int, int], num_classes: int = 0) -> Game:
    """The game of a config, for images [H, W, C] with `num_classes` kinds of labels (0: none).

    Raises `UserError` for an unknown name, a field that a network does not take, or players that do not fit the
    image, before anything is compiled.
    """
    output = lookup(OUTPUTS, config.output, "config.output")
    if config.latent.size < 1:
        raise UserError(f"config.latent.size={config.latent.size} must be at least 1")
    for field in ("discriminator_steps", "generator_steps"):
        if config[field] < 1:
            raise UserError(f"config.{field}={config[field]} must be at least 1")
    game = Game(
        generator=_network(config, "generator", image_shape=image_shape, num_classes=num_classes),
        discriminator=_network(config, "discriminator", image_shape=image_shape, num_classes=num_classes),
        generator_optimizer=lookup(OPTIMIZERS, config.generator.optimizer, "config.generator.optimizer"),
        discriminator_optimizer=lookup(OPTIMIZERS, config.discriminator.optimizer, "config.discriminator.optimizer"),
        loss=names.call(LOSSES, config.loss, "config.loss"),
        prior=names.call(PRIORS, config.latent.prior, "config.latent.prior"),
        latent_size=config.latent.size,
        output=output,
        image_shape=tuple(image_shape),
        num_classes=num_classes,
        discriminator_steps=config.discriminator_steps,
        generator_steps=config.generator_steps,
        shared_latents=config.latent.shared,
        penalties=penalties_in(config),
    )
    (_, discriminator), image = jax.eval_shape(functools.partial(_rehearse, game), jax.random.key(0))
    if image.shape != (2, *image_shape):
        made, asked = "x".join(map(str, image.shape[1:])), "x".join(map(str, image_shape))
        raise UserError(f"config.generator.network={config.generator.network!r} makes {made}, the data are {asked}")
    if game.penalties and discriminator["batch_stats"]:
        raise UserError(
            f"config.penalties.{game.penalties[0]} needs a logit to depend on its own image alone, but "
            f"config.discriminator.network={config.discriminator.network!r} takes statistics of the batch; legal: a "
            f"discriminator without batch normalisation"
        )
    return game


def initial_variables(game: Game, generator_key: Array, discriminator_key: Array) -> tuple[dict, dict]:
    """Fresh variables, `{"params": ..., "batch_stats": ...}`, of the generator and of the discriminator."""
    latent = jnp.zeros((2, game.latent_size))
    label = jnp.zeros((2,), jnp.int32)
    image = jnp.zeros((2, *game.image_shape))
    generator = game.generator.init({"params": generator_key}, latent, label, False)
    discriminator = game.discriminator.init({"params": discriminator_key}, image, label, False)
    return tuple(
        {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
        for variables in (generator, discriminator)
    )


def parameter_count(params: Any) -> int:
    """The number of trainable scalars in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _rehearse(game: Game, key: Array):
    generator, discriminator = initial_variables(game, key, key)
    label = jnp.zeros((2,), jnp.int32)
    image, _ = game.generate(generator, jnp.zeros((2, game.latent_size)), label, train=False)
    if image.shape[1:] == game.image_shape:
        game.discriminate(discriminator, image, label, train=False)
    return (generator, discriminator), image


def _network(config: ConfigDict, player: str, **facts) -> nn.Module:
    settings = dict(config[player])
    field = f"config.{player}.network"
    name = settings.pop("network")
    module = getattr(lookup(NETWORKS, name, field), player)
    for other in ("optimizer", *PlayerHyperparams.__dataclass_fields__):
        settings.pop(other)
    legal = [entry for entry in module.__dataclass_fields__ if entry not in ("parent", "name", "axis_name", *facts)]
    for setting in settings:
        if setting not in legal:
            raise UserError(
                f"config.{player}.{setting} is not a field of network {name!r}{nearest(setting, legal)}; "
                f"legal: {', '.join(legal)}"
            )
        _check_sizes(f"config.{player}.{setting}", settings[setting])
    return module(**facts, **settings)


def _check_sizes(field: str, value: Any) -> None:
    smallest = 1 if field.endswith((".width", ".hidden")) or isinstance(value, tuple) else 0
    for size in value if isinstance(value, tuple) else (value,):
        if isinstance(size, int) and size < smallest:
            raise UserError(f"{field}={value}; legal: {smallest} or more")


def _apply(module: nn.Module, variables: dict, inputs: Array, label: Array, train: bool, key: Array | None):
    rngs = {} if key is None else {"dropout": key}
    if not train:
        return module.apply(variables, inputs, label, False, rngs=rngs), variables["batch_stats"]
    outputs, updated = module.apply(variables, inputs, label, True, rngs=rngs, mutable=["batch_stats"])
    return outputs, updated.get("batch_stats", variables["batch_stats"])


def _on_axis(module: nn.Module, axis_name: str) -> nn.Module:
    return module.clone(axis_name=axis_name) if "axis_name" in module.__dataclass_fields__ else module
