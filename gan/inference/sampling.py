"""Samples from the averaged generator of a run, in evaluation mode. On the spine between `steps` and `evaluation`.

Sample number i of seed s is one image, whatever is drawn beside it: its latent depends on (s, i) alone, and batch
normalization uses the averaged statistics, or where `config.evaluation.standing_batches` says so statistics that are
taken anew of the averaged generator's own batches.
"""

import dataclasses
import functools
import logging
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
from gan.io import checkpoint, workdir, writer
from gan.parallel import sharding
from gan.state import GeneratorEMA, Player, example_keys, named_key

logger = logging.getLogger(__name__)


MOST_SAMPLES = 2**24
"""Of one command: they are held in memory until they are written."""

MOST_COLUMNS = 25
"""A picture has a column for each class, up to so many."""


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
    """Draws `count` samples of a run's newest checkpoint into an NPZ file, and a PNG grid of the first beside it.

    The file holds `images` uint8 [N, H, W, C], and where the dataset has classes `labels` int32 [N] and `class_names`
    str [K]. Points are float32 [N, 1, 1, 2], and their picture shows them in the plane.

    The samples go round `classes`, names or numbers, or all there are; the picture has a column for each. With
    `same_latents` one round has one latent: a row of the picture shows it in each class. For `truncation` see
    `Game.truncated`.
    """
    if not 1 <= count <= MOST_SAMPLES:
        raise UserError(f"--num_samples={count}; expected: 1 to {MOST_SAMPLES}")
    out = out or folder / f"samples_seed{seed}.npz"
    if out.suffix != ".npz":
        raise UserError(f"--out={out} must end in .npz")
    game, step, ema = restore(folder, truncation=truncation)
    class_names = recorded(folder)[1]["class_names"]
    if (classes or same_latents) and not game.is_conditional:
        flag = "classes" if classes else "same_latents"
        raise UserError(f"--{flag} needs a generator that learns of labels; this run's config.generator does not")
    labels = [_label(name, class_names) for name in classes]
    batches = list(draw(game, ema, seed=seed, count=count, labels=labels, same_latents=same_latents))
    arrays = {"images": np.concatenate([batch["image"] for batch in batches])}
    if game.num_classes:
        arrays["labels"] = np.concatenate([batch["label"] for batch in batches])
        arrays["class_names"] = np.array(class_names)
    picture = out.with_suffix(".png")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = out.with_suffix(".tmp.npz")
        np.savez_compressed(draft, **arrays)
        draft.replace(out)
        if is_point(game.image_shape):
            writer.save_png(picture, writer.draw_points(arrays["images"].reshape(-1, 2)))
        else:
            columns = class_columns(game, labels)
            writer.save_png(picture, writer.grid(arrays["images"][: 10 * columns or 100], columns))
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error
    logger.info("%d samples of step %d: %s, and a picture of them: %s", count, step, out, picture)


def recorded(folder: Path) -> tuple[ConfigDict, dict]:
    """The config of the run in `folder`, and what is recorded of its dataset. Raises `UserError` if there is no run."""
    record = workdir.read(folder)
    if record is None:
        raise UserError(f"--workdir={folder} holds no run: there is no {folder / 'config.json'}")
    config = _with_tuples(record["config"])
    schema.check(config, where=f"{folder / 'config.json'}: config", recorded=True)
    return ConfigDict(config, convert_dict=True), record["dataset"]


def restore(
    folder: Path, kept_in: str = "checkpoints", *, truncation: float | None = None
) -> tuple[Game, int, GeneratorEMA]:
    """The game of the run in `folder`, and the step and averaged generator of the newest checkpoint in `kept_in`.

    The generator is as it is to be sampled from: see `ready`, and for `truncation` `Game.truncated`. Raises
    `UserError` where there is no run, or no checkpoint yet.
    """
    config, dataset = recorded(folder)
    setup = build.setup(
        config, image_shape=tuple(dataset["image_shape"]), num_classes=len(dataset["class_names"])
    )  # fmt: skip
    game = setup.game if truncation is None else setup.game.truncated(truncation)
    target = sharding.abstract(setup.shapes.ema, sharding.replicated(sharding.local_mesh()))
    checkpoints = folder / kept_in
    found = None
    if checkpoints.is_dir():
        found = checkpoint.restore_ema(checkpoint.open_manager(checkpoints, read_only=True), target)
    if found is None:
        raise UserError(f"--workdir={folder} holds no checkpoint yet: train it first, with the same --workdir")
    step, ema = found
    return game, step, ready(dataclasses.replace(setup, game=game), ema)


def ready(setup: build.Setup, ema: GeneratorEMA) -> GeneratorEMA:
    """The EMA generator of a run as every sample of it is drawn: with standing statistics where the run asks for them.

    They are a function of the run's own seed and batch size, so that previews, metrics and `--mode=sample` of any seed
    show one generator.
    """
    options = setup.options
    return standing(setup.game, ema, seed=options.seed, batches=options.standing_batches, batch_size=options.batch_size)


def preview(setup: build.Setup, ema: GeneratorEMA, count: int) -> np.ndarray:
    """The first `count` samples of the run's own seed: images uint8 [count, H, W, C], or points float32."""
    drawn = draw(setup.game, ready(setup, ema), seed=setup.options.seed, count=count, batch_size=count)
    return next(drawn)["image"]


def standing(game: Game, ema: GeneratorEMA, *, seed: int, batches: int, batch_size: int) -> GeneratorEMA:
    """The averaged generator with the statistics of batches of its own in place of those that training left behind.

    The mean and variance of every batch normalization become the plain means over `batches` batches, of fresh latents
    and labels, of each batch's mean and variance; all else in `batch_stats`, such as the vectors of a spectral
    normalization, stays. Each device takes its share of a batch where the devices divide it. With 0 batches, or without
    batch normalization, the same generator.

    Reference: Brock et al. 2019, arXiv:1809.11096, appendix C, "standing statistics", there of 100 batches.
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

    def replaced(path: tuple, leaf: Array) -> Array:
        found = total.get("/".join(entry.key for entry in path))
        return leaf if found is None else (found / batches).astype(leaf.dtype)

    return ema.replace(batch_stats=jax.tree_util.tree_map_with_path(replaced, ema.batch_stats))


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
    """Yields `{"image": uint8 [n, H, W, C], "label": int32 [n]}` of samples 0 to count - 1, a batch at a time or less.

    Each device draws its share of a batch. Points stay float32.

    With L labels, by default all that the game has, sample i has number i modulo L of them: all in equal parts. Its
    latent is number i of the seed, or number i // L with `same_latents`.
    """
    mesh = sharding.local_mesh()
    labels = np.asarray(labels or range(max(game.num_classes, 1)), np.int32)
    batch_size = -(-batch_size // mesh.size) * mesh.size  # every device draws as many
    for first in range(0, count, batch_size):
        # Always a whole batch, so that one program is compiled; what is beyond `count` is cut off.
        rows = np.arange(first, first + batch_size, dtype=np.uint32)
        latent_rows = rows // len(labels) if same_latents else rows
        given = jax.device_put((latent_rows, labels[rows % len(labels)]), sharding.split_rows(mesh, 0))
        image, label = jax.device_get(_samples(ema, *given, jnp.uint32(seed), game=game))
        kept = min(batch_size, count - first)
        yield {"image": image[:kept], "label": label[:kept]}


def class_columns(game: Game, labels: Sequence[int] = ()) -> int:
    """How many columns show what `draw` yields with a class in each; 0 where there are too many classes, or one."""
    columns = (len(labels) or game.num_classes) if game.is_conditional else 0
    return columns if 1 < columns <= MOST_COLUMNS else 0


def _label(name: str, class_names: Sequence[str]) -> int:
    """The number of a class that is given by its name or its number."""
    if name in class_names:
        return class_names.index(name)
    if name.isdecimal() and len(name) < 10 and int(name) < len(class_names):
        return int(name)
    shown = ", ".join(class_names[:MOST_COLUMNS]) + (", ..." if len(class_names) > MOST_COLUMNS else "")
    raise UserError(
        f"--classes: {name!r} is no class of the run's dataset{nearest(name, class_names)}; expected: {shown}, or 0 to "
        f"{len(class_names) - 1}"
    )


def _with_tuples(value: Any) -> Any:
    """What JSON kept as lists was tuples: a network's `layers` must be hashable."""
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
    """The mean and variance of what each batch normalization sees of a batch, by their paths in `batch_stats`.

    They are taken of the layer's input: what training leaves behind is mixed with what was there before.
    """
    key = named_key(jax.random.key(seed), "standing")
    keys = example_keys(key, rows)
    labels = jax.vmap(lambda key: jax.random.randint(named_key(key, "label"), (), 0, max(game.num_classes, 1)))(keys)
    found = {}

    def look(call: Callable, given: tuple, named: dict, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
            x = given[0].astype(jnp.float32)
            path, axes = "/".join(context.module.path), tuple(range(x.ndim - 1))
            found[f"{path}/mean"], found[f"{path}/var"] = jnp.mean(x, axes), jnp.var(x, axes)
        return call(*given, **named)

    with nn.intercept_methods(look):
        dropout = jax.random.fold_in(named_key(key, "generator"), index)
        game.generate(ema.variables, game.latents(keys), labels, train=True, key=dropout)
    return found


@functools.partial(jax.jit, static_argnames="game")
def landscape(game: Game, discriminator: Player, points: Array, real: Array) -> tuple[Array, Array]:
    """D's logits [N] at points [N, 1, 1, 2], and the pull [N, 2] of G's loss on a sample there: -d loss / d point.

    The loss of a lone sample is its mean over the real points [R, 1, 1, 2], which a loss that compares pairs needs.
    """

    def logits_of(images: Array) -> Array:
        label = jnp.zeros(len(images), jnp.int32)
        return game.discriminate(discriminator.variables, images, label, train=False).logits

    real_logits = logits_of(real)

    def loss(logit: Array) -> Array:
        return jnp.mean(game.loss.generator(real_logits, jnp.full_like(real_logits, logit)))

    logits, vjp_fn = jax.vjp(logits_of, points)
    (pull,) = vjp_fn(-jax.vmap(jax.grad(loss))(logits))
    return logits, pull.reshape(-1, 2)
