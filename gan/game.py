"""The rules of a two-player game, frozen and hashable, and `build`: the one place where names become functions.

On the spine after `schedules`: what is built here is all that the state and the steps know of a config.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import InvalidRngError
from jax import Array
from ml_collections import ConfigDict

from gan.augment import AUGMENTS, Augment, identity
from gan.config import specs
from gan.config.schema import check_kind
from gan.errors import UserError, lookup, nearest
from gan.estimators import GRADIENT_ESTIMATORS, Exact, FiniteDifference
from gan.losses import LOSSES, Loss
from gan.networks import NETWORKS, stylegan2
from gan.networks.layers import spectral
from gan.optimizers import DECAYING, OPTIMIZERS, Optimizer
from gan.penalties import ESTIMATED, PENALTIES
from gan.rows import ALL, Rows
from gan.schedules import PlayerHyperparams, penalties_in


@dataclasses.dataclass(frozen=True)
class Normal:
    """Latents from N(mean, sd^2), independently in each of the `size` coordinates.

    A coordinate more than `bound` standard deviations from the mean is drawn again.
    """

    mean: float = 0.0
    sd: float = 1.0
    bound: float = math.inf

    def __call__(self, key: Array, size: int) -> Array:
        if self.bound == math.inf:
            return self.mean + self.sd * jax.random.normal(key, (size,))
        return self.mean + self.sd * jax.random.truncated_normal(key, -self.bound, self.bound, (size,))


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


def _identity(given: Any) -> Any:
    return given


PRIORS: Mapping[str, Callable[..., Callable[[Array, int], Array]]] = {"normal": Normal, "uniform": Uniform}
OUTPUTS: Mapping[str, Output] = {
    "tanh": Output(jnp.tanh, (-1.0, 1.0)),
    "sigmoid": Output(nn.sigmoid, (0.0, 1.0)),
    "linear": Output(_identity, (-1.0, 1.0)),
}
COMPUTE_DTYPES: Mapping[str, str] = {name: name for name in ("float32", "bfloat16")}
MAX_LAYERS, MAX_CHANNELS = 256, 2**20
"""What a network's field may say: how many layers or blocks there are at most, and how wide one is."""
LAYER_COUNTS = (".depth", ".blocks", ".mapping_layers", ".halvings")
SPECTRAL_NORM = "spectral_norm"
"""Where, among a player's batch statistics, the vectors of its spectral normalization are kept."""
BATCH_INDEPENDENT_STATS = {SPECTRAL_NORM, stylegan2.STYLE_MEAN}
"""Batch statistics through which nothing that a player says of an example in training depends on its batch-mates."""
DRAWS = ("noise", "style_mixing")
"""The names, besides "dropout", by which modules draw random numbers in training (Flax's `make_rng`)."""
GIVEN = ("parent", "name", "axis_name", "rows")
"""Fields of a module that a config does not set: Flax's own, and those that a step sets."""
STYLES = "styles"
"""The name by which a generator lets its styles be moved (Flax's `perturb`), [B, L, W] for L layers."""


class DiscriminatorOutput(NamedTuple):
    """What a discriminator says of images [B, H, W, C]."""

    logits: Array
    """float32 [B], large for what looks real."""
    class_logits: Array | None
    """float32 [B, K], of the classes, from a discriminator that classifies."""
    batch_stats: Any
    """The batch statistics that judging them leaves behind."""


@dataclasses.dataclass(frozen=True)
class PlayerSpec:
    """How one player plays."""

    module: nn.Module
    optimizer: Optimizer
    penalties: tuple[str, ...] = ()
    """Names of PENALTIES that it pays, each weighted by the number of that name in Hyperparams."""
    penalty_interval: int = 1
    """The penalties are taken at every k-th turn, with so many times their weight."""
    spectral_norm: bool = False
    """Whether its kernels are divided by their largest singular values."""
    steps: int = 1
    """Updates in a turn."""
    scatter: Callable[[Any], Any] = _identity
    """What is done with a gradient before the optimizer sees it."""
    gather: Callable[[Any], Any] = _identity
    """What is done with the parameters that the optimizer has moved."""


@dataclasses.dataclass(frozen=True)
class Game:
    """Who plays, for what, and in which order. Holds no arrays and no numbers that a schedule may change.

    The players are any Flax modules called as `generator(latent [B, Z], label [B], train)` to an image before its
    activation [B, H, W, C], and `discriminator(image [B, H, W, C], label [B], train)` to logits [B], or to logits [B]
    and logits of the classes [B, K].
    """

    generator: PlayerSpec
    discriminator: PlayerSpec
    loss: Loss
    prior: Callable[[Array, int], Array]
    latent_size: int
    output: Output
    image_shape: tuple[int, int, int]
    num_classes: int = 0
    share_latents: bool = False
    """Whether all updates of a turn, of both players, see the same latents, rather than fresh ones each."""
    microbatches: int = 1
    """The parts in which an update takes its batch, one after the other, to add up their gradients."""
    augment: Augment = AUGMENTS["none"]()
    """What every image suffers before the discriminator sees it."""
    adaptive_augment: bool = False
    """Whether the probability of the augmentation follows the discriminator's overfitting, rather than a schedule."""
    clips_weights: bool = False
    """Whether the discriminator's parameters are kept within a bound."""
    selects_top: bool = False
    """Whether the generator learns from a share of its images only, those that look most real."""
    gradient_estimator: Exact | FiniteDifference = Exact()
    """How R1 and R2 compute |grad D|^2."""
    compute_dtype: str = "float32"
    """What the players compute in. Parameters, statistics, images, logits, losses and gradients are float32 anyway."""

    @property
    def is_conditional(self) -> bool:
        """Whether the generator learns of labels."""
        return getattr(self.generator.module, "conditioning", "none") != "none"

    def latents(self, keys: Array) -> Array:
        """One latent for each key: keys [B] to latents [B, Z]."""
        return jax.vmap(self.prior, in_axes=(0, None))(keys, self.latent_size)

    def generate(
        self, variables: dict, latent: Array, label: Array, *, train: bool, key: Array | None = None,
        moved: Array | None = None,
    ):  # fmt: skip
        """Images [B, H, W, C] in the game's range, and the batch statistics that drawing them leaves behind.

        `moved` is added to the generator's styles, if it has any: see `zero_style_offsets`.
        """
        image, batch_stats = _apply(self.generator, self.compute_dtype, variables, latent, label, train, key, moved)
        return self.output.activation(image.astype(jnp.float32)), batch_stats

    def zero_style_offsets(self, latent: Array, label: Array) -> Array | None:
        """Zeros [B, L, W] like the styles of a generator's L layers for these latents, or None where it has none."""

        def initial(latent: Array, label: Array) -> dict:
            return self.generator.module.init({"params": jax.random.key(0)}, latent, label, False)

        shapes = jax.eval_shape(initial, latent, label).get("perturbations", {})
        return jnp.zeros(shapes[STYLES].shape) if STYLES in shapes else None

    def discriminate(
        self, variables: dict, image: Array, label: Array, *, train: bool, key: Array | None = None, rows: Rows = ALL
    ) -> DiscriminatorOutput:
        """What the discriminator says of images [B, H, W, C], which are these rows of the batch that has this key."""
        player = _given(self.discriminator, rows)
        answer, batch_stats = _apply(player, self.compute_dtype, variables, image, label, train, key)
        logits, class_logits = answer if isinstance(answer, tuple) else (answer, None)
        if logits.shape != image.shape[:1]:
            raise ValueError(f"a discriminator returns logits {image.shape[:1]}, not {logits.shape}")
        logits, class_logits = _cast((logits, class_logits), "float32")
        return DiscriminatorOutput(logits, class_logits, batch_stats)

    def augmented(self, image: Array, keys: Array, p: Array) -> Array:
        """Images [B, H, W, C] as the discriminator is to see them, each with the random draws of its key."""
        if self.augment.transform is identity:
            return image
        low, high = self.output.image_range
        half = (high - low) / 2
        return self.augment.transform((image - low) / half - 1.0, keys, p) * half + (half + low)

    def truncated(self, truncation: float) -> "Game":
        """The same game, its samples drawn from the middle of the latents only: better ones, of fewer kinds.

        A generator with a `truncation` of its own takes it: the share that is left of the way from the mean style to
        each (Karras et al. 2019, arXiv:1812.04948, appendix B). For others a coordinate of the latent more than
        `truncation` standard deviations from its mean is drawn again (Brock et al. 2019, arXiv:1809.11096, section
        3.1).

        Raises `UserError` for a truncation that is not positive, and for a prior that is not normal.
        """
        if not truncation > 0.0:
            raise UserError(f"--truncation={truncation} must be above 0")
        if hasattr(self.generator.module, "truncation"):
            module = self.generator.module.clone(truncation=truncation)
            return dataclasses.replace(self, generator=dataclasses.replace(self.generator, module=module))
        if not isinstance(self.prior, Normal):
            raise UserError(
                f"--truncation={truncation} needs latents from a normal distribution, and this run's are from "
                f"{self.prior}; expected: config.latent.prior='normal' when it is trained"
            )
        return dataclasses.replace(self, prior=dataclasses.replace(self.prior, bound=truncation))

    def on_axis(self, axis_name: str | None) -> "Game":
        """The same game with the players' batch statistics taken over the devices of a mapped axis."""
        if axis_name is None:
            return self
        return dataclasses.replace(
            self, generator=_on_axis(self.generator, axis_name), discriminator=_on_axis(self.discriminator, axis_name)
        )

    def with_sharded_updates(self, scatter: Callable[[Any], Any], gather: Callable[[Any], Any]) -> "Game":
        """The same game whose optimizers work on the parts that `scatter` leaves of each gradient on each device.

        `gather` brings the parts of the moved parameters together again.
        """
        players = {
            name: dataclasses.replace(getattr(self, name), scatter=scatter, gather=gather)
            for name in ("generator", "discriminator")
        }
        return dataclasses.replace(self, **players)


def build(config: ConfigDict, *, image_shape: tuple[int, int, int], num_classes: int = 0) -> Game:
    """The game of a config, for images [H, W, C] with `num_classes` kinds of labels (0: none).

    Raises `UserError` for an unknown name, a field that a network does not take, players that do not fit the image,
    or rules that contradict each other, before anything is compiled.
    """
    output = lookup(OUTPUTS, config.output_activation, "config.output_activation")
    if config.latent.size < 1:
        raise UserError(f"config.latent.size={config.latent.size} must be at least 1")
    facts = {"image_shape": tuple(image_shape), "num_classes": num_classes}
    game = Game(
        generator=_player(config, "generator", facts),
        discriminator=_player(config, "discriminator", facts),
        loss=specs.call(LOSSES, config.loss, "config.loss"),
        prior=specs.call(PRIORS, config.latent.prior, "config.latent.prior"),
        latent_size=config.latent.size,
        output=output,
        **facts,
        share_latents=config.latent.share,
        # What "auto" stands for is found from compiled steps, for a run that is trained: see gan/train/memory.py.
        microbatches=1 if config.microbatches == "auto" else config.microbatches,
        augment=specs.call(AUGMENTS, config.augment.policy, "config.augment.policy"),
        adaptive_augment=bool(config.augment.target or config.schedules.augment.target),
        clips_weights=bool(config.weight_clip or config.schedules.weight_clip),
        selects_top=bool(config.top_k != 1 or config.schedules.top_k),
        gradient_estimator=specs.call(GRADIENT_ESTIMATORS, config.gradient_estimator, "config.gradient_estimator"),
        compute_dtype=lookup(COMPUTE_DTYPES, config.compute_dtype, "config.compute_dtype"),
    )
    _check_augment(config, game)
    if game.microbatches < 1 or config.batch_size % game.microbatches:
        valid = [parts for parts in range(1, min(config.batch_size, MAX_LAYERS) + 1) if config.batch_size % parts == 0]
        raise UserError(
            f"config.microbatches={game.microbatches} does not divide config.batch_size={config.batch_size}; "
            f"expected: {', '.join(map(str, valid))}"
        )
    at_once = max(config.batch_size // game.microbatches, 1)
    game = _with_whole_groups(game, at_once)
    (generator, discriminator), image, verdict = jax.eval_shape(
        functools.partial(_dry_run, game, at_once), jax.random.key(0)
    )
    if image.shape != (at_once, *image_shape):
        made, asked = "x".join(map(str, image.shape[1:])), "x".join(map(str, image_shape))
        raise UserError(f"config.generator.network={config.generator.network!r} makes {made}, the data are {asked}")
    for name, rules, variables in (
        ("generator", game.generator, generator),
        ("discriminator", game.discriminator, discriminator),
    ):
        for penalty in rules.penalties:
            if PENALTIES[penalty].needs_input_gradient and set(variables["batch_stats"]) - BATCH_INDEPENDENT_STATS:
                raise UserError(
                    f"config.penalties.{penalty} needs what a player says of an image to depend on that image alone, "
                    f"but config.{name}.network={config[name].network!r} takes statistics of the batch; expected: a "
                    f"{name} without batch normalization"
                )
            if PENALTIES[penalty].needs_class_logits and verdict.class_logits is None:
                raise UserError(
                    f"config.penalties.{penalty} needs config.discriminator.conditioning='classifier', "
                    f"and a dataset with labels"
                )
    _check_estimator(config, game, at_once)
    return game


def initial_variables(game: Game, generator_key: Array, discriminator_key: Array) -> tuple[dict, dict]:
    """Fresh variables, `{"params": ..., "batch_stats": ...}`, of the generator and of the discriminator."""
    latent = jnp.zeros((2, game.latent_size))
    label = jnp.zeros((2,), jnp.int32)
    image = jnp.zeros((2, *game.image_shape))
    return (
        _initial_variables(game.generator, generator_key, latent, label, normalizes_embeddings=False),
        _initial_variables(game.discriminator, discriminator_key, image, label, normalizes_embeddings=True),
    )


def parameter_count(params: Any) -> int:
    """The number of trainable scalars in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _dry_run(game: Game, examples: int, key: Array):
    """Both players' variables, and what they make of so many examples."""
    generator, discriminator = initial_variables(game, key, key)
    label = jnp.zeros((examples,), jnp.int32)
    image, _ = game.generate(generator, jnp.zeros((examples, game.latent_size)), label, train=False)
    verdict = None
    if image.shape[1:] == game.image_shape:
        image = game.augmented(image, jax.random.split(key, examples), jnp.float32(1.0))
        verdict = game.discriminate(discriminator, image, label, train=False)
    return (generator, discriminator), image, verdict


def _initial_variables(
    player: PlayerSpec, key: Array, inputs: Array, label: Array, *, normalizes_embeddings: bool
) -> dict:
    variables = player.module.init({"params": key}, inputs, label, False)
    batch_stats = dict(variables.get("batch_stats", {}))
    if player.spectral_norm:
        batch_stats[SPECTRAL_NORM] = spectral.initial_vectors(
            variables["params"], key, embeddings=normalizes_embeddings
        )
    return {"params": variables["params"], "batch_stats": batch_stats}


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


def _check_augment(config: ConfigDict, game: Game) -> None:
    settings, schedule = config.augment, config.schedules.augment
    is_on = settings.policy.strip() != "none"
    is_moved = bool(settings.p or schedule.p or game.adaptive_augment)
    if is_on and not is_moved:
        raise UserError(
            f"config.augment.p=0 leaves config.augment.policy={settings.policy!r} idle; expected: 0 < p <= 1, a "
            f"schedule of it, or config.augment.target above 0 for an adaptive p"
        )
    if is_moved and not is_on:
        raise UserError(
            f"config.augment.p={settings.p}, target={settings.target}, but config.augment.policy='none'; "
            f"expected: {', '.join(name for name in AUGMENTS if name != 'none')}"
        )
    if schedule.p and game.adaptive_augment:
        raise UserError("config.schedules.augment.p has no meaning where config.augment.target makes p adaptive")


def _with_whole_groups(game: Game, at_once: int) -> Game:
    """The game whose estimator, on a part of the batch, takes whole groups of StyleGAN2's discriminator."""
    estimator = game.gradient_estimator
    group = min(getattr(game.discriminator.module, "group_size", 1), at_once)
    if estimator.rows.every == 1 or group <= 1:
        return game
    rows = dataclasses.replace(estimator.rows, run=group)
    return dataclasses.replace(game, gradient_estimator=dataclasses.replace(estimator, rows=rows))


def _check_estimator(config: ConfigDict, game: Game, at_once: int) -> None:
    field, rows = f"config.gradient_estimator={config.gradient_estimator!r}", game.gradient_estimator.rows
    if game.gradient_estimator != Exact() and not set(ESTIMATED) & set(game.discriminator.penalties):
        raise UserError(f"{field} has no effect without R1 or R2; set config.penalties.r1 or r2, or use 'exact'")
    if at_once % rows.period:
        expected = [every for every in range(1, at_once + 1) if at_once % (every * rows.run) == 0]
        raise UserError(
            f"{field}: every={rows.every} does not divide the {at_once} examples of a microbatch"
            f"{f' into groups of {rows.run}' * (rows.run > 1)}; expected one of {', '.join(map(str, expected))}"
        )
    module = game.discriminator.module
    if rows.every > 1 and "rows" not in module.__dataclass_fields__ and _draws(game):
        raise UserError(
            f"{field}: config.discriminator.network={config.discriminator.network!r} draws random numbers, and has no "
            f"field `rows` by which a part of the batch gets the same ones; use every=1"
        )


def _draws(game: Game) -> bool:
    """Whether the discriminator draws random numbers in training."""

    def judged(key: Array) -> Array:
        variables = initial_variables(game, key, key)[1]
        image, label = jnp.zeros((2, *game.image_shape)), jnp.zeros(2, jnp.int32)
        return game.discriminate(variables, image, label, train=True).logits

    try:
        jax.eval_shape(judged, jax.random.key(0))
    except InvalidRngError:
        return True
    return False


def _network(config: ConfigDict, player: str, facts: dict) -> nn.Module:
    settings = dict(config[player])
    field = f"config.{player}.network"
    name = settings.pop("network")
    module = getattr(lookup(NETWORKS, name, field), player)
    for other in ("optimizer", "penalty_interval", "spectral_norm", *PlayerHyperparams.__dataclass_fields__):
        settings.pop(other)
    fields = {entry.name: entry for entry in dataclasses.fields(module)}
    valid = [entry for entry in fields if entry not in (*GIVEN, *facts)]
    for setting in settings:
        if setting not in valid:
            raise UserError(
                f"config.{player}.{setting} is not a field of network {name!r}{nearest(setting, valid)}; "
                f"expected: {', '.join(valid)}"
            )
        check_kind(f"config.{player}.{setting}", settings[setting], fields[setting].type)
        _check_sizes(f"config.{player}.{setting}", settings[setting])
    return module(**facts, **settings)


def _check_sizes(field: str, value: Any) -> None:
    smallest = 1 if field.endswith((".width", ".hidden")) or isinstance(value, tuple) else 0
    largest = MAX_LAYERS if field.endswith(LAYER_COUNTS) else MAX_CHANNELS
    if isinstance(value, tuple) and len(value) > MAX_LAYERS:
        raise UserError(f"{field} has {len(value)} entries; expected: {MAX_LAYERS} or fewer")
    for size in value if isinstance(value, tuple) else (value,):
        if isinstance(size, int) and not smallest <= size <= largest:
            raise UserError(f"{field}={value}; expected: {smallest} to {largest}")


def _apply(
    player: PlayerSpec, dtype: str, variables: dict, inputs: Array, label: Array, train: bool, key: Array | None,
    moved: Array | None = None,
):  # fmt: skip
    """What the player's module returns, and its batch statistics afterwards, the vectors of its spectral norm too."""
    rngs = {} if key is None else {"dropout": key} | {name: named_key(key, name) for name in DRAWS}
    batch_stats = dict(variables["batch_stats"])
    params, kept = variables["params"], {}
    if player.spectral_norm:
        params, vectors = spectral.normalized(params, batch_stats.pop(SPECTRAL_NORM))
        kept = {SPECTRAL_NORM: vectors}
    # Layers compute in the type of their parameters and inputs; statistics stay as they are, to be added up exactly.
    params, inputs = _cast((params, inputs), dtype)
    given = {"params": params, "batch_stats": batch_stats}
    if moved is not None:
        given["perturbations"] = {STYLES: moved.astype(dtype)}
    if not train:
        return player.module.apply(given, inputs, label, False, rngs=rngs), variables["batch_stats"]
    outputs, updated = player.module.apply(given, inputs, label, True, rngs=rngs, mutable=["batch_stats"])
    return outputs, {**updated.get("batch_stats", {}), **kept}


def named_key(key: Array, name: str) -> Array:
    """The child of `key` for one use. A new use takes a new name and leaves all other draws as they were."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def _on_axis(player: PlayerSpec, axis_name: str) -> PlayerSpec:
    return _with_field(player, axis_name=axis_name)


def _given(player: PlayerSpec, rows: Rows) -> PlayerSpec:
    return player if rows == ALL else _with_field(player, rows=rows)


def _with_field(player: PlayerSpec, **field: Any) -> PlayerSpec:
    """The player whose module has this field set, if it has such a field."""
    if not field.keys() <= player.module.__dataclass_fields__.keys():
        return player
    return dataclasses.replace(player, module=player.module.clone(**field))
