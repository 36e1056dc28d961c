"""What a step of a config computes, reads and stores, on any device."""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from experiments.benchmarks import operations
from gan import build
from gan import state as states
from gan.errors import UserError
from gan.game import SPECTRAL_NORM
from gan.train import loop, sources

DATASETS: Mapping[str, tuple[int, int, int]] = {
    "digits": (1, 10, 1797),
    "mnist5k": (1, 10, 4000),
    "mnist": (1, 10, 60_000),
    "fashion_mnist": (1, 10, 60_000),
    "cifar10": (3, 10, 50_000),
    "stacked_mnist": (3, 1000, 60_000),
    "imagenet_resized/32x32": (3, 1000, 1_281_167),
}
"""Channels, classes and training examples, so that a plan needs no data."""


@dataclasses.dataclass(frozen=True)
class Data:
    """The facts of a dataset that a plan needs."""

    image_shape: tuple[int, int, int]
    classes: int
    examples: int

    def __len__(self) -> int:
        return self.examples


class Work(NamedTuple):
    """What a step of a config computes, reads and stores."""

    operations: Counter[str]
    """Floating point operations of products, by dtype."""
    images: int
    """Real images."""
    image_bytes: int
    """Bytes of a decoded image."""
    is_resident: bool
    """Whether the images are read once and then stay on every device."""
    gradients: int
    """Bytes of all gradients that are summed over devices: each player's parameters, once for each update."""
    statistics: int
    """An upper bound of the bytes of batch statistics that are summed over devices, without those of penalties."""
    state: states.TrainState
    """The shapes of the state."""


def data_of(config: ConfigDict, *, channels: int = 0, classes: int | None = None, examples: int | None = None) -> Data:
    """The facts of a config's dataset; arguments override the table."""
    known = DATASETS.get(config.data.name, (None, None, None))
    found = (channels or config.data.channels or known[0], *(
        listed if given is None else given for given, listed in zip((classes, examples), known[1:], strict=True)
    ))  # fmt: skip
    for flag, value in zip(("--channels", "--classes", "--examples"), found, strict=True):
        if value is None:
            raise UserError(f"{flag} is missing for {config.data.name!r}; the table has: {', '.join(DATASETS)}")
    if not config.data.image_size:
        raise UserError("config.data.image_size=() leaves the images' size open; expected: (height, width)")
    return Data((*config.data.image_size, found[0]), *found[1:])


def work_of(config: ConfigDict, data: Data) -> Work:
    """Counts the work of a config's step, from its jaxpr before compilation."""
    step, given = program(config, data)
    game, shapes = step.keywords["game"], given[0]
    players = {"generator": shapes.generator, "discriminator": shapes.discriminator}
    updates = {name: getattr(game, name).steps for name in players}
    # The vectors of spectral normalization depend on parameters only, and are computed by every device.
    statistics = {
        name: tree_bytes({part: tree for part, tree in player.batch_stats.items() if part != SPECTRAL_NORM})
        for name, player in players.items()
    }
    # With batch statistics, each forward or backward pass of a player sums so much, at most. In D's update: G forward,
    # twice with pseudo augmentation; D forward and backward, on real images and on generated ones. In G's: both forward
    # and backward, D on generated images, and forward on real ones if the loss depends on them.
    in_d = (2 if game.augment.pseudo else 1) * statistics["generator"] + 4 * statistics["discriminator"]
    in_g = 2 * statistics["generator"] + 3 * statistics["discriminator"]
    return Work(
        operations=operations.by_type(functools.partial(step, axis_name=None), *given),
        images=config.batch_size * game.discriminator.steps,
        image_bytes=math.prod(data.image_shape),
        is_resident=sources.is_resident(data, config.data.on_device),
        gradients=sum(updates[name] * tree_bytes(player.params) for name, player in players.items()),
        statistics=game.microbatches * (updates["discriminator"] * in_d + updates["generator"] * in_g),
        state=shapes,
    )


def program(config: ConfigDict, data: Data) -> tuple[functools.partial, tuple]:
    """A run's step on streamed data, without its `axis_name`, and the shapes of its arguments."""
    setup = build.setup(config, image_shape=data.image_shape, num_classes=data.classes)
    batches = (setup.game.discriminator.steps, config.batch_size)
    arrays = {
        "image": jax.ShapeDtypeStruct((*batches, *data.image_shape), np.uint8),
        "label": jax.ShapeDtypeStruct(batches, np.int32),
    }
    rows = jax.ShapeDtypeStruct((config.batch_size,), np.int32)
    step = functools.partial(loop.run_step, game=setup.game, schedules=setup.schedules, batch_of=_as_given)
    return step, (setup.shapes, arrays, rows, setup.base_hyperparams)


def tree_bytes(tree: Any) -> int:
    """The bytes of all arrays of a tree of shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _as_given(arrays: dict, seed: Array, step: Array, rows: Array, batches: int) -> dict:
    return arrays
