"""A GAN in one page: the discriminator's update, the generator's update, and the turn that both make.

Pure functions `(state, batch, hyperparams, *, game, axis_name) -> (state, metrics)`: they can be jitted, pmapped (with
the name of the mapped axis), vmapped over state and hyperparams, or scanned over batches. A batch is
`{"image": float32 [B, H, W, C] in the game's range, "label": int32 [B], "row": int32 [B]}`, where `row` is an
example's place in the whole batch: on several devices each has its own rows, and all draw what one device would.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from gan.game import Game
from gan.penalties import PENALTIES
from gan.schedules import Hyperparams
from gan.state import Average, Player, TrainState, example_keys, named_key

Batch = dict[str, Array]
Metrics = dict[str, Array]


def discriminator_step(
    state: TrainState, batch: Batch, hyperparams: Hyperparams, *, game: Game, axis_name: str | None = None,
    latent_key: Array | None = None
) -> tuple[TrainState, Metrics]:  # fmt: skip
    """One update of the discriminator, on real images and on as many fresh fakes. The generator is left as it was.

    Latents are drawn from `latent_key`, or from the step's own key where there is none.
    """
    game = game.on_axis(axis_name)
    key, step_key = jax.random.split(state.key)
    label = batch["label"]
    latent_key = step_key if latent_key is None else latent_key
    latent = game.latents(example_keys(named_key(latent_key, "latent"), batch["row"]))
    fake, _ = game.generate(state.generator.variables, latent, label, train=True, key=named_key(step_key, "generator"))

    def loss(params: Any) -> tuple[Array, tuple]:
        variables = {"params": params, "batch_stats": state.discriminator.batch_stats}
        # Real and fake images are judged apart: with batch normalisation each has statistics of its own.
        real_logits, batch_stats = game.discriminate(
            variables, batch["image"], label, train=True, key=named_key(step_key, "real")
        )
        variables = {"params": params, "batch_stats": batch_stats}
        fake_logits, batch_stats = game.discriminate(
            variables, fake, label, train=True, key=named_key(step_key, "fake")
        )

        def critic(image: Array) -> Array:
            return game.discriminate(variables, image, label, train=True, key=named_key(step_key, "penalty"))[0]

        terms = {"discriminator_loss": jnp.mean(game.loss.discriminator(real_logits, fake_logits))}
        for name in game.penalties:
            terms[name] = jnp.mean(PENALTIES[name](critic, batch["image"], fake))
        total = terms["discriminator_loss"] + sum(hyperparams.penalties[name] * terms[name] for name in game.penalties)
        return total, (batch_stats, terms, real_logits, fake_logits)

    gradient, (batch_stats, terms, real_logits, fake_logits) = jax.grad(loss, has_aux=True)(state.discriminator.params)
    gradient = _mean_over(axis_name, gradient)
    discriminator = _update(
        state.discriminator, gradient, batch_stats, game.discriminator_optimizer(hyperparams.discriminator)
    )
    metrics = terms | {
        "discriminator_real": jnp.mean(jax.nn.sigmoid(real_logits)),
        "discriminator_fake": jnp.mean(jax.nn.sigmoid(fake_logits)),
    }
    metrics = _mean_over(axis_name, metrics) | {"discriminator_gradient_norm": optax.tree.norm(gradient)}
    shown = jnp.uint32(len(label)) * _axis_size(axis_name)
    return state.replace(key=key, images=state.images + shown, discriminator=discriminator), metrics


def generator_step(
    state: TrainState, batch: Batch, hyperparams: Hyperparams, *, game: Game, axis_name: str | None = None,
    latent_key: Array | None = None
) -> tuple[TrainState, Metrics]:  # fmt: skip
    """One update of the generator, on fresh fakes. The discriminator is left as it was, its statistics too.

    Latents are drawn from `latent_key`, or from the step's own key where there is none.
    """
    game = game.on_axis(axis_name)
    key, step_key = jax.random.split(state.key)
    label = batch["label"]
    latent_key = step_key if latent_key is None else latent_key
    latent = game.latents(example_keys(named_key(latent_key, "latent"), batch["row"]))
    # Ignored by most losses, and then not computed: the compiler drops it.
    real_logits, _ = game.discriminate(
        state.discriminator.variables, batch["image"], label, train=True, key=named_key(step_key, "real")
    )

    def loss(params: Any) -> tuple[Array, Any]:
        variables = {"params": params, "batch_stats": state.generator.batch_stats}
        fake, batch_stats = game.generate(variables, latent, label, train=True, key=named_key(step_key, "generator"))
        fake_logits, _ = game.discriminate(
            state.discriminator.variables, fake, label, train=True, key=named_key(step_key, "fake")
        )
        return jnp.mean(game.loss.generator(real_logits, fake_logits)), batch_stats

    (value, batch_stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.generator.params)
    gradient = _mean_over(axis_name, gradient)
    generator = _update(state.generator, gradient, batch_stats, game.generator_optimizer(hyperparams.generator))
    metrics = _mean_over(axis_name, {"generator_loss": value}) | {"generator_gradient_norm": optax.tree.norm(gradient)}
    return state.replace(key=key, generator=generator), metrics


def train_step(
    state: TrainState, batches: Batch, hyperparams: Hyperparams, *, game: Game, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """One turn: `game.discriminator_steps` updates of D, then `game.generator_steps` of G, then the average.

    `batches` has a leading axis, one batch of real images for each of D's updates, [discriminator_steps, B, ...];
    the generator's updates see the last of them. Where `game.shared_latents`, all updates see the same latents. The
    metrics are those of each player's last update.
    """
    images_before = state.images
    latent_key = None
    if game.shared_latents:
        key, latent_key = jax.random.split(state.key)
        state = state.replace(key=key)
    update = {"game": game, "axis_name": axis_name, "latent_key": latent_key}
    for index in range(game.discriminator_steps):
        batch = jax.tree.map(lambda leaf, index=index: leaf[index], batches)
        state, discriminator_metrics = discriminator_step(state, batch, hyperparams, **update)
    for _ in range(game.generator_steps):
        state, generator_metrics = generator_step(state, batch, hyperparams, **update)
    average = average_generator(
        state.average, state.generator, state.images - images_before, hyperparams.average_halflife
    )
    return state.replace(step=state.step + 1, average=average), discriminator_metrics | generator_metrics


def average_generator(average: Average, generator: Player, images: Array, halflife: Array) -> Average:
    """The exponential moving average after `images` more: average + (1 - 2^(-images / halflife)) (new - average).

    The batch statistics are averaged with the parameters that they belong to.

    Reference: Yazıcı et al. 2019, arXiv:1806.04498; as a half-life in images: Karras et al. 2022, arXiv:2206.00364.
    """
    keep = jnp.exp2(-images.astype(jnp.float32) / halflife)

    def mix(old: Any, new: Any) -> Any:
        return jax.tree.map(lambda a, b: b + keep.astype(b.dtype) * (a - b), old, new)

    return Average(mix(average.params, generator.params), mix(average.batch_stats, generator.batch_stats))


def _update(player: Player, gradient: Any, batch_stats: Any, optimizer: optax.GradientTransformation) -> Player:
    updates, opt_state = optimizer.update(gradient, player.opt_state, player.params)
    return Player(optax.apply_updates(player.params, updates), batch_stats, opt_state)


def _mean_over(axis_name: str | None, tree: Any) -> Any:
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def _axis_size(axis_name: str | None) -> Array:
    return jnp.uint32(1 if axis_name is None else jax.lax.axis_size(axis_name))
