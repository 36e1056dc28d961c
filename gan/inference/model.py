"""`gan.load`: a trained generator, ready to be used in Python, without its dataset and without flags."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from gan import build
from gan.data import to_uint8
from gan.errors import UserError, nearest
from gan.game import Game
from gan.inference import exported, sampling
from gan.io import workdir
from gan.parallel import sharding
from gan.state import GeneratorEMA

CHECKPOINTS = {"last": "checkpoints", "best": "best"}
"""What `load` calls a run's checkpoints, and the subfolders that hold them."""

Labels = Array | np.ndarray | Sequence[int | str] | None
"""Indices int [B], or names of classes; None: all classes in turn."""


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained generator: the EMA of a run, in evaluation mode. `load` makes one.

    Images that are float are in the range of the game, `game.output.image_range`. Points in the plane are images
    [N, 1, 1, 2].
    """

    game: Game
    """The networks and the latents."""
    config: ConfigDict
    """Of the run."""
    class_names: tuple[str, ...]
    step: int
    """Of the checkpoint."""
    ema: GeneratorEMA
    """The arrays of the generator."""
    source: str
    """The folder that the model was loaded from, for messages."""
    restore_discriminator: Callable[[], dict] | None = None
    """Reads the variables of the discriminator; None where only the generator was stored."""

    def sample(
        self, count: int, *, seed: int = 0, classes: Sequence[int | str] = (), truncation: float | None = None,
        same_latents: bool = False, offset: Array | None = None, track: Callable[..., Iterable] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Images uint8 [count, H, W, C], or points float32: the same as those of `--mode=sample`.

        Args:
          count: number of samples N.
          seed: of the latents. Sample i of a seed is always the same.
          classes: names or indices; consecutive samples cycle through them, by default through all classes.
          truncation: see `Game.truncated`.
          same_latents: use the same latent for one cycle.
          offset: added to the code of each sample: see `gan.inference.directions.offset`.
          track: logs the progress: `gan.io.progress.progress`.

        Raises:
          UserError: a class that there is not, or an option that this generator has no use for.
        """
        asks_for_classes = not isinstance(classes, (list, tuple)) or bool(classes)
        if (asks_for_classes or same_latents) and not self.game.is_conditional:
            option = "classes" if asks_for_classes else "same_latents"
            raise UserError(f"{option} needs a conditional generator; the generator of {self.source} is unconditional")
        _check_count(count)
        _check_seed(seed)
        game = self.game if truncation is None else self.game.truncated(truncation)
        labels = self.class_indices(classes)
        batches = sampling.draw(
            game, self.ema, seed=seed, count=count, labels=labels, same_latents=same_latents, offset=offset, track=track
        )
        images, first = np.empty((count, *game.image_shape), sampling.image_dtype(game)), 0
        for batch in batches:
            images[first : first + len(batch["image"])] = batch["image"]
            first += len(batch["image"])
        return images

    def latents(self, count: int, *, seed: int = 0) -> Array:
        """Latents [count, Z]: those of samples 0 .. count - 1 of the seed."""
        _check_count(count)
        _check_seed(seed)
        return sampling.latents(self.game, jnp.uint32(seed), jnp.arange(count, dtype=jnp.uint32))

    def generate(self, latents: Array | np.ndarray, labels: Labels = None) -> Array:
        """Images float32 [B, H, W, C] from latents [B, Z]: a pure function of the latents, to be transformed by JAX."""
        _check_shape("latents", latents, (self.game.latent_size,))
        return _generate(self.ema.variables, latents, self._labels(labels, len(latents)), game=self.game)

    def styles(self, latents: Array | np.ndarray, labels: Labels = None) -> Array:
        """The styles float32 [B, L, W] of latents [B, Z], one for each of the generator's L layers.

        Raises `UserError` for a generator without styles.
        """
        self._needs_styles()
        _check_shape("latents", latents, (self.game.latent_size,))
        return _styles(self.ema.variables, latents, self._labels(labels, len(latents)), game=self.game)

    def synthesize(self, styles: Array | np.ndarray) -> Array:
        """Images float32 [B, H, W, C] from styles [B, L, W]: `generate(z)` is `synthesize(styles(z))`.

        Raises `UserError` for a generator without styles.
        """
        self._needs_styles()
        return _synthesize(self.ema.variables, styles, game=self.game)

    def discriminate(self, images: Array | np.ndarray, labels: Labels = None) -> Array:
        """The discriminator's logits float32 [B] for float images [B, H, W, C]; larger is more real.

        Raises `UserError` where only the generator was stored.
        """
        _check_shape("images", images, self.game.image_shape)
        if np.issubdtype(images.dtype, np.integer):
            low, high = self.game.output.image_range
            raise UserError(f"images are {images.dtype}; expected: floats from {low:g} to {high:g}, as of `generate`")
        labels = self._labels(labels, len(images), self.game.discriminates_classes)
        return _discriminate(self.discriminator, images, labels, game=self.game)

    @functools.cached_property
    def discriminator(self) -> dict:
        """The variables of the discriminator, read when they are first asked for."""
        if self.restore_discriminator is None:
            raise UserError(f"{self.source} holds the generator alone; expected: the folder of a run")
        return self.restore_discriminator()

    def truncated(self, truncation: float) -> "Model":
        """The model with the truncation trick: see `Game.truncated`."""
        return dataclasses.replace(self, game=self.game.truncated(truncation))

    def to_uint8(self, images: Array) -> np.ndarray:
        """Float images [B, H, W, C] as uint8."""
        return np.asarray(to_uint8(images, self.game.output.image_range))

    def class_indices(self, classes: Sequence[int | str]) -> list[int]:
        """The indices of classes that are given by name or index. Raises `UserError` for one that there is not."""
        if isinstance(classes, np.ndarray):
            classes = classes.tolist()
        if isinstance(classes, (str, int, np.integer)):
            classes = [classes]
        return [class_index(name, self.class_names) for name in classes]

    def _labels(self, labels: Labels, count: int, is_used: bool | None = None) -> Array:
        """Labels int32 [B]. Those of a network without labels are zeros."""
        if not (self.game.is_conditional if is_used is None else is_used):
            return jnp.zeros(count, jnp.int32)
        if labels is None:
            return jnp.arange(count, dtype=jnp.int32) % self.game.num_classes
        if not isinstance(labels, (np.ndarray, Array)):
            labels = np.asarray(self.class_indices(labels), np.int32)
        if labels.dtype.kind not in "iu":
            raise UserError(f"labels are {labels.dtype}; expected: whole numbers, or names of classes in a list")
        if labels.shape != (count,):
            raise UserError(f"labels have the shape {list(labels.shape)}; expected: [{count}], one for each example")
        if not isinstance(labels, jax.core.Tracer):  # an index beyond the last would be taken for the last
            wrong = [label for label in np.asarray(labels).tolist() if not 0 <= label < self.game.num_classes]
            if wrong:
                raise UserError(f"labels: {wrong[0]} is no class; expected: 0 to {self.game.num_classes - 1}")
        return jnp.asarray(labels, jnp.int32)

    def _needs_styles(self) -> None:
        if not self.game.has_styles:
            raise UserError(
                f"the generator of {self.source} has no styles; expected: a run with network 'stylegan2' or 'gat'"
            )


def _check_whole(name: str, value: int, highest: int) -> None:
    """Raises `UserError` where a value is not a whole number from 0 to the highest."""
    if not isinstance(value, (int, np.integer)) or not 0 <= value <= highest:
        raise UserError(f"{name}={value!r}; expected: a whole number, 0 to {highest}")


def _check_count(count: int) -> None:
    _check_whole("count", count, sampling.MAX_SAMPLES)


def _check_seed(seed: int) -> None:
    _check_whole("seed", seed, 2**32 - 1)


def _check_shape(name: str, values: Array | np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises `UserError` where values are not [B, *shape]."""
    if np.ndim(values) != len(shape) + 1 or np.shape(values)[1:] != tuple(shape):
        expected = ", ".join(map(str, ("B", *shape)))
        raise UserError(f"{name} have the shape {list(np.shape(values))}; expected: [{expected}]")


def load(path: str | Path, *, checkpoint: str | None = None, step: int | None = None) -> Model:
    """The trained generator of a run, or of what `--mode=export` wrote.

    Args:
      path: the folder of the run, or of an export, or of a repository in the cache of the Hugging Face hub that holds
        an export (`models--ORGANIZATION--NAME`).
      checkpoint: "last", the default, or "best", the one with the best metrics.
      step: of the checkpoint, instead of the newest.

    Raises:
      UserError: no run, no checkpoint, none of that step, or an export that is damaged.
    """
    if not isinstance(path, (str, os.PathLike)) or (step is not None and not isinstance(step, (int, np.integer))):
        raise UserError(f"load({path!r}, step={step!r}); expected: the path of a folder, and the number of a step")
    folder = exported.folder_of(Path(path).expanduser())
    config, dataset = recorded(folder)
    setup = build.setup(config, image_shape=tuple(dataset["image_shape"]), num_classes=len(dataset["class_names"]))
    if (export := exported.record_of(folder)) is not None:
        if checkpoint not in (None, "last") or step not in (None, export.step):
            raise UserError(f"{folder} is an export of step {export.step} alone; expected: no checkpoint and no step")
        ema = exported.read_ema(folder, setup)
        game = setup.game if export.truncation is None else setup.game.truncated(export.truncation)
        return Model(game, config, tuple(dataset["class_names"]), export.step, ema, str(folder))
    kept_in = checkpoint_folder(folder, checkpoint, step)
    step, ema = _restore_ema(kept_in, setup, step)
    return Model(
        game=setup.game,
        config=config,
        class_names=tuple(dataset["class_names"]),
        step=step,
        ema=sampling.ready(setup, ema),
        source=str(folder),
        restore_discriminator=functools.partial(_restore_discriminator, kept_in, setup, step),
    )


def recorded(folder: Path) -> tuple[ConfigDict, dict]:
    """The config of the run in `folder`, and the record of its dataset. Raises `UserError` if there is no run."""
    folder = exported.folder_of(folder)
    found = workdir.read_config(folder)
    if found is None:
        raise UserError(f"{folder} holds no run: there is no {folder / 'config.json'}")
    return found


def class_index(name: int | str, class_names: Sequence[str]) -> int:
    """The index of a class that is given by its name or its index. Raises `UserError` for one that there is not.

    A text is an index only where no class has a number for a name.
    """
    if name in class_names:
        return class_names.index(name)
    text, count = str(name), len(class_names)
    named_by_numbers = any(known.isdecimal() for known in class_names)
    if text.isdecimal() and len(text) < 10 and int(text) < count and not (isinstance(name, str) and named_by_numbers):
        return int(text)
    shown = ", ".join(class_names[: sampling.MAX_COLUMNS]) + (", ..." if count > sampling.MAX_COLUMNS else "")
    indices = "" if named_by_numbers else f", or 0 to {count - 1}"
    raise UserError(
        f"classes: {text!r} is not a class of the run's dataset{nearest(text, class_names)}; expected: {shown}{indices}"
    )


def checkpoint_folder(folder: Path, checkpoint: str | None, step: int | None) -> Path:
    """The subfolder of a run that has the checkpoint that `load` means. Raises `UserError` where none has it."""
    if checkpoint is not None and checkpoint not in CHECKPOINTS:
        raise UserError(f"checkpoint={checkpoint!r} is unknown; expected: {', '.join(CHECKPOINTS)}")
    names = CHECKPOINTS if checkpoint is None and step is not None else (checkpoint or "last",)
    kept = {folder / CHECKPOINTS[name]: checkpoint_steps(folder, name) for name in names}
    if step is None:
        return next(iter(kept))
    for subfolder, steps in kept.items():
        if step in steps:
            return subfolder
    steps = sorted({step for found in kept.values() for step in found})
    if not steps:
        raise no_checkpoint(folder)
    closest = min(steps, key=lambda found: abs(found - step))
    raise UserError(
        f"{folder} has no checkpoint of step {step}; nearest: {closest}; expected: {', '.join(map(str, steps))}"
    )


def checkpoint_steps(folder: Path, name: str = "last") -> list[int]:
    """The steps of a run's checkpoints, "last" or "best", in order."""
    from gan.io import checkpoint as checkpoint_io  # late: it loads Orbax, which an export does without

    kept_in = folder / CHECKPOINTS[name]
    return sorted(checkpoint_io.open_manager(kept_in, read_only=True).all_steps()) if kept_in.is_dir() else []


def _restore_ema(kept_in: Path, setup: build.Setup, step: int | None) -> tuple[int, GeneratorEMA]:
    from gan.io import checkpoint as checkpoint_io

    def check(step: int) -> None:
        if (record := workdir.read(kept_in.parent)) is not None:
            workdir.check_checkpoint(kept_in.parent, record, kept_in.name, step)

    target = sharding.abstract(setup.shapes.ema, sharding.replicated(sharding.local_mesh()))
    restored = None
    if kept_in.is_dir():
        restored = checkpoint_io.restore_ema(checkpoint_io.open_manager(kept_in, read_only=True), target, step, check)
    if restored is None:
        raise no_checkpoint(kept_in.parent)
    return restored


def _restore_discriminator(kept_in: Path, setup: build.Setup, step: int) -> dict:
    from gan.io import checkpoint as checkpoint_io

    target = sharding.abstract(setup.shapes, sharding.replicated(sharding.local_mesh()))
    manager = checkpoint_io.open_manager(kept_in, read_only=True)
    return checkpoint_io.restore_players(manager, target, step).discriminator.variables


def no_checkpoint(folder: Path) -> UserError:
    """The error for a run that has none."""
    return UserError(f"{folder} holds no checkpoint yet: train first, with the same --workdir")


@functools.partial(jax.jit, static_argnames="game")
def _generate(variables: dict, latents: Array, labels: Array, *, game: Game) -> Array:
    return game.generate(variables, latents, labels, train=False)[0]


@functools.partial(jax.jit, static_argnames="game")
def _styles(variables: dict, latents: Array, labels: Array, *, game: Game) -> Array:
    return game.styles(variables, latents, labels)


@functools.partial(jax.jit, static_argnames="game")
def _synthesize(variables: dict, styles: Array, *, game: Game) -> Array:
    return game.synthesize(variables, styles)


@functools.partial(jax.jit, static_argnames="game")
def _discriminate(variables: dict, images: Array, labels: Array, *, game: Game) -> Array:
    return game.discriminate(variables, images, labels, train=False).logits
