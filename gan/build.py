"""From a config to what a run is made of: the one place where names become functions and `ConfigDict` ends.

`setup` returns a game, schedules and options. What is below this module (losses, penalties, networks, state, steps) has
never seen a config, and what is above it works on a `Setup`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from gan import checks, state
from gan.augment import AUGMENTS
from gan.config import specs
from gan.config.schema import check_kind
from gan.errors import UserError, lookup, nearest
from gan.estimators import GRADIENT_ESTIMATORS
from gan.game import Game, Normal, Output, PlayerSpec, Uniform, stated, unchanged
from gan.losses import LOSSES
from gan.networks import NETWORKS
from gan.optimizers import DECAYING, OPTIMIZERS
from gan.penalties import PENALTIES
from gan.schedules import SCHEDULES, AugmentHyperparams, PlayerHyperparams, Schedule, Schedules

PRIORS: Mapping[str, Callable[..., Normal | Uniform]] = {"normal": Normal, "uniform": Uniform}
OUTPUTS: Mapping[str, Output] = {
    "tanh": Output(jnp.tanh, (-1.0, 1.0)),
    "sigmoid": Output(nn.sigmoid, (0.0, 1.0)),
    "linear": Output(unchanged, (-1.0, 1.0)),
}
COMPUTE_DTYPES: Mapping[str, str] = {name: name for name in ("float32", "bfloat16")}

AUTO = "auto"
"""`config.microbatches` where the number is chosen by memory: see `gan.train.memory`."""

STEP_FIELDS = ("parent", "name", "axis_name", "rows")
"""Fields of a module that a config does not set: Flax's own, and those that a train step sets."""

TOP_LEVEL_NUMBERS = ("ema_halflife", "weight_clip", "top_k")
"""Numbers that a schedule may change and that have no group in a config."""

RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "beta1": (lambda value: 0 <= value < 1, "0 <= beta1 < 1"),
    "beta2": (lambda value: 0 <= value < 1, "0 <= beta2 < 1"),
    "epsilon": (lambda value: 0 < value < math.inf, "more than 0"),
    "p": (lambda value: 0 <= value <= 1, "0 <= p <= 1"),
    "target": (lambda value: -1 <= value < 1, "-1 <= target < 1"),
    "ada_images": (lambda value: 0 < value < math.inf, "more than 0"),
    "top_k": (lambda value: 0 < value <= 1, "0 < top_k <= 1"),
}
"""What a number of the config may be, by the last part of its name; all others are 0 or more."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run needs to know besides its game and schedules, as plain values. Each is the config's field."""

    seed: int
    steps: int
    batch_size: int
    """Over all devices."""
    log_every: int
    sample_every: int
    checkpoint_every: int
    keep_every: int
    evaluate_every: int
    parallel: str
    shard_state: bool
    loggers: tuple[str, ...]
    """Names of `gan.io.loggers.LOGGERS`."""
    on_device: str
    """`config.data.on_device`: auto, always or never."""
    mirror: bool
    """`config.data.mirror`."""
    standing_batches: int
    """`config.evaluation.standing_batches`."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """The game, schedules and options of a config and its dataset."""

    game: Game
    schedules: Schedules
    options: Options

    def initial_state(self, sharding: Any = None) -> state.TrainState:
        """The state before the first step, a pure function of the game and the seed, on the devices of `sharding`."""
        create = jax.jit(state.create, static_argnames="game", out_shardings=sharding)
        return create(self.game, self.schedules(0), np.uint32(self.options.seed))

    @functools.cached_property
    def shapes(self) -> state.TrainState:
        """Shapes and types of the state."""
        create = jax.jit(state.create, static_argnames="game")  # JAX keeps the trace for `initial_state`
        return create.eval_shape(self.game, self.schedules(0), np.uint32(0))

    @property
    def base_hyperparams(self) -> dict:
        """The numbers and the seed that the compiled step takes as arguments: one program serves every value."""
        base = {field: np.float32(value) for field, value in self.schedules.base.items()}
        return {"base": base, "seed": np.uint32(self.options.seed)}


def setup(config: ConfigDict, *, image_shape: tuple[int, int, int], num_classes: int = 0) -> Setup:
    """The game, schedules and options of a config, for images [H, W, C] with `num_classes` labels (0: none).

    Raises `UserError` as `make_game` and `make_schedules` do.
    """
    game = make_game(config, image_shape=image_shape, num_classes=num_classes)
    return Setup(game, make_schedules(config), make_options(config))


def make_options(config: ConfigDict) -> Options:
    """The options of a config."""
    own = ("on_device", "mirror", "standing_batches", "loggers")
    plain = {field.name: config[field.name] for field in dataclasses.fields(Options) if field.name not in own}
    standing = config.evaluation.get("standing_batches", 0)  # recorded configs of older runs do not have the field
    return Options(
        **plain,
        loggers=tuple(config.loggers),
        on_device=config.data.on_device,
        mirror=config.data.mirror,
        standing_batches=standing,
    )


def make_game(config: ConfigDict, *, image_shape: tuple[int, int, int], num_classes: int = 0) -> Game:
    """The game of a config, for images [H, W, C] with `num_classes` labels (0: none).

    Raises `UserError` for an unknown name, a field that a network does not take, networks that do not fit the image,
    or options that contradict each other, before anything is compiled.
    """
    if config.latent.size < 0:
        raise UserError(f"config.latent.size={config.latent.size} must be at least 1, or 0: the size of the image")
    facts: dict[str, Any] = {"image_shape": tuple(image_shape), "num_classes": num_classes}
    game = Game(
        generator=_player(config, "generator", facts),
        discriminator=_player(config, "discriminator", facts),
        loss=specs.call(LOSSES, config.loss, "config.loss"),
        prior=specs.call(PRIORS, config.latent.prior, "config.latent.prior"),
        latent_size=config.latent.size or math.prod(image_shape),
        output=lookup(OUTPUTS, config.output_activation, "config.output_activation"),
        **facts,
        share_latents=config.latent.share,
        microbatches=1 if config.microbatches == AUTO else config.microbatches,
        augment=specs.call(AUGMENTS, config.augment.policy, "config.augment.policy"),
        adaptive_augment=bool(config.augment.target or config.schedules.augment.target),
        clips_weights=bool(config.weight_clip or config.schedules.weight_clip),
        selects_top=bool(config.top_k != 1 or config.schedules.top_k),
        normalizes_gradient=config.normalize_gradient,
        gradient_estimator=specs.call(GRADIENT_ESTIMATORS, config.gradient_estimator, "config.gradient_estimator"),
        compute_dtype=lookup(COMPUTE_DTYPES, config.compute_dtype, "config.compute_dtype"),
    )
    checks.check_augment(config, game)
    checks.check_weights(config, game)
    checks.check_microbatches(config, game)
    at_once = max(config.batch_size // game.microbatches, 1)
    game = _with_whole_groups(game, at_once)
    checks.check_networks(config, game, at_once)
    checks.check_levels(game)
    checks.check_estimator(config, game, at_once)
    return _with_frozen_layers(config, game)


def make_schedules(config: ConfigDict) -> Schedules:
    """The function `images seen -> Hyperparams` of a config.

    Each scheduled field is a number in the config, `config.discriminator.learning_rate = 2e-4`, and may have a schedule
    of the same name under `config.schedules`, such as `config.schedules.discriminator.learning_rate =
    "linear(5e-5, 1e6)"`; an empty string means constant.
    """
    fields = [
        *(f"{player}.{name}" for player in ("generator", "discriminator") for name in _names(PlayerHyperparams)),
        *(f"augment.{name}" for name in _names(AugmentHyperparams)),
        *(f"penalties.{name}" for name in penalties_in(config)),
        *TOP_LEVEL_NUMBERS,
    ]
    schedules = {field: functools.partial(_scheduled, field, _field(config.schedules, field)) for field in fields}
    base = {field: _field(config, field) for field in fields}
    for field, value in base.items():
        is_valid, expected = RANGES.get(field.rsplit(".", 1)[-1], (lambda value: 0 <= value < math.inf, "0 or more"))
        if not is_valid(value):
            raise UserError(f"config.{field}={value}; expected: {expected}")
        schedules[field](value)  # an impossible schedule is an error now, and not at the first step
    return Schedules(base, schedules)


def penalties_in(config: ConfigDict) -> tuple[str, ...]:
    """The names of the penalties that a config's game has: those with a weight, or with a schedule of their weight."""
    for name in config.penalties:
        lookup(PENALTIES, name, "config.penalties: the name")
        if name not in config.schedules.penalties:
            raise UserError(f"config.schedules.penalties.{name} is missing; expected: a schedule, or '' for a constant")
    return tuple(name for name, weight in config.penalties.items() if weight or config.schedules.penalties[name])


def _player(config: ConfigDict, player: str, facts: dict) -> PlayerSpec:
    settings = config[player]
    for field, value in (
        (f"{player}.penalty_interval", settings.penalty_interval),
        (f"{player}_steps", config[f"{player}_steps"]),
    ):
        if value < 1:
            raise UserError(f"config.{field}={value} must be at least 1")
    optimizer = lookup(OPTIMIZERS, settings.optimizer, f"config.{player}.optimizer")
    if (settings.weight_decay or config.schedules[player].weight_decay) and settings.optimizer not in DECAYING:
        raise UserError(
            f"config.{player}.weight_decay={settings.weight_decay} has no meaning for {settings.optimizer!r}; "
            f"expected optimizers: {', '.join(DECAYING)}"
        )
    return PlayerSpec(
        module=_network(config, player, facts),
        optimizer=optimizer,
        penalties=tuple(name for name in penalties_in(config) if PENALTIES[name].player == player),
        penalty_interval=settings.penalty_interval,
        spectral_norm=settings.spectral_norm,
        steps=config[f"{player}_steps"],
    )


def _network(config: ConfigDict, player: str, facts: dict) -> nn.Module:
    settings = dict(config[player])
    field = f"config.{player}.network"
    name = settings.pop("network")
    module = getattr(lookup(NETWORKS, name, field), player)
    for other in ("optimizer", "penalty_interval", "spectral_norm", *_names(PlayerHyperparams)):
        settings.pop(other)
    fields = {entry.name: entry for entry in dataclasses.fields(module)}
    valid = [entry for entry in fields if entry not in (*STEP_FIELDS, *facts)]
    if "conditioning" not in fields and settings.get("conditioning") == "none":
        settings.pop("conditioning")  # every player of a config has the field; an unconditional network need not
    for setting in settings:
        if setting not in valid:
            raise UserError(
                f"config.{player}.{setting} is not a field of network {name!r}{nearest(setting, valid)}; "
                f"expected: {', '.join(valid)}"
            )
        check_kind(f"config.{player}.{setting}", settings[setting], fields[setting].type)
        checks.check_sizes(f"config.{player}.{setting}", settings[setting])
    return module(**facts, **settings)


def _with_whole_groups(game: Game, at_once: int) -> Game:
    """The game whose estimator, on a part of the batch, takes whole groups of a minibatch standard deviation."""
    estimator = game.gradient_estimator
    group = min(stated(game.discriminator.module, "group_size", 1), at_once)
    if estimator.rows.every == 1 or group <= 1:
        return game
    rows = dataclasses.replace(estimator.rows, run=group)
    return dataclasses.replace(game, gradient_estimator=dataclasses.replace(estimator, rows=rows))


def _with_frozen_layers(config: ConfigDict, game: Game) -> Game:
    """The game of which the first layers of D, as many as `config.freeze` says, are never updated."""
    if not config.freeze:
        return game
    field, network = f"config.freeze={config.freeze!r}", config.discriminator.network
    layers_of = stated(game.discriminator.module, "layers_from_image", None)
    if layers_of is None:
        raise UserError(f"{field}: the discriminator of network {network!r} has no method layers_from_image")
    layers = layers_of()
    player, _, count = config.freeze.partition(":")
    if player != "discriminator" or not count.isdecimal() or not 1 <= int(count) <= len(layers):
        raise UserError(
            f"{field}; expected: nothing, or discriminator:N with N from 1 to {len(layers)}, the layers of this "
            f"{network!r} before its logit"
        )
    frozen = tuple(name for layer in layers[: int(count)] for name in layer)
    return dataclasses.replace(game, discriminator=dataclasses.replace(game.discriminator, frozen=frozen))


def _scheduled(field: str, text: str, base: Any) -> Schedule:
    table = {name: functools.partial(entry, base) for name, entry in SCHEDULES.items()}
    try:
        return specs.call(table, text or "constant", f"config.schedules.{field}")
    except (ValueError, TypeError) as error:
        raise UserError(f"config.schedules.{field}={text!r}: {error}") from error


def _names(numbers: Any) -> tuple[str, ...]:
    """The fields of a dataclass."""
    return tuple(field.name for field in dataclasses.fields(numbers))


def _field(tree: ConfigDict, path: str) -> Any:
    for part in path.split("."):
        tree = tree[part]
    return tree
