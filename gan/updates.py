"""What both updates share: gradients by parts of a batch, lazy penalties, the optimizer, and running averages."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from gan import augment
from gan.estimators import sum_of_squares
from gan.game import Game, PlayerSpec
from gan.penalties import DECAY, PENALTIES
from gan.schedules import Hyperparams, PlayerHyperparams
from gan.state import IMAGE_GRADIENT, GeneratorEMA, Player, TrainState

Batch = dict[str, Array]

ADAPT_EVERY = 4
"""Updates of the discriminator between two changes of an adaptive augmentation's probability."""
TINY = 1e-12
"""What keeps the relative update of parameters that are all zero finite."""
DECAYS = {IMAGE_GRADIENT: 0.9}
"""The part of a running mean that is kept at each update, by the name of the statistics; of all others it is DECAY."""
FLAT = 1e-8
"""Added to the norm of a gradient, which is zero where D is constant (the authors' value)."""


def gradient_of(
    objective: Callable, player: Player, spec: PlayerSpec, batch: Batch, *, game: Game, step: Array, key: Array
) -> tuple[Any, tuple]:
    """The gradient of `objective`, and its `(batch_stats, metrics, observed)`.

    `objective(params, batch_stats, part, penalized)` returns `(loss, (batch_stats, metrics, observed))`, where
    `observed` are statistics for running means, and `penalized` says whether penalties are included.

    Lazy regularization: the penalties are part of the objective at every `penalty_interval`-th step.

    The batch comes in `game.microbatches` parts, one after the other: their gradients, metrics and observations are
    averaged, and each part starts from the batch statistics of the part before it. `part["key"]` is the part's own
    key, for draws that are not made by example.

    The gradient of frozen parameters is zero, and is not computed.
    """

    def over_parts(penalized: bool) -> tuple[Any, tuple]:
        def penalized_objective(params: Any, *given: Any) -> tuple[Array, tuple]:
            return objective(_without_gradient(params, spec), *given, penalized)

        gradient = jax.grad(penalized_objective, has_aux=True)
        if game.microbatches == 1:
            return gradient(player.params, player.batch_stats, batch | {"key": key})
        return _accumulated(gradient, player, batch, game, key)

    if spec.penalty_interval == 1 or not spec.penalties:
        return over_parts(True)
    return jax.lax.cond(step % spec.penalty_interval == 0, lambda: over_parts(True), lambda: over_parts(False))


def _accumulated(gradient: Callable, player: Player, batch: Batch, game: Game, key: Array) -> tuple[Any, tuple]:
    """The mean of `gradient` over the parts of a batch."""
    microbatches, period = game.microbatches, game.gradient_estimator.rows.period
    # Row r goes to part (r // period) modulo the number of parts: a batch that is split over devices stays evenly
    # split, and the rows of an estimator stay those that they are without microbatches.
    parts = jax.tree.map(lambda leaf: _by_parts(leaf, microbatches, period), batch)
    parts["key"] = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(microbatches))

    def add(carried: tuple, part: Batch) -> tuple[tuple, None]:
        sums, batch_stats = carried
        part_gradient, (batch_stats, *means) = gradient(player.params, batch_stats, part)
        return (jax.tree.map(jnp.add, sums, (part_gradient, *means)), batch_stats), None

    first = jax.eval_shape(gradient, player.params, player.batch_stats, jax.tree.map(lambda leaf: leaf[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (first[0], *first[1][1:]))
    (sums, batch_stats), _ = jax.lax.scan(add, (zeros, player.batch_stats), parts)
    mean, *means = jax.tree.map(lambda leaf: leaf / microbatches, sums)
    return mean, (batch_stats, *means)


def _by_parts(leaf: Array, parts: int, period: int) -> Array:
    """[B, ...] to [parts, B / parts, ...]: `period` rows to the first part, as many to the second, and so on."""
    rest = leaf.shape[1:]
    if period == 1:
        return leaf.reshape(-1, parts, *rest).swapaxes(0, 1)
    return leaf.reshape(-1, parts, period, *rest).swapaxes(0, 1).reshape(parts, -1, *rest)


def penalties_of(spec: PlayerSpec, view: Any, hyperparams: Hyperparams, penalized: bool) -> tuple[Array, dict, dict]:
    """The weighted sum of a player's penalties, each penalty without its weight, and the statistics that they observe.

    A lazy penalty is multiplied by its interval, so that its mean over steps is what it would be at every step
    (Karras et al. 2020, arXiv:1912.04958, appendix B).
    """
    total, terms, observed = jnp.float32(0.0), {}, {}
    for name in spec.penalties:
        penalty = PENALTIES[name]
        if penalized:
            terms[name] = spec.penalty_interval * jnp.mean(penalty.fn(view))
            total += hyperparams.penalties[name] * terms[name]
        else:
            terms[name] = jnp.float32(0.0)
        if penalty.stats_fn:
            observed[name] = jax.tree.map(jnp.mean, penalty.stats_fn(view)) if penalized else view.running_stats[name]
    return total, terms, observed


def optimizer_step(
    player: Player, gradient: Any, batch_stats: Any, spec: PlayerSpec, hyperparams: PlayerHyperparams
) -> tuple[Player, dict[str, Array]]:
    """The player after one step of its optimizer, and `gradient_norm` and `relative_update`.

    The norm of its gradient is that before clipping; the relative update is |change of the parameters| / |parameters|.

    Frozen parameters stay as they are, without weight decay; their gradient is zero (`gradient_of`), and so are their
    part of the norm and their moments.
    """
    gradient = spec.scatter(gradient)
    norm = optax.tree.norm(gradient)
    limit = hyperparams.clip_norm
    scale = jnp.where((limit > 0) & (norm > limit), limit / norm, 1.0)
    gradient = jax.tree.map(lambda leaf: leaf * scale, gradient)
    updates, opt_state = spec.optimizer(hyperparams).update(gradient, player.opt_state, player.params)
    relative_update = optax.tree.norm(updates) / (optax.tree.norm(player.params) + TINY)
    params = spec.gather(optax.apply_updates(player.params, updates))
    after = Player(_with_frozen(params, player.params, spec), batch_stats, opt_state)
    return after, {"gradient_norm": norm, "relative_update": relative_update}


def clip_weights(player: Player, bound: Array, spec: PlayerSpec) -> Player:
    """The player, its parameters clipped to [-bound, bound] (Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1).

    Frozen parameters stay as they are.
    """
    params = jax.tree.map(lambda leaf: jnp.clip(leaf, -bound, bound), player.params)
    return player.replace(params=_with_frozen(params, player.params, spec))


def _without_gradient(params: Any, spec: PlayerSpec) -> Any:
    """The parameters, of which those of the frozen submodules are constants."""
    return dict(params) | {name: jax.lax.stop_gradient(params[name]) for name in spec.frozen} if spec.frozen else params


def _with_frozen(params: Any, before: Any, spec: PlayerSpec) -> Any:
    """The parameters, of which those of the frozen submodules are bitwise what they were before."""
    return dict(params) | {name: before[name] for name in spec.frozen} if spec.frozen else params


def mean_of_top(losses: Array, logits: Array, share: Array) -> Array:
    """The mean loss of the share of the examples with the largest logits, at least one.

    Reference: Sinha et al. 2020, Top-k Training of GANs, arXiv:2002.06224, equation 5.
    """
    count = jnp.maximum(jnp.round(share * len(logits)), 1.0)
    rank = jnp.argsort(jnp.argsort(-logits))
    return jnp.sum(jnp.where(rank < count, losses, 0.0)) / count


def with_normalized_gradient(
    loss: Callable[[Array], tuple[Array, Any]], image: Array, running_stats: dict, axis_name: str | None
) -> tuple[Array, Any, dict]:
    """`loss(image)`, of which the gradient by the images [B, H, W, C] is normalized, and what is observed for that.

    `loss` returns a scalar and anything else. The gradient of the latter is as it was.

    Let e be B times that gradient at one image, of n numbers, and v the running mean of the batch's mean |e|^2, this
    batch included. Then e / sqrt(n v) takes the place of e. Its root mean square is 1 / n, that of the gradient of a
    mean over the image, such as `penalties.transport`: the two keep their proportion however steep D is.

    Both running means start at zero, and v is that of |e|^2 over that of 1: at the first update it is the mean of the
    first batch. The authors' code has no such correction, and its first e is sqrt(10) times as long.

    Reference: Lin et al. 2025, Adversarial Flow Models, arXiv:2511.22475 (`grad_norm.py` in the authors' code).
    """
    (value, other), gradient = jax.value_and_grad(loss, has_aux=True)(image)
    square = jnp.mean(sum_of_squares(len(image) * gradient))
    observed = {IMAGE_GRADIENT: {"square": mean_over_devices(axis_name, square), "weight": jnp.float32(1.0)}}
    sums = update_running_stats(running_stats, observed)[IMAGE_GRADIENT]
    numbers = math.prod(image.shape[1:])
    scale = 1.0 / (jnp.sqrt(numbers * sums["square"] / sums["weight"]) + FLAT)
    value, gradient, fixed = jax.lax.stop_gradient((value, scale * gradient, image))
    return value + jnp.sum(gradient * (image - fixed)), other, observed


def update_ema(ema: GeneratorEMA, generator: Player, images: Array, halflife: Array) -> GeneratorEMA:
    """The exponential moving average after `images` more: ema + (1 - 2^(-images / halflife)) (generator - ema).

    The batch statistics are averaged with the parameters that they belong to.

    Reference: Yazıcı et al. 2019, arXiv:1806.04498; as a half-life in images: Karras et al. 2022, arXiv:2206.00364.
    """
    keep = jnp.exp2(-images.astype(jnp.float32) / halflife)

    def mix(old: Any, new: Any) -> Any:
        return jax.tree.map(lambda a, b: b + keep.astype(b.dtype) * (a - b), old, new)

    return GeneratorEMA(mix(ema.params, generator.params), mix(ema.batch_stats, generator.batch_stats))


def update_running_stats(running_stats: dict, observed: dict) -> dict:
    """Running means of statistics, such as a penalty's, after one more observation of each."""

    def updated(name: str, means: Any) -> Any:
        decay = DECAYS.get(name, DECAY)
        return jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), running_stats[name], means)

    return running_stats | {name: updated(name, means) for name, means in observed.items()}


def augment_probability(game: Game, state: TrainState, hyperparams: Hyperparams) -> Array:
    """The probability of the augmentation: scheduled, or the adaptive one in the state."""
    return state.running_stats["augment"]["p"] if game.adaptive_augment else hyperparams.augment.p


def adapt_augment(running_stats: dict, sign: Array, hyperparams: Hyperparams, images: Array) -> dict:
    """The statistics of an adaptive augmentation after an update with this mean sign of D's logits on real images.

    Its probability changes at every ADAPT_EVERY-th update, by the mean sign over these updates (Karras et al. 2020,
    arXiv:2006.06676, section 3.2).
    """
    signs, updates = running_stats["signs"] + sign, running_stats["updates"] + 1
    is_due = updates == ADAPT_EVERY
    adapted = augment.adapted(
        running_stats["p"],
        signs / ADAPT_EVERY,
        target=hyperparams.augment.target,
        images=ADAPT_EVERY * images.astype(jnp.float32),
        ada_images=hyperparams.augment.ada_images,
    )
    return {
        "p": jnp.where(is_due, adapted, running_stats["p"]),
        "signs": jnp.where(is_due, 0.0, signs),
        "updates": jnp.where(is_due, 0, updates),
    }


def gather_logits(axis_name: str | None, logits: Any) -> Any:
    """The logits of all devices' examples: [B] on each of n devices to [n B] on all."""
    if axis_name is None:
        return logits
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis_name, tiled=True), logits)


def mean_over_devices(axis_name: str | None, tree: Any) -> Any:
    """The mean of a tree over the devices of a mapped axis."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def device_count(axis_name: str | None) -> int:
    """The number of devices on a mapped axis, 1 without one."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)
