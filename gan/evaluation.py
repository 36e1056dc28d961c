"""Samples from the averaged generator of a run, in evaluation mode. On the spine between `steps` and `loop`.

Sample number i of seed s is one image, whatever is drawn beside it: its latent depends on (s, i) alone, and batch
normalisation uses the averaged statistics.
"""

import functools
import logging
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from gan import checkpoint, report, schedules, sharding, workdir
from gan import game as rules
from gan import state as states
from gan.data import to_uint8
from gan.errors import UserError
from gan.game import Game
from gan.state import Average, example_keys, named_key

logger = logging.getLogger(__name__)


def sample(folder: Path, *, count: int, seed: int, out: Path | None) -> None:
    """Draws `count` samples of a run's newest checkpoint into an NPZ file, and a PNG grid of the first beside it.

    The file holds `images` uint8 [N, H, W, C], and `labels` int32 [N] where the dataset has classes.
    """
    if count < 1:
        raise UserError(f"--num_samples={count} must be at least 1")
    out = out or folder / f"samples_seed{seed}.npz"
    if out.suffix != ".npz":
        raise UserError(f"--out={out} must end in .npz")
    game, step, average = restore(folder)
    batches = list(draw(game, average, seed=seed, count=count))
    arrays = {"images": np.concatenate([batch["image"] for batch in batches])}
    if game.num_classes:
        arrays["labels"] = np.concatenate([batch["label"] for batch in batches])
    picture = out.with_suffix(".png")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = out.with_suffix(".tmp.npz")
        np.savez_compressed(draft, **arrays)
        draft.replace(out)
        report.save_png(picture, report.grid(arrays["images"][:100]))
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error
    logger.info("%d samples of step %d: %s, and a grid of the first %d: %s", count, step, out, min(count, 100), picture)


def restore(folder: Path) -> tuple[Game, int, Average]:
    """The game of the run in `folder`, and its newest checkpoint's step and averaged generator.

    Raises `UserError` where there is no run, or no checkpoint yet.
    """
    record = workdir.read(folder)
    if record is None:
        raise UserError(f"--workdir={folder} holds no run: there is no {folder / 'config.json'}")
    config, dataset = ConfigDict(record["config"], convert_dict=True), record["dataset"]
    game = rules.build(config, image_shape=tuple(dataset["image_shape"]), num_classes=len(dataset["class_names"]))
    initial = functools.partial(states.create, game, schedules.build(config)(0), config.seed)
    target = sharding.abstract(jax.eval_shape(initial).average, sharding.device_mesh())
    checkpoints = folder / "checkpoints"
    found = None
    if checkpoints.is_dir():
        found = checkpoint.restore_average(checkpoint.open_manager(checkpoints, read_only=True), target)
    if found is None:
        raise UserError(f"--workdir={folder} holds no checkpoint yet: train it first, with the same --workdir")
    step, average = found
    return game, step, average


def draw(game: Game, average: Average, *, seed: int, count: int, batch_size: int = 100) -> Iterator[dict]:
    """Yields `{"image": uint8 [n, H, W, C], "label": int32 [n]}` of samples 0 to count - 1, at most a batch at a time.

    The label of sample i is i modulo the number of classes: every class in equal parts.
    """
    for first in range(0, count, batch_size):
        # Always a whole batch, so that one program is compiled; what is beyond `count` is cut off.
        rows = np.arange(first, first + batch_size, dtype=np.uint32)
        image, label = jax.device_get(_samples(average, rows, jnp.uint32(seed), game=game))
        kept = min(batch_size, count - first)
        yield {"image": image[:kept], "label": label[:kept]}


@functools.partial(jax.jit, static_argnames="game")
def _samples(average: Average, rows: Array, seed: Array, *, game: Game) -> tuple[Array, Array]:
    latent = game.latents(example_keys(named_key(jax.random.key(seed), "sample"), rows))
    label = (rows % max(game.num_classes, 1)).astype(jnp.int32)
    image, _ = game.generate(average.variables, latent, label, train=False)
    return to_uint8(image, game.output.image_range), label
