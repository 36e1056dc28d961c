"""A GAN in one page: the discriminator's update, the generator's update, and the turn that both make.

Pure functions `(state, batch, hyperparams, *, game, axis_name) -> (state, metrics)`: they can be jitted, pmapped (with
the name of the mapped axis), vmapped over state and hyperparams, or scanned over batches. A batch is
`{"image": float32 [B, H, W, C] in the game's range, "label": int32 [B], "row": int32 [B]}`, where `row` is an
example's place in the whole batch: on several devices each has its own rows, and all draw what one device would.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from gan import augment
from gan.errors import UserError
from gan.game import DiscriminatorOutput, Game, PlayerSpec
from gan.penalties import DECAY, PENALTIES, DiscriminatorView, GeneratorView, Path
from gan.rows import ALL, Rows
from gan.schedules import Hyperparams, PlayerHyperparams
from gan.state import GeneratorEMA, Player, TrainState, example_keys, named_key

Batch = dict[str, Array]
Metrics = dict[str, Array]

ADAPT_EVERY = 4
"""Updates of the discriminator from one move of an adaptive augmentation's probability to the next."""


class GeneratedBatch(NamedTuple):
    """Images that both players learn from, D first, while G is as it was: one forward pass of G for two updates."""

    image: Array
    """[B, H, W, C], before any augmentation."""
    batch_stats: Any
    """G's batch statistics after drawing them."""
    vjp_fn: Callable[[Array], tuple]
    """The slope of a loss by the images to its slope by G's parameters. Holds what G's layers kept for it."""
    key: Array
    """Of G's own random draws."""


def discriminator_step(
    state: TrainState, batch: Batch, hyperparams: Hyperparams, *, game: Game, axis_name: str | None = None,
    fakes: GeneratedBatch | None = None,
) -> tuple[TrainState, Metrics]:  # fmt: skip
    """One update of the discriminator, on real images and on as many fakes. The generator is left as it was.

    Latents are those of the batch, `batch["latent"]` [B, Z], or drawn from the step's own key where it has none. The
    generated images are made of them, or are those of `fakes`, which must be of these latents and of one microbatch.

    Raises `UserError` where the period of the estimator's rows does not divide a device's examples.
    """
    _check_rows(game, len(batch["label"]))
    game = game.on_axis(axis_name)
    key, step_key = jax.random.split(state.key)
    p = _augment_p(game, state, hyperparams)

    def objective(params: Any, batch_stats: Any, part: Batch, penalized: bool) -> tuple[Array, tuple]:
        label, keys = part["label"], _example_keys(step_key, part)
        draws_key = named_key(part["key"], "generator") if fakes is None else fakes.key

        def generated(latent: Array) -> Array:
            return game.generate(state.generator.variables, latent, label, train=True, key=draws_key)[0]

        def judge(image: Array, draws: str, batch_stats: Any, rows: Rows = ALL) -> DiscriminatorOutput:
            variables = {"params": params, "batch_stats": batch_stats}
            image = game.augmented(image, rows.of(keys(f"augment_{draws}")), p)
            key = named_key(part["key"], draws)
            return game.discriminate(variables, image, rows.of(label), train=True, key=key, rows=rows)

        latent = part["latent"] if "latent" in part else game.latents(keys("latent"))
        real, fake = part["image"], generated(latent) if fakes is None else fakes.image
        if game.augment.pseudo:
            is_replaced = jax.vmap(jax.random.bernoulli, in_axes=(0, None))(keys("pseudo"), p)
            pseudo = generated(game.latents(keys("pseudo_latent")))
            real = jnp.where(is_replaced.reshape(-1, *[1] * (real.ndim - 1)), pseudo, real)
        # Real and fake images are judged apart: with batch normalization each has statistics of its own.
        on_real = judge(real, "real", batch_stats)
        on_fake = judge(fake, "fake", on_real.batch_stats)
        # A loss may compare an example with others, wherever they are.
        real_logits, fake_logits = _gather_logits(axis_name, (on_real.logits, on_fake.logits))
        loss = jnp.mean(game.loss.discriminator(real_logits, fake_logits))
        view = DiscriminatorView(
            critic=lambda image, rows=ALL: judge(image, "real", batch_stats, rows).logits,
            real=real,
            fake=fake,
            fake_critic=lambda image, rows=ALL: judge(image, "fake", on_real.batch_stats, rows).logits,
            keys=keys("penalty"),
            label=label,
            real_logits=on_real.logits,
            fake_logits=on_fake.logits,
            real_class_logits=on_real.class_logits,
            fake_class_logits=on_fake.class_logits,
            latent=latent,
            generate=generated,
            running_stats=state.running_stats,
            estimator=game.gradient_estimator,
        )
        penalty, terms, observed = _penalties(game.discriminator, view, hyperparams, penalized)
        metrics = {
            "discriminator_loss": loss,
            **terms,
            "discriminator_real": jnp.mean(jax.nn.sigmoid(real_logits)),
            "discriminator_fake": jnp.mean(jax.nn.sigmoid(fake_logits)),
        }
        if game.adaptive_augment:
            metrics |= {"augment_p": p, "discriminator_sign": jnp.mean(jnp.sign(real_logits))}
        return loss + penalty, (on_fake.batch_stats, metrics, observed)

    gradient, (batch_stats, metrics, observed) = _gradient(
        objective, state.discriminator, batch, game.discriminator, game, state.step, step_key
    )
    gradient, metrics, observed = _mean_over(axis_name, (gradient, metrics, observed))
    shown = jnp.uint32(len(batch["label"])) * _axis_size(axis_name)
    discriminator, norm = _update(
        state.discriminator, gradient, batch_stats, game.discriminator, hyperparams.discriminator
    )
    if game.clips_weights:
        bound = hyperparams.weight_clip
        discriminator = discriminator.replace(
            params=jax.tree.map(lambda leaf: jnp.clip(leaf, -bound, bound), discriminator.params)
        )
    running_stats = _update_running_stats(state.running_stats, observed)
    if game.adaptive_augment:
        running_stats["augment"] = _adapt(running_stats["augment"], metrics["discriminator_sign"], hyperparams, shown)
    state = state.replace(
        key=key, images=state.images + shown, discriminator=discriminator, running_stats=running_stats
    )
    return state, metrics | {"discriminator_gradient_norm": norm}


def generator_step(
    state: TrainState, batch: Batch, hyperparams: Hyperparams, *, game: Game, axis_name: str | None = None,
    fakes: GeneratedBatch | None = None,
) -> tuple[TrainState, Metrics]:  # fmt: skip
    """One update of the generator, on fakes. The discriminator is left as it was, its statistics too.

    Latents and fakes are as in the discriminator's update; `fakes` must be of this very generator, not yet updated.
    """
    game = game.on_axis(axis_name)
    key, step_key = jax.random.split(state.key)
    p = _augment_p(game, state, hyperparams)

    def objective(params: Any, batch_stats: Any, part: Batch, penalized: bool) -> tuple[Array, tuple]:
        label, keys = part["label"], _example_keys(step_key, part)
        draws_key = named_key(part["key"], "generator") if fakes is None else fakes.key

        def generated(
            latent: Array, label: Array = label, key: Array = draws_key, moved: Array | None = None
        ) -> tuple[Array, Any]:
            variables = {"params": params, "batch_stats": batch_stats}
            return game.generate(variables, latent, label, train=True, key=key, moved=moved)

        def judge(image: Array, draws: str) -> DiscriminatorOutput:
            image = game.augmented(image, keys(f"augment_{draws}"), p)
            return game.discriminate(
                state.discriminator.variables, image, label, train=True, key=named_key(part["key"], draws)
            )

        def path() -> Path | None:
            # Every second example, for the derivative of a derivative of all layers is large: on several devices the
            # same ones as on one, if each has an even share.
            few, their_labels = latent[::2], label[::2]
            still = game.zero_style_offsets(few, their_labels)
            if still is None:
                return None
            key = named_key(part["key"], "path_length")
            return Path(lambda moved: generated(few, their_labels, key, moved)[0], still, keys("penalty")[::2])

        latent = part["latent"] if "latent" in part else game.latents(keys("latent"))
        fake, new_batch_stats = (
            generated(latent) if fakes is None else (_reuse_generated(params, fakes), fakes.batch_stats)
        )
        # What D says of real images is ignored by most losses, and then not computed: the compiler drops it.
        on_real, on_fake = judge(part["image"], "real"), judge(fake, "fake")
        real_logits, fake_logits = _gather_logits(axis_name, (on_real.logits, on_fake.logits))
        losses = game.loss.generator(real_logits, fake_logits)
        loss = _mean_of_top(losses, fake_logits, hyperparams.top_k) if game.selects_top else jnp.mean(losses)
        view = GeneratorView(
            generate=lambda latent: generated(latent)[0],
            latent=latent,
            fake=fake,
            keys=keys("penalty"),
            params=params,
            label=label,
            fake_class_logits=on_fake.class_logits,
            running_stats=state.running_stats,
            path=path() if "path_length" in game.generator.penalties else None,
        )
        penalty, terms, observed = _penalties(game.generator, view, hyperparams, penalized)
        return loss + penalty, (new_batch_stats, {"generator_loss": loss, **terms}, observed)

    gradient, (batch_stats, metrics, observed) = _gradient(
        objective, state.generator, batch, game.generator, game, state.step, step_key
    )
    gradient, metrics, observed = _mean_over(axis_name, (gradient, metrics, observed))
    generator, norm = _update(state.generator, gradient, batch_stats, game.generator, hyperparams.generator)
    state = state.replace(
        key=key, generator=generator, running_stats=_update_running_stats(state.running_stats, observed)
    )
    return state, metrics | {"generator_gradient_norm": norm}


def train_step(
    state: TrainState, batches: Batch, hyperparams: Hyperparams, *, game: Game, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """One turn: `game.discriminator.steps` updates of D, then `game.generator.steps` of G, then the ema.

    `batches` has a leading axis, one batch of real images for each of D's updates, [discriminator_steps, B, ...];
    the generator's updates see the last of them. Where `game.share_latents`, all updates see the same latents, and the
    last of D's and the first of G's, between which G stands still, the same fakes: they are drawn once, unless
    microbatches say that memory is short. The metrics are those of each player's last update.
    """
    images_before, fakes = state.images, None
    if game.share_latents:
        key, latent_key = jax.random.split(state.key)
        state = state.replace(key=key)
        latents = game.latents(_example_keys(latent_key, jax.tree.map(lambda leaf: leaf[0], batches))("latent"))
        batches |= {"latent": jnp.broadcast_to(latents, (game.discriminator.steps, *latents.shape))}
    update = {"game": game, "axis_name": axis_name}
    *others, last = [
        jax.tree.map(lambda leaf, index=index: leaf[index], batches) for index in range(game.discriminator.steps)
    ]
    for batch in others:
        state, _ = discriminator_step(state, batch, hyperparams, **update)
    if game.share_latents and game.microbatches == 1:
        fakes = generate_batch(state.generator, last, named_key(latent_key, "generator"), **update)
    state, discriminator_metrics = discriminator_step(state, last, hyperparams, fakes=fakes, **update)
    state, generator_metrics = generator_step(state, last, hyperparams, fakes=fakes, **update)
    for _ in range(game.generator.steps - 1):
        state, generator_metrics = generator_step(state, last, hyperparams, **update)
    ema = update_ema(state.ema, state.generator, state.images - images_before, hyperparams.ema_halflife)
    return state.replace(step=state.step + 1, ema=ema), discriminator_metrics | generator_metrics


def generate_batch(
    generator: Player, batch: Batch, key: Array, *, game: Game, axis_name: str | None = None
) -> GeneratedBatch:
    """The fakes of a batch's latents and labels, for the next update of each player."""

    def drawn(params: Any) -> tuple[Array, Any]:
        variables = {"params": params, "batch_stats": generator.batch_stats}
        return game.on_axis(axis_name).generate(variables, batch["latent"], batch["label"], train=True, key=key)

    image, vjp_fn, batch_stats = jax.vjp(drawn, generator.params, has_aux=True)
    return GeneratedBatch(image, batch_stats, vjp_fn, key)


def update_ema(ema: GeneratorEMA, generator: Player, images: Array, halflife: Array) -> GeneratorEMA:
    """The exponential moving average after `images` more: average + (1 - 2^(-images / halflife)) (new - ema).

    The batch statistics are averaged with the parameters that they belong to.

    Reference: Yazıcı et al. 2019, arXiv:1806.04498; as a half-life in images: Karras et al. 2022, arXiv:2206.00364.
    """
    keep = jnp.exp2(-images.astype(jnp.float32) / halflife)

    def mix(old: Any, new: Any) -> Any:
        return jax.tree.map(lambda a, b: b + keep.astype(b.dtype) * (a - b), old, new)

    return GeneratorEMA(mix(ema.params, generator.params), mix(ema.batch_stats, generator.batch_stats))


def _check_rows(game: Game, examples: int) -> None:
    rows = game.gradient_estimator.rows
    if rows.every > 1 and examples % (game.microbatches * rows.period):
        raise UserError(
            f"config.gradient_estimator: every={rows.every} does not divide a device's {examples} examples "
            f"({game.microbatches} microbatches, groups of {rows.run}); use config.parallel='jit', fewer devices, or "
            f"every=1"
        )


def _example_keys(step_key: Array, part: Batch) -> Callable[[str], Array]:
    """Keys of the examples of `part` for each use, by its name."""
    return lambda use: example_keys(named_key(step_key, use), part["row"])


@jax.custom_vjp
def _reuse_generated(params: Any, fakes: GeneratedBatch) -> Array:
    """The fakes as what G makes with the parameters that drew them: nothing is computed again."""
    return fakes.image


_reuse_generated.defvjp(
    lambda params, fakes: (fakes.image, fakes.vjp_fn),
    lambda vjp_fn, slope: (*vjp_fn(slope), None),
)


def _penalties(rules: PlayerSpec, view: Any, hyperparams: Hyperparams, penalized: bool) -> tuple[Array, dict, dict]:
    """The weighted sum of a player's penalties, each of them unweighted, and what they observe.

    A lazy penalty counts as many times as the turns that it stands for, so that means over turns are what they would
    be without the laziness (Karras et al. 2020, arXiv:1912.04958, appendix B).
    """
    total, terms, observed = jnp.float32(0.0), {}, {}
    for name in rules.penalties:
        penalty = PENALTIES[name]
        if penalized:
            terms[name] = rules.penalty_interval * jnp.mean(penalty.fn(view))
            total += hyperparams.penalties[name] * terms[name]
        else:
            terms[name] = jnp.float32(0.0)
        if penalty.stats_fn:
            observed[name] = jax.tree.map(jnp.mean, penalty.stats_fn(view)) if penalized else view.running_stats[name]
    return total, terms, observed


def _gradient(
    objective: Callable, player: Player, batch: Batch, rules: PlayerSpec, game: Game, step: Array, key: Array
) -> tuple[Any, tuple]:
    """The gradient of `objective(params, batch_stats, part, penalized) -> (loss, (batch_stats, metrics, observed))`.

    The batch comes in `game.microbatches` parts, one after the other: their gradients, metrics and observations are
    averaged, their batch statistics handed on. `part["key"]` is the part's own, for draws that are not by example.
    """
    microbatches, period = game.microbatches, game.gradient_estimator.rows.period

    def over_parts(penalized: bool) -> tuple[Any, tuple]:
        slope = jax.grad(lambda *given: objective(*given, penalized), has_aux=True)
        if microbatches == 1:
            return slope(player.params, player.batch_stats, batch | {"key": key})
        # Row r goes to part r modulo their number, or r // period: a batch that is split over devices stays split
        # evenly, and the rows of an estimator stay those that they are without microbatches.
        parts = jax.tree.map(lambda leaf: _in_turn(leaf, microbatches, period), batch)
        parts["key"] = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(microbatches))

        def add(carried: tuple, part: Batch) -> tuple[tuple, None]:
            sums, batch_stats = carried
            gradient, (batch_stats, *means) = slope(player.params, batch_stats, part)
            return (jax.tree.map(jnp.add, sums, (gradient, *means)), batch_stats), None

        first = jax.eval_shape(slope, player.params, player.batch_stats, jax.tree.map(lambda leaf: leaf[0], parts))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (first[0], *first[1][1:]))
        (sums, batch_stats), _ = jax.lax.scan(add, (zeros, player.batch_stats), parts)
        gradient, *means = jax.tree.map(lambda leaf: leaf / microbatches, sums)
        return gradient, (batch_stats, *means)

    if rules.penalty_interval == 1 or not rules.penalties:
        return over_parts(True)
    return jax.lax.cond(step % rules.penalty_interval == 0, lambda: over_parts(True), lambda: over_parts(False))


def _in_turn(leaf: Array, parts: int, period: int) -> Array:
    """[B, ...] to [parts, B / parts, ...]: `period` rows to the first part, as many to the second, and so around."""
    rest = leaf.shape[1:]
    if period == 1:
        return leaf.reshape(-1, parts, *rest).swapaxes(0, 1)
    return leaf.reshape(-1, parts, period, *rest).swapaxes(0, 1).reshape(parts, -1, *rest)


def _update(
    player: Player, gradient: Any, batch_stats: Any, rules: PlayerSpec, hyperparams: PlayerHyperparams
) -> tuple[Player, Array]:
    """The player after one step of its optimizer, and the norm of its gradient before that is shortened."""
    gradient = rules.scatter(gradient)
    norm = optax.tree.norm(gradient)
    limit = hyperparams.clip_norm
    scale = jnp.where((limit > 0) & (norm > limit), limit / norm, 1.0)
    gradient = jax.tree.map(lambda leaf: leaf * scale, gradient)
    updates, opt_state = rules.optimizer(hyperparams).update(gradient, player.opt_state, player.params)
    return Player(rules.gather(optax.apply_updates(player.params, updates)), batch_stats, opt_state), norm


def _mean_of_top(losses: Array, logits: Array, share: Array) -> Array:
    """The mean loss of the share of the examples with the largest logits, at least one.

    Reference: Sinha et al. 2020, Top-k Training of GANs, arXiv:2002.06224, equation 5.
    """
    count = jnp.maximum(jnp.round(share * len(logits)), 1.0)
    rank = jnp.argsort(jnp.argsort(-logits))
    return jnp.sum(jnp.where(rank < count, losses, 0.0)) / count


def _augment_p(game: Game, state: TrainState, hyperparams: Hyperparams) -> Array:
    return state.running_stats["augment"]["p"] if game.adaptive_augment else hyperparams.augment.p


def _adapt(running_stats: dict, sign: Array, hyperparams: Hyperparams, images: Array) -> dict:
    """The memory of an adaptive augmentation after an update whose logits on real images have this mean sign.

    Every few updates p moves by the mean over them (Karras et al. 2020, arXiv:2006.06676, section 3.2).
    """
    signs, updates = running_stats["signs"] + sign, running_stats["updates"] + 1
    is_due = updates == ADAPT_EVERY
    moved = augment.adapted(
        running_stats["p"],
        signs / ADAPT_EVERY,
        target=hyperparams.augment.target,
        images=ADAPT_EVERY * images.astype(jnp.float32),
        ada_images=hyperparams.augment.ada_images,
    )
    return {
        "p": jnp.where(is_due, moved, running_stats["p"]),
        "signs": jnp.where(is_due, 0.0, signs),
        "updates": jnp.where(is_due, 0, updates),
    }


def _update_running_stats(running_stats: dict, observed: dict) -> dict:
    """Running means after one more observation of each."""
    return running_stats | {
        name: jax.tree.map(lambda old, new: old + (1.0 - DECAY) * (new - old), running_stats[name], means)
        for name, means in observed.items()
    }


def _gather_logits(axis_name: str | None, logits: Any) -> Any:
    """The logits of all devices' examples: [B] on each of n devices to [n B] on all."""
    if axis_name is None:
        return logits
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis_name, tiled=True), logits)


def _mean_over(axis_name: str | None, tree: Any) -> Any:
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def _axis_size(axis_name: str | None) -> Array:
    return jnp.uint32(1 if axis_name is None else jax.lax.axis_size(axis_name))
