"""The training algorithm: the discriminator's update, the generator's update, and the train step that runs both.

Pure functions `(state, batch, hyperparams, *, game, axis_name) -> (state, metrics)`: they can be jitted, pmapped (with
the name of the mapped axis), vmapped over state and hyperparams, or scanned over batches. A batch is
`{"image": float32 [B, H, W, C] in the game's range, "label": int32 [B], "row": int32 [B]}`, where `row` is an
example's place in the whole batch: on several devices each has its own rows, and the draws are those of one device.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gan.errors import UserError
from gan.game import DiscriminatorOutput, Game
from gan.rows import ALL, Rows
from gan.schedules import Hyperparams
from gan.state import Player, TrainState, example_keys, named_key
from gan.updates import (
    Batch,
    adapt_augment,
    augment_probability,
    clip_weights,
    device_count,
    gather_logits,
    gradient_of,
    mean_of_top,
    mean_over_devices,
    optimizer_step,
    penalties_of,
    update_ema,
    update_running_stats,
    with_normalized_gradient,
)
from gan.views import DiscriminatorView, GeneratorView, Path

Metrics = dict[str, Array]


class GeneratedBatch(NamedTuple):
    """Images that both networks learn from, D first, while G is unchanged: one forward pass of G for two updates."""

    image: Array
    """[B, H, W, C], or the levels [B, H, W, L C] of a generator that makes several, before any augmentation."""
    batch_stats: Any
    """G's batch statistics after generating them."""
    vjp_fn: Callable[[Array], tuple]
    """From a loss's gradient with respect to the images to that with respect to G's parameters. Holds activations."""
    key: Array
    """The key of G's own random draws."""


class Draws(NamedTuple):
    """The random keys of one part of a batch in one update, by the name of each use. Renaming one changes its draws."""

    update_key: Array
    part: Batch

    def by_example(self, use: str) -> Array:
        """A key for each example, [B]: the same on any number of devices."""
        return example_keys(named_key(self.update_key, use), self.part["row"])

    def of_part(self, use: str) -> Array:
        """One key for the whole part."""
        return named_key(self.part["key"], use)


def discriminator_step(
    state: TrainState, batch: Batch, hyperparams: Hyperparams, *, game: Game, axis_name: str | None = None,
    generated: GeneratedBatch | None = None,
) -> tuple[TrainState, Metrics]:  # fmt: skip
    """One update of the discriminator, on real images and as many generated ones. The generator is unchanged.

    Latents are those of the batch, `batch["latent"]` [B, Z], or drawn from the update's own key where it has none. The
    images are generated from them, or are `generated`, which must be of these latents and of one microbatch.

    Raises `UserError` where the period of the estimator's rows does not divide a device's examples.
    """
    _check_rows(game, len(batch["label"]))
    game = game.on_axis(axis_name)
    key, update_key = jax.random.split(state.key)
    objective = functools.partial(
        _discriminator_objective, state=state, hyperparams=hyperparams, game=game, axis_name=axis_name,
        update_key=update_key, generated=generated,
    )  # fmt: skip
    gradient, (batch_stats, metrics, observed) = gradient_of(
        objective, state.discriminator, game.discriminator, batch, game=game, step=state.step, key=update_key
    )
    gradient, metrics, observed = mean_over_devices(axis_name, (gradient, metrics, observed))
    discriminator, update = optimizer_step(
        state.discriminator, gradient, batch_stats, game.discriminator, hyperparams.discriminator
    )
    if game.clips_weights:
        discriminator = clip_weights(discriminator, hyperparams.weight_clip, game.discriminator)
    new_images = jnp.uint32(len(batch["label"])) * jnp.uint32(device_count(axis_name))
    running_stats = update_running_stats(state.running_stats, observed)
    if game.adaptive_augment:
        sign = metrics["discriminator_sign"]
        running_stats["augment"] = adapt_augment(running_stats["augment"], sign, hyperparams, new_images)
    state = state.replace(
        key=key, images=state.images + new_images, discriminator=discriminator, running_stats=running_stats
    )
    return state, metrics | {f"discriminator_{name}": value for name, value in update.items()}


def _discriminator_objective(
    params: Any, batch_stats: Any, part: Batch, penalized: bool, *, state: TrainState, hyperparams: Hyperparams,
    game: Game, axis_name: str | None, update_key: Array, generated: GeneratedBatch | None,
) -> tuple[Array, tuple]:  # fmt: skip
    """What D minimizes on a part of the batch, and `(batch_stats, metrics, observed)`."""
    draws, p = Draws(update_key, part), augment_probability(game, state, hyperparams)
    latent = part["latent"] if "latent" in part else game.latents(draws.by_example("latent"))
    key = draws.of_part("generator") if generated is None else generated.key
    generate = functools.partial(_generate, game, state.generator.variables, part["label"], key)
    fake = generate(latent) if generated is None else generated.image
    real = _with_pseudo_images(game, generate, part["image"], draws, p) if game.augment.pseudo else part["image"]

    # Real and generated images are separate passes: with batch normalization each has its own statistics.
    discriminate = functools.partial(_discriminate, game, params, draws, p)
    on_real = discriminate("real", batch_stats, real)
    on_fake = discriminate("fake", on_real.batch_stats, fake)

    # A loss may compare an example with any other of the batch, on whatever device it is.
    real_logits, fake_logits = gather_logits(axis_name, (on_real.logits, on_fake.logits))
    loss = jnp.mean(game.loss.discriminator(real_logits, fake_logits))
    view = DiscriminatorView(
        critic=lambda image, rows=ALL: discriminate("real", batch_stats, image, rows).logits,
        real=real,
        fake=fake,
        fake_critic=lambda image, rows=ALL: discriminate("fake", on_real.batch_stats, image, rows).logits,
        keys=draws.by_example("penalty"),
        label=part["label"],
        real_logits=on_real.logits,
        fake_logits=on_fake.logits,
        real_class_logits=on_real.class_logits,
        fake_class_logits=on_fake.class_logits,
        latent=latent,
        generate=generate,
        running_stats=state.running_stats,
        estimator=game.gradient_estimator,
    )
    penalty, terms, observed = penalties_of(game.discriminator, view, hyperparams, penalized)
    metrics = {
        "discriminator_loss": loss,
        **terms,
        "discriminator_real": jnp.mean(jax.nn.sigmoid(real_logits)),
        "discriminator_fake": jnp.mean(jax.nn.sigmoid(fake_logits)),
    }
    if game.adaptive_augment:
        metrics |= {"augment_p": p, "discriminator_sign": jnp.mean(jnp.sign(real_logits))}
    return loss + penalty, (on_fake.batch_stats, metrics, observed)


def generator_step(
    state: TrainState, batch: Batch, hyperparams: Hyperparams, *, game: Game, axis_name: str | None = None,
    generated: GeneratedBatch | None = None,
) -> tuple[TrainState, Metrics]:  # fmt: skip
    """One update of the generator, on generated images. The discriminator and its batch statistics are unchanged.

    Latents and `generated` are as in `discriminator_step`; `generated` must come from the current parameters of G.
    """
    game = game.on_axis(axis_name)
    key, update_key = jax.random.split(state.key)
    objective = functools.partial(
        _generator_objective, state=state, hyperparams=hyperparams, game=game, axis_name=axis_name,
        update_key=update_key, generated=generated,
    )  # fmt: skip
    gradient, (batch_stats, metrics, observed) = gradient_of(
        objective, state.generator, game.generator, batch, game=game, step=state.step, key=update_key
    )
    gradient, metrics, observed = mean_over_devices(axis_name, (gradient, metrics, observed))
    generator, update = optimizer_step(state.generator, gradient, batch_stats, game.generator, hyperparams.generator)
    running_stats = update_running_stats(state.running_stats, observed)
    state = state.replace(key=key, generator=generator, running_stats=running_stats)
    return state, metrics | {f"generator_{name}": value for name, value in update.items()}


def _generator_objective(
    params: Any, batch_stats: Any, part: Batch, penalized: bool, *, state: TrainState, hyperparams: Hyperparams,
    game: Game, axis_name: str | None, update_key: Array, generated: GeneratedBatch | None,
) -> tuple[Array, tuple]:  # fmt: skip
    """What G minimizes on a part of the batch, and `(batch_stats, metrics, observed)`."""
    draws, p = Draws(update_key, part), augment_probability(game, state, hyperparams)
    variables = {"params": params, "batch_stats": batch_stats}
    latent = part["latent"] if "latent" in part else game.latents(draws.by_example("latent"))
    key = draws.of_part("generator") if generated is None else generated.key
    if generated is None:
        fake, new_batch_stats = game.generate(variables, latent, part["label"], train=True, key=key)
    else:
        fake, new_batch_stats = _reuse_generated(params, generated), generated.batch_stats

    # Most losses ignore the logits of real images; the compiler then leaves this pass out.
    discriminator = state.discriminator
    discriminate = functools.partial(_discriminate, game, discriminator.params, draws, p)
    on_real = discriminate("real", discriminator.batch_stats, part["image"])

    def adversarial(image: Array) -> tuple[Array, DiscriminatorOutput]:
        on_fake = discriminate("fake", discriminator.batch_stats, image)
        real_logits, fake_logits = gather_logits(axis_name, (on_real.logits, on_fake.logits))
        losses = game.loss.generator(real_logits, fake_logits)
        loss = mean_of_top(losses, fake_logits, hyperparams.top_k) if game.selects_top else jnp.mean(losses)
        return loss, on_fake

    if game.normalizes_gradient:
        loss, on_fake, gradient_stats = with_normalized_gradient(adversarial, fake, state.running_stats, axis_name)
    else:
        (loss, on_fake), gradient_stats = adversarial(fake), {}
    view = GeneratorView(
        generate=functools.partial(_generate, game, variables, part["label"], key),
        latent=latent,
        fake=fake,
        keys=draws.by_example("penalty"),
        params=params,
        label=part["label"],
        fake_class_logits=on_fake.class_logits,
        running_stats=state.running_stats,
        path=_style_path(game, variables, latent, draws) if game.has_styles else None,
    )
    penalty, terms, observed = penalties_of(game.generator, view, hyperparams, penalized)
    return loss + penalty, (new_batch_stats, {"generator_loss": loss, **terms}, observed | gradient_stats)


def train_step(
    state: TrainState, batches: Batch, hyperparams: Hyperparams, *, game: Game, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """`game.discriminator.steps` updates of D, then `game.generator.steps` of G, then the generator's EMA.

    `batches` has a leading axis, one batch of real images for each of D's updates, [discriminator_steps, B, ...];
    the generator's updates use the last of them. With `game.share_latents` all updates use the same latents, and the
    last of D's and the first of G's, between which G does not change, the same generated images: they are computed
    once; with microbatches each update computes its own, to save memory. Metrics are those of each last update.
    """
    images_before, generated = state.images, None
    if game.share_latents:
        key, latent_key = jax.random.split(state.key)
        state = state.replace(key=key)
        first = jax.tree.map(lambda leaf: leaf[0], batches)
        latents = game.latents(Draws(latent_key, first).by_example("latent"))
        batches |= {"latent": jnp.broadcast_to(latents, (game.discriminator.steps, *latents.shape))}
    common: dict[str, Any] = {"game": game, "axis_name": axis_name}
    *others, last = [
        jax.tree.map(lambda leaf, index=index: leaf[index], batches) for index in range(game.discriminator.steps)
    ]
    for batch in others:
        state, _ = discriminator_step(state, batch, hyperparams, **common)
    if game.share_latents and game.microbatches == 1:
        generated = generate_batch(state.generator, last, named_key(latent_key, "generator"), **common)
    state, discriminator_metrics = discriminator_step(state, last, hyperparams, generated=generated, **common)
    state, generator_metrics = generator_step(state, last, hyperparams, generated=generated, **common)
    for _ in range(game.generator.steps - 1):
        state, generator_metrics = generator_step(state, last, hyperparams, **common)
    ema = update_ema(state.ema, state.generator, state.images - images_before, hyperparams.ema_halflife)
    return state.replace(step=state.step + 1, ema=ema), discriminator_metrics | generator_metrics


def generate_batch(
    generator: Player, batch: Batch, key: Array, *, game: Game, axis_name: str | None = None
) -> GeneratedBatch:
    """The images of a batch's latents and labels, for the next update of each network."""

    def generate(params: Any) -> tuple[Array, Any]:
        variables = {"params": params, "batch_stats": generator.batch_stats}
        return game.on_axis(axis_name).generate(variables, batch["latent"], batch["label"], train=True, key=key)

    image, vjp_fn, batch_stats = jax.vjp(generate, generator.params, has_aux=True)
    return GeneratedBatch(image, batch_stats, vjp_fn, key)


@jax.custom_vjp
def _reuse_generated(params: Any, generated: GeneratedBatch) -> Array:
    """The images of `generated`, as a function of the parameters that made them: nothing is computed again."""
    return generated.image


_reuse_generated.defvjp(
    lambda params, generated: (generated.image, generated.vjp_fn),
    lambda vjp_fn, gradient: (*vjp_fn(gradient), None),
)


def _generate(game: Game, variables: dict, label: Array, key: Array, latent: Array) -> Array:
    """Images of latents in training mode, without the updated batch statistics."""
    return game.generate(variables, latent, label, train=True, key=key)[0]


def _discriminate(
    game: Game, params: Any, draws: Draws, p: Array, use: str, batch_stats: Any, image: Array, rows: Rows = ALL
) -> DiscriminatorOutput:
    """D's output for augmented images, "real" or "fake" ones: `use` names the random draws of both."""
    image = game.augmented(image, rows.of(draws.by_example(f"augment_{use}")), p)
    variables, label = {"params": params, "batch_stats": batch_stats}, rows.of(draws.part["label"])
    return game.discriminate(variables, image, label, train=True, key=draws.of_part(use), rows=rows)


def _with_pseudo_images(game: Game, generate: Callable, real: Array, draws: Draws, p: Array) -> Array:
    """Real images, each replaced by a generated one with probability p (Jiang et al. 2021, arXiv:2111.06849)."""
    is_replaced = jax.vmap(jax.random.bernoulli, in_axes=(0, None))(draws.by_example("pseudo"), p)
    pseudo = generate(game.latents(draws.by_example("pseudo_latent")))
    return jnp.where(is_replaced.reshape(-1, *[1] * (real.ndim - 1)), pseudo, real)


def _style_path(game: Game, variables: dict, latent: Array, draws: Draws) -> Path:
    """The images as a function of offsets of the styles, for path length.

    Only every second example, to save memory; the same examples on any number of devices if each has an even number.
    """
    latent, label, key = latent[::2], draws.part["label"][::2], draws.of_part("path_length")

    def images(offsets: Array) -> Array:
        return game.generate(variables, latent, label, train=True, key=key, style_offsets=offsets)[0]

    start = game.zero_style_offsets(latent, label)
    assert start is not None  # G has styles
    return Path(images, start, draws.by_example("penalty")[::2])


def _check_rows(game: Game, examples: int) -> None:
    rows = game.gradient_estimator.rows
    if rows.every > 1 and examples % (game.microbatches * rows.period):
        raise UserError(
            f"config.gradient_estimator: every={rows.every} does not divide a device's {examples} examples "
            f"({game.microbatches} microbatches, groups of {rows.run}); use config.parallel='jit', fewer devices, or "
            f"every=1"
        )
