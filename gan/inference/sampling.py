"""Samples from the EMA generator of a run, in evaluation mode.

Sample i of seed s does not depend on the batch that it is drawn in: its latent depends on (s, i) only, and batch
normalization uses running statistics, or standing statistics if `config.evaluation.standing_batches` is positive.
"""

import dataclasses
import functools
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from ml_collections import ConfigDict

from gan import build
from gan.config import schema
from gan.data import is_point, to_uint8
from gan.errors import UserError, nearest
from gan.game import Game
from gan.io import atomic, checkpoint, plots, workdir
from gan.parallel import sharding
from gan.state import GeneratorEMA, Player, example_keys, named_key

logger = logging.getLogger(__name__)


MAX_SAMPLES = 2**24
"""Per command: the samples are held in memory until they are written."""

MAX_COLUMNS = 25
"""The image grid has a column for each class, up to this many."""


def sample(
    folder: Path,
    *,
    count: int,
    seed: int,
    out: Path | None = None,
    classes: Sequence[str] = (),
    same_latents: bool = False,
    truncation: float | None = None,
) -> None:
    """Writes samples of a run's newest checkpoint to an NPZ file, and the first of them to a PNG file beside it.

    The NPZ file contains `images` uint8 [N, H, W, C] and, if the generator is conditional, the `labels` int32 [N] that
    it was asked for and `class_names` str [K]. 2-D points are float32 [N, 1, 1, 2] and are plotted.

    Args:
      folder: the workdir of the run.
      count: number of samples N.
      seed: of the samples.
      out: path of the NPZ file; None: one in the workdir, named by the step and these arguments, `samples_file`.
      classes: names or indices; consecutive samples cycle through them, by default through all classes. The image grid
        has a column for each.
      same_latents: use the same latent for one cycle, so that a row of the grid shows it in each class.
      truncation: see `Game.truncated`.

    Raises:
      UserError: no run or checkpoint, an invalid argument, or a file that cannot be written.
    """
    if not 1 <= count <= MAX_SAMPLES:
        raise UserError(f"--num_samples={count}; expected: 1 to {MAX_SAMPLES}")
    if out is not None and out.suffix != ".npz":
        raise UserError(f"--out={out} must end in .npz")
    game, step, ema = restore(folder, truncation=truncation)
    class_names = recorded(folder)[1]["class_names"]
    if (classes or same_latents) and not game.is_conditional:
        flag = "classes" if classes else "same_latents"
        raise UserError(f"--{flag} needs a conditional generator; this run's generator is unconditional")
    labels = [_label(name, class_names) for name in classes]
    out = out or folder / samples_file(step, count, seed, truncation, labels, same_latents)
    batches = list(draw(game, ema, seed=seed, count=count, labels=labels, same_latents=same_latents))
    arrays = {"images": np.concatenate([batch["image"] for batch in batches])}
    if game.is_conditional:
        arrays["labels"] = np.concatenate([batch["label"] for batch in batches])
        arrays["class_names"] = np.array(class_names)
    image_path = out.with_suffix(".png")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(out) as tmp, open(tmp, "wb") as file:
            np.savez_compressed(file, **arrays)
        if is_point(game.image_shape):
            plots.save_png(image_path, plots.draw_points(arrays["images"].reshape(-1, 2)))
        else:
            columns = class_columns(game, labels)
            plots.save_png(image_path, plots.grid(arrays["images"][: 10 * columns or 100], columns))
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error
    logger.info("%d samples of step %d: %s and %s", count, step, out, image_path)


def samples_file(
    step: int, count: int, seed: int, truncation: float | None, labels: Sequence[int], same_latents: bool
) -> str:
    """The name of the NPZ file of samples: one for each step and each choice, so that none overwrites another."""
    shown = "-".join(map(str, labels)) if len(labels) <= MAX_COLUMNS else f"{zlib.crc32(repr(labels).encode()):08x}"
    parts = [
        f"samples_step{step}_seed{seed}_n{count}",
        *([] if truncation is None else [f"truncation{truncation:g}"]),
        *([f"classes{shown}"] if labels else []),
        *(["same_latents"] if same_latents else []),
    ]
    return f"{'_'.join(parts)}.npz"


def recorded(folder: Path) -> tuple[ConfigDict, dict]:
    """The config of the run in `folder`, and the record of its dataset. Raises `UserError` if there is no run."""
    record = workdir.read(folder)
    if record is None:
        raise UserError(f"--workdir={folder} holds no run: there is no {folder / 'config.json'}")
    config = _with_tuples(record["config"])
    schema.check(config, where=f"{folder / 'config.json'}: config", recorded=True)
    return ConfigDict(config, convert_dict=True), record["dataset"]


def restore(
    folder: Path, kept_in: str = "checkpoints", *, truncation: float | None = None
) -> tuple[Game, int, GeneratorEMA]:
    """(game, step, EMA generator) of the newest checkpoint in the subfolder `kept_in` of the run in `folder`.

    The generator is ready to be sampled from: see `ready`, and `Game.truncated` for `truncation`.

    Raises:
      UserError: no run, or no checkpoint yet.
    """
    config, dataset = recorded(folder)
    setup = build.setup(config, image_shape=tuple(dataset["image_shape"]), num_classes=len(dataset["class_names"]))
    game = setup.game if truncation is None else setup.game.truncated(truncation)
    target = sharding.abstract(setup.shapes.ema, sharding.replicated(sharding.local_mesh()))
    checkpoints = folder / kept_in
    restored = None
    if checkpoints.is_dir():
        restored = checkpoint.restore_ema(checkpoint.open_manager(checkpoints, read_only=True), target)
    if restored is None:
        raise UserError(f"--workdir={folder} holds no checkpoint yet: train first, with the same --workdir")
    step, ema = restored
    return game, step, ready(dataclasses.replace(setup, game=game), ema)


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

    return ema.replace(batch_stats=jax.tree_util.tree_map_with_path(replace, ema.batch_stats))


def draw(
    game: Game,
    ema: GeneratorEMA,
    *,
    seed: int,
    count: int,
    batch_size: int = 100,
    labels: Sequence[int] = (),
    same_latents: bool = False,
) -> Iterator[dict]:
    """Yields samples 0..count - 1 in batches {"image": uint8 [n, H, W, C], "label": int32 [n]}, n <= batch_size.

    Batches are sharded over the devices. 2-D points stay float32.

    Args:
      labels: sample i has the label labels[i % len(labels)]; by default all classes of the game, in equal shares.
      same_latents: sample i has the latent i // len(labels) of the seed instead of the latent i.
    """
    mesh = sharding.local_mesh()
    labels = np.asarray(labels or range(max(game.num_classes, 1)), np.int32)
    batch_size = -(-batch_size // mesh.size) * mesh.size  # a multiple of the devices
    for first in range(0, count, batch_size):
        # Always a full batch, so that only one shape is compiled; samples beyond `count` are discarded.
        rows = np.arange(first, first + batch_size, dtype=np.uint32)
        latent_rows = rows // len(labels) if same_latents else rows
        inputs = jax.device_put((latent_rows, labels[rows % len(labels)]), sharding.split_rows(mesh, 0))
        image, label = jax.device_get(_samples(ema, *inputs, jnp.uint32(seed), game=game))
        valid = min(batch_size, count - first)
        yield {"image": image[:valid], "label": label[:valid]}


def class_columns(game: Game, labels: Sequence[int] = ()) -> int:
    """The number of columns of a grid of what `draw` yields, one per class; 0 if there is one class or too many."""
    columns = (len(labels) or game.num_classes) if game.is_conditional else 0
    return columns if 1 < columns <= MAX_COLUMNS else 0


def _label(name: str, class_names: Sequence[str]) -> int:
    """The index of a class that is given by its name or its index."""
    if name in class_names:
        return class_names.index(name)
    if name.isdecimal() and len(name) < 10 and int(name) < len(class_names):
        return int(name)
    shown = ", ".join(class_names[:MAX_COLUMNS]) + (", ..." if len(class_names) > MAX_COLUMNS else "")
    raise UserError(
        f"--classes: {name!r} is not a class of the run's dataset{nearest(name, class_names)}; expected: {shown}, "
        f"or 0 to {len(class_names) - 1}"
    )


def _with_tuples(value: Any) -> Any:
    """Converts lists, as which JSON stores tuples, back to tuples: a network's `layers` must be hashable."""
    if isinstance(value, dict):
        return {name: _with_tuples(entry) for name, entry in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


@functools.partial(jax.jit, static_argnames="game")
def _samples(ema: GeneratorEMA, rows: Array, label: Array, seed: Array, *, game: Game) -> tuple[Array, Array]:
    latent = game.latents(example_keys(named_key(jax.random.key(seed), "sample"), rows))
    image, _ = game.generate(ema.variables, latent, label, train=False)
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
        if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
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
