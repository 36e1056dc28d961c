"""Samples from the EMA generator of a run, in evaluation mode.

Sample i of seed s does not depend on the batch that it is drawn in: its latent depends on (s, i) only, and batch
normalization uses running statistics, or standing statistics if `config.evaluation.standing_batches` is positive.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from gan import build
from gan.data import is_point, to_uint8
from gan.game import Game
from gan.networks.layers.normalization import Standardized
from gan.parallel import sharding
from gan.state import GeneratorEMA, Player, example_keys, named_key

MAX_SAMPLES = 2**24
"""Per command: the samples are held in memory until they are written."""

MAX_COLUMNS = 25
"""The image grid has a column for each class, up to this many."""


def ready(setup: build.Setup, ema: GeneratorEMA) -> GeneratorEMA:
    """The EMA generator as all samples are drawn from it: with standing statistics if the run asks for them.

    They depend on the run's own seed and batch size, so that image grids, metrics and `--mode=sample` with any seed
    show the same generator.
    """
    options = setup.options
    return standing(setup.game, ema, seed=options.seed, batches=options.standing_batches, batch_size=options.batch_size)


def preview(setup: build.Setup, ema: GeneratorEMA, count: int) -> np.ndarray:
    """The first `count` samples of the run's own seed: images uint8 [count, H, W, C], or points float32."""
    samples = draw(setup.game, ready(setup, ema), seed=setup.options.seed, count=count, batch_size=count)
    return next(samples)["image"]


def standing(game: Game, ema: GeneratorEMA, *, seed: int, batches: int, batch_size: int) -> GeneratorEMA:
    """The EMA generator with standing statistics: batch statistics of its own samples replace the running averages.

    The mean and variance of every batch normalization are replaced by the averages, over `batches` batches of new
    latents and labels, of the mean and variance of each batch. Other entries of `batch_stats`, such as the vectors of
    spectral normalization, are unchanged. A batch is sharded if the number of devices divides it. With 0 batches, or
    without batch normalization, the generator is unchanged.

    Reference: Brock et al. 2019, arXiv:1809.11096, appendix C ("standing statistics", 100 batches).
    """
    mesh, total = sharding.local_mesh(), None
    split = sharding.split_rows(mesh, 0) if batch_size % mesh.size == 0 else sharding.replicated(mesh)
    for index in range(batches):
        rows = jax.device_put(np.arange(index * batch_size, (index + 1) * batch_size, dtype=np.uint32), split)
        moments = _moments(ema, rows, jnp.uint32(seed), jnp.uint32(index), game=game)
        if not moments:
            return ema
        total = moments if total is None else jax.tree.map(jnp.add, total, moments)
    if total is None:
        return ema

    def replace(path: tuple, leaf: Array) -> Array:
        moment = total.get("/".join(entry.key for entry in path))
        return leaf if moment is None else (moment / batches).astype(leaf.dtype)

    return dataclasses.replace(ema, batch_stats=jax.tree_util.tree_map_with_path(replace, ema.batch_stats))


def draw(
    game: Game,
    ema: GeneratorEMA,
    *,
    seed: int,
    count: int,
    batch_size: int = 100,
    labels: Sequence[int] = (),
    same_latents: bool = False,
    offset: Array | None = None,
    rows: np.ndarray | None = None,
    track: Callable[..., Iterable] | None = None,
) -> Iterator[dict]:
    """Yields samples 0..count - 1 in batches {"image": uint8 [n, H, W, C], "label": int32 [n]}, n <= batch_size.

    Batches are sharded over the devices. 2-D points stay float32.

    Args:
      labels: sample i has the label labels[i % len(labels)]; by default all classes of the game, in equal shares.
      same_latents: sample i has the latent i // len(labels) of the seed instead of the latent i.
      offset: added to each latent [Z], or where the generator has styles to the styles [L, W] of each.
      rows: int [count], the numbers of the samples in place of 0..count - 1.
      track: logs the progress: `gan.io.progress.progress`.
    """
    mesh = sharding.local_mesh()
    cycle = np.asarray(labels or range(max(game.num_classes, 1)), np.int32)
    batch_size = -(-batch_size // mesh.size) * mesh.size  # a multiple of the devices
    starts = range(0, count, batch_size)
    for first in track(starts, total=len(starts), what="Drawing samples, in batches") if track else starts:
        # Always a full batch, so that only one shape is compiled; samples beyond `count` are discarded.
        batch = np.arange(first, first + batch_size, dtype=np.uint32)
        if rows is not None:
            batch = np.resize(rows[first : first + batch_size], batch_size).astype(np.uint32)
        latent_rows = batch // len(cycle) if same_latents else batch
        inputs = jax.device_put((latent_rows, cycle[batch % len(cycle)]), sharding.split_rows(mesh, 0))
        image, label = jax.device_get(_samples(ema, *inputs, jnp.uint32(seed), offset, game=game))
        valid = min(batch_size, count - first)
        yield {"image": image[:valid], "label": label[:valid]}


def image_dtype(game: Game) -> type[np.generic]:
    """The type of the images that `draw` yields: uint8, or float32 of points."""
    return np.float32 if is_point(game.image_shape) else np.uint8


def latents(game: Game, seed: Array, rows: Array) -> Array:
    """The latents [B, Z] of the samples `rows` [B] of a seed."""
    return game.latents(example_keys(named_key(jax.random.key(seed), "sample"), rows))


def class_columns(game: Game, labels: Sequence[int] = ()) -> int:
    """The number of columns of a grid of what `draw` yields, one per class; 0 if there is one class or too many."""
    columns = (len(labels) or game.num_classes) if game.is_conditional else 0
    return columns if 1 < columns <= MAX_COLUMNS else 0


@functools.partial(jax.jit, static_argnames="game")
def _samples(
    ema: GeneratorEMA, rows: Array, label: Array, seed: Array, offset: Array | None, *, game: Game
) -> tuple[Array | np.ndarray, Array]:
    latent, style_offsets = latents(game, seed, rows), None
    if offset is not None and game.has_styles:
        style_offsets = jnp.broadcast_to(offset, (len(rows), *offset.shape))
    elif offset is not None:
        latent = latent + offset[None]
    image, _ = game.generate(ema.variables, latent, label, train=False, style_offsets=style_offsets)
    return image if is_point(game.image_shape) else to_uint8(image, game.output.image_range), label


@functools.partial(jax.jit, static_argnames="game")
def _moments(ema: GeneratorEMA, rows: Array, seed: Array, index: Array, *, game: Game) -> dict[str, Array]:
    """The mean and variance of each batch normalization's input for one batch, by their paths in `batch_stats`.

    They are computed from the layer's input, because training updates `batch_stats` only by a moving average.
    """
    key = named_key(jax.random.key(seed), "standing")
    keys = example_keys(key, rows)
    labels = jax.vmap(lambda key: jax.random.randint(named_key(key, "label"), (), 0, max(game.num_classes, 1)))(keys)
    moments = {}

    def record(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, Standardized) and context.method_name == "__call__":
            x = args[0].astype(jnp.float32)
            path, axes = "/".join(context.module.path), tuple(range(x.ndim - 1))
            moments[f"{path}/mean"], moments[f"{path}/var"] = jnp.mean(x, axes), jnp.var(x, axes)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        dropout = jax.random.fold_in(named_key(key, "generator"), index)
        game.generate(ema.variables, game.latents(keys), labels, train=True, key=dropout)
    return moments


@functools.partial(jax.jit, static_argnames="game")
def landscape(game: Game, discriminator: Player, points: Array, real: Array) -> tuple[Array, Array]:
    """D's logits [N] at points [N, 1, 1, 2], and the negative gradient [N, 2] of G's loss with respect to each point.

    A loss that compares pairs needs real samples: the loss of a point is its mean over the points `real` [R, 1, 1, 2].
    """

    def logits_of(images: Array) -> Array:
        label = jnp.zeros(len(images), jnp.int32)
        return game.discriminate(discriminator.variables, images, label, train=False).logits

    real_logits = logits_of(real)

    def loss(logit: Array) -> Array:
        return jnp.mean(game.loss.generator(real_logits, jnp.full_like(real_logits, logit)))

    logits, vjp_fn = jax.vjp(logits_of, points)
    (negative_gradient,) = vjp_fn(-jax.vmap(jax.grad(loss))(logits))
    return logits, negative_gradient.reshape(-1, 2)
