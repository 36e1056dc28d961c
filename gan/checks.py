"""Checks of a config and of the game it makes, before anything is compiled; each raises `UserError` in one line."""

import bisect
import functools
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError
from ml_collections import ConfigDict

from gan import data
from gan.augment import AUGMENTS
from gan.config import schema
from gan.data import prepare, toys
from gan.errors import UserError
from gan.estimators import Exact
from gan.game import SPECTRAL_NORM, DiscriminatorOutput, Game, initial_variables, stated
from gan.penalties import ESTIMATED, PENALTIES
from gan.schedules import Schedules

INITIALIZE_PARTS = ("generator", "discriminator", "ema")
"""What a run can take from another one."""

FOLDER = "folder"
"""The name of the dataset that is a folder of images."""

VERSION = re.compile(r"\d+\.\d+\.\d+")
"""The name of the folder in which TFDS prepares a version of a dataset."""

MAX_LAYERS, MAX_CHANNELS = 256, 2**20
"""The most layers or blocks, and the most channels of one, that a network's field may ask for."""

LAYER_COUNTS = (".depth", ".blocks", ".mapping_layers", ".halvings")
"""How the names of fields end that count layers."""


def check_values(config: ConfigDict) -> None:
    """Raises `UserError` for a field that is missing or of another kind, and for a number that cannot be."""
    schema.check(config)
    check_data(config.data)
    if config.steps < 1:
        raise UserError(f"config.steps={config.steps} must be at least 1")
    if config.batch_size < 1 or config.discriminator_steps < 1:
        raise UserError(
            f"config.batch_size={config.batch_size}, discriminator_steps={config.discriminator_steps}: both must be at "
            f"least 1"
        )
    if config.log_every < 1:
        raise UserError(f"config.log_every={config.log_every} must be at least 1")
    for field in ("sample_every", "checkpoint_every", "keep_every", "evaluate_every"):
        if config[field] < 0:
            raise UserError(f"config.{field}={config[field]} must not be negative (0: only at the end, or never)")
    if config.evaluation.standing_batches < 0:
        raise UserError(
            f"config.evaluation.standing_batches={config.evaluation.standing_batches} must not be negative (0: the "
            f"averaged statistics)"
        )
    _check_fine_tuning(config)
    if config.shard_state and config.parallel != "jit":
        raise UserError(
            f"config.shard_state=True has no meaning with config.parallel={config.parallel!r}, which keeps the state "
            f"whole on every device; expected: config.parallel='jit'"
        )
    if config.microbatches == "auto" and config.parallel != "jit":
        raise UserError(
            f"config.microbatches='auto' needs config.parallel='jit', and it is {config.parallel!r}; expected with it: "
            f"a whole number"
        )
    if not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed={config.seed} must be in 0 .. 2^32 - 1")
    images = config.steps * config.batch_size * config.discriminator_steps
    if images >= 2**32:
        raise UserError(f"config.steps={config.steps} shows {images} images; at most {2**32 - 1} can be counted")


def _check_fine_tuning(config: ConfigDict) -> None:
    """The parts that are taken from another run are parts, and at least one."""
    parts = tuple(config.initialize_parts)
    unknown = [part for part in parts if part not in INITIALIZE_PARTS]
    if unknown or not parts or len(set(parts)) < len(parts):
        raise UserError(f"config.initialize_parts={parts}; expected: one or more of {', '.join(INITIALIZE_PARTS)}")
    if set(parts) != set(INITIALIZE_PARTS) and not config.initialize_from:
        raise UserError(f"config.initialize_parts={parts} has no meaning without config.initialize_from")


def check_data(settings: Mapping[str, Any]) -> None:
    """The fields of `config.data` have a use: what a dataset ignores is a mistake, such as a folder for the digits.

    `config.data.dir` holds images or prepared datasets. Nothing is prepared in it, since it may be a user's images.
    """
    name, folder = settings["name"], settings["dir"]
    if folder == "None":
        raise UserError("config.data.dir='None'; expected: a folder, or nothing for that of TFDS_DATA_DIR")
    if name not in prepare.ENCODED_FILES and settings["skip_broken"]:
        raise UserError(
            f"config.data.skip_broken=True has no meaning for {name!r}; expected with it: data.name={FOLDER}"
        )
    if settings["white"] < 0:
        raise UserError(f"config.data.white={settings['white']:g}; expected: the value that is white, or 0")
    if name not in prepare.ENCODED_FILES and settings["white"]:
        raise UserError(
            f"config.data.white={settings['white']:g} has no meaning for {name!r}; expected with it: data.name={FOLDER}"
        )
    if name in (*toys.NAMES, data.stacked.NAME) and settings["crop"] != "center":
        raise UserError(f"config.data.crop={settings['crop']!r} has no meaning for {name!r}; expected: 'center'")
    if name in toys.NAMES and settings["mirror"]:
        raise UserError(f"config.data.mirror=True has no meaning for the points of {name!r}; expected: False")
    if not folder or name in prepare.OWN_FILES:
        return
    images = f"config.data.name={FOLDER} for the images in it, or no config.data.dir"
    if name in toys.NAMES:
        raise UserError(
            f"config.data.dir={folder!r} has no meaning for {name!r}, which is computed; expected: {images}"
        )
    prepared = "mnist" if name == data.stacked.NAME else name.partition(":")[0].partition("/")[0]
    if not _is_prepared(Path(os.path.expanduser(folder)) / prepared):
        raise UserError(
            f"config.data.dir={folder!r} has no prepared {prepared!r}; expected: {images}. TFDS_DATA_DIR sets where "
            f"a dataset is prepared"
        )


def _is_prepared(folder: Path) -> bool:
    """Whether TFDS has prepared a version of a dataset, or of a config of it, in the folder."""
    try:
        return any(VERSION.fullmatch(path.name) for pattern in ("*", "*/*") for path in folder.glob(pattern))
    except (OSError, ValueError):  # a name that no folder can have, or a folder that may not be read
        return False


def warnings_on_labels(game: Game, class_names: Sequence[str], counts: Sequence[int] | None) -> list[str]:
    """What a game does not learn of labels that its dataset has.

    Args:
      game: of the run.
      class_names: of the dataset.
      counts: the number of images of each class; None: unknown.
    """
    lines = []
    conditional = {"generator": game.is_conditional, "discriminator": game.discriminates_classes}
    if sum(conditional.values()) == 1:
        yes, no = sorted(conditional, key=lambda name: conditional[name], reverse=True)
        lines.append(
            f"the {yes} is conditional and the {no} is not: G does not learn the classes; expected: "
            f"config.{no}.conditioning as well, or config.{yes}.conditioning='none'"
        )
    if not any(conditional.values()):
        return lines
    if len(class_names) == 1:
        lines.append("the networks are conditional on a single class, which tells them nothing")
    missing = [name for name, count in zip(class_names, counts or (), strict=False) if not count]
    if missing:
        lines.append(
            f"{len(missing)} of {len(class_names)} classes have no image, such as {missing[0]!r}: their samples are of "
            f"no class; expected: a config.data.split with all classes"
        )
    return lines


def check_augment(config: ConfigDict, game: Game) -> None:
    """An augmentation has a probability, and a probability an augmentation."""
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


def check_microbatches(config: ConfigDict, game: Game) -> None:
    """The parts of a batch are equal."""
    if game.microbatches < 1 or config.batch_size % game.microbatches:
        valid = [parts for parts in range(1, min(config.batch_size, MAX_LAYERS) + 1) if config.batch_size % parts == 0]
        raise UserError(
            f"config.microbatches={game.microbatches} does not divide config.batch_size={config.batch_size}; "
            f"expected: {', '.join(map(str, valid))}"
        )


def warnings_on_schedules(config: ConfigDict, schedules: Schedules) -> list[str]:
    """One line for each player whose learning rate is zero before the run ends, by its schedule."""
    lines = []
    images = config.batch_size * config.discriminator_steps
    for player in ("generator", "discriminator"):
        text = config.schedules[player].learning_rate

        def is_zero(step: int, player: str = player) -> bool:
            return float(getattr(schedules(float(step * images)), player).learning_rate) == 0.0

        if text and is_zero(config.steps - 1):
            first = bisect.bisect_left(range(config.steps), True, key=is_zero)
            lines.append(
                f"config.{player}.learning_rate is 0 from step {first} of {config.steps} on, by its schedule {text!r}: "
                f"the {player} learns no more"
            )
    return lines


def check_share(config: ConfigDict, devices: int) -> None:
    """With pmap each device divides its own share of a batch, which `sharding.check_batch` has found to be whole."""
    share = config.batch_size // devices
    if config.parallel == "pmap" and share % config.microbatches:
        valid = [parts for parts in range(1, min(share, MAX_LAYERS) + 1) if share % parts == 0]
        raise UserError(
            f"config.microbatches={config.microbatches} does not divide the {share} examples that each of {devices} "
            f"devices has with config.parallel='pmap'; expected: {', '.join(map(str, valid))}, or config.parallel='jit'"
        )


def check_weights(config: ConfigDict, game: Game) -> None:
    """What scales or clips weights leaves the networks able to learn."""
    for name, player in (("generator", game.generator), ("discriminator", game.discriminator)):
        module, field = player.module, f"config.{name}.spectral_norm=True"
        network = f"config.{name}.network={config[name].network!r}"
        if player.spectral_norm and stated(module, "equalized", False):
            # W / sigma is then scaled by 1 / sqrt(n) once more: logits of 1e-5, from which nothing was learned.
            raise UserError(
                f"{field} does not work with {network}, whose layers scale their weights themselves (equalized "
                f"learning rate) and would become far too small; expected: False"
            )
        if player.spectral_norm and stated(module, "zero_kernels", False):
            raise UserError(
                f"{field} does not work with {network}: the last kernel of each of its blocks is initially zero, and "
                f"has no singular value to be divided by; expected: False"
            )
    if game.clips_weights and config.weight_clip < 1.0 and stated(game.discriminator.module, "equalized", False):
        raise UserError(
            f"config.weight_clip={config.weight_clip} is far below the weights of config.discriminator.network="
            f"{config.discriminator.network!r}, which are of size 1 (equalized learning rate): each layer would "
            f"shrink its input by this factor; expected: 0, for no clipping"
        )


def check_networks(config: ConfigDict, game: Game, examples: int) -> None:
    """The networks fit the images, and each penalty has what it needs of them."""
    (generator, discriminator), image, output = jax.eval_shape(
        functools.partial(_dry_run, game, examples), jax.random.key(0)
    )
    if image.shape != (examples, *game.image_shape):
        made, asked = "x".join(map(str, image.shape[1:])), "x".join(map(str, game.image_shape))
        raise UserError(f"config.generator.network={config.generator.network!r} makes {made}, the data are {asked}")
    for name, player, variables in (
        ("generator", game.generator, generator),
        ("discriminator", game.discriminator, discriminator),
    ):
        independent = {SPECTRAL_NORM} | stated(player.module, "batch_independent_stats", frozenset())
        for penalty in player.penalties:
            if PENALTIES[penalty].needs_input_gradient and set(variables["batch_stats"]) - independent:
                raise UserError(
                    f"config.penalties.{penalty} needs per-example gradients, which batch normalization in "
                    f"config.{name}.network={config[name].network!r} prevents; expected: a {name} without batch "
                    f"normalization"
                )
            if PENALTIES[penalty].needs_class_logits and output.class_logits is None:
                raise UserError(
                    f"config.penalties.{penalty} needs config.discriminator.conditioning='classifier', "
                    f"and a dataset with labels"
                )
            if PENALTIES[penalty].needs_image_latents and game.latent_size != math.prod(game.image_shape):
                raise UserError(
                    f"config.penalties.{penalty} needs latents of the image's size, and config.latent.size="
                    f"{game.latent_size}; expected: 0, for {math.prod(game.image_shape)}"
                )


def check_levels(game: Game) -> None:
    """D takes the levels that G makes in training, and nothing mixes generated images with real ones."""
    levels, taken = (stated(player.module, "levels", 1) for player in (game.generator, game.discriminator))
    field = f"config.generator.levels={levels}"
    if levels not in (1, taken):
        raise UserError(f"{field}: the discriminator takes {taken}; expected: as many levels of both players")
    penalties = game.discriminator.penalties + game.generator.penalties
    mixing = [f"penalties.{name}" for name in ("wgan_gp", "wgan_lp", "transport") if name in penalties]
    mixing += ["augment.policy"] * game.augment.pseudo
    if levels > 1 and mixing:
        raise UserError(
            f"config.{mixing[0]} needs generated images like the real ones, and {field} makes several; expected: 1"
        )


def check_estimator(config: ConfigDict, game: Game, at_once: int) -> None:
    """The estimator of gradients has something to estimate, on whole groups of examples."""
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
    if rows.every > 1 and not stated(module, "takes_rows", False) and _draws(game):
        raise UserError(
            f"{field}: config.discriminator.network={config.discriminator.network!r} draws random numbers, and has no "
            f"field `rows` by which a part of the batch gets the same ones; use every=1"
        )


def check_sizes(field: str, value: Any) -> None:
    """The sizes of a network are possible, so that a mistyped one is no failure of memory."""
    smallest = 1 if field.endswith((".width", ".hidden")) or isinstance(value, tuple) else 0
    largest = MAX_LAYERS if field.endswith(LAYER_COUNTS) else MAX_CHANNELS
    if isinstance(value, tuple) and len(value) > MAX_LAYERS:
        raise UserError(f"{field} has {len(value)} entries; expected: {MAX_LAYERS} or fewer")
    for size in value if isinstance(value, tuple) else (value,):
        if isinstance(size, int) and not smallest <= size <= largest:
            raise UserError(f"{field}={value}; expected: {smallest} to {largest}")


def _dry_run(game: Game, examples: int, key: jax.Array) -> tuple[Any, jax.Array, DiscriminatorOutput | None]:
    """Both networks' variables, and what they compute of so many examples."""
    generator, discriminator = initial_variables(game, key, key)
    label = jnp.zeros((examples,), jnp.int32)
    image, _ = game.generate(generator, jnp.zeros((examples, game.latent_size)), label, train=False)
    output = None
    if image.shape[1:] == game.image_shape:
        image = game.augmented(image, jax.random.split(key, examples), jnp.float32(1.0))
        output = game.discriminate(discriminator, image, label, train=False)
    return (generator, discriminator), image, output


def _draws(game: Game) -> bool:
    """Whether the discriminator draws random numbers in training."""

    def logits(key: jax.Array) -> jax.Array:
        variables = initial_variables(game, key, key)[1]
        image, label = jnp.zeros((2, *game.image_shape)), jnp.zeros(2, jnp.int32)
        return game.discriminate(variables, image, label, train=True).logits

    try:
        jax.eval_shape(logits, jax.random.key(0))
    except InvalidRngError:
        return True
    return False
