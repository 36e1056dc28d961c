"""What one turn of a config is, whatever plays it: its program, and what that program multiplies, reads and keeps."""

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

from experiments.benchmarks import flops
from gan import build
from gan import state as states
from gan.errors import UserError
from gan.game import SPECTRAL_NORM
from gan.train import loop, sources

DATASETS: Mapping[str, tuple[int, int, int]] = {
    "digits": (1, 10, 1797),
    "mnist": (1, 10, 60_000),
    "fashion_mnist": (1, 10, 60_000),
    "cifar10": (3, 10, 50_000),
    "stacked_mnist": (3, 1000, 60_000),
    "imagenet_resized/32x32": (3, 1000, 1_281_167),
}
"""Channels, classes and examples to train on, so that a plan needs no data."""


@dataclasses.dataclass(frozen=True)
class Data:
    """What a plan has to know of a dataset."""

    image_shape: tuple[int, int, int]
    classes: int
    examples: int

    def __len__(self) -> int:
        return self.examples


class Work(NamedTuple):
    """What one turn of a config is, whatever plays it."""

    operations: Counter[str]
    """Of products, by type."""
    images: int
    """Real images."""
    image_bytes: int
    """Of one of them, decoded."""
    is_resident: bool
    """Whether the images are read once and then lie on every device."""
    gradients: int
    """Bytes of all gradients that devices add up: each player's parameters, once an update."""
    statistics: int
    """Bytes of the batch statistics that devices add up, at most, but for passes that penalties make."""
    state: states.TrainState
    """Shapes of what is kept between turns."""


def data_of(config: ConfigDict, *, channels: int = 0, classes: int | None = None, examples: int | None = None) -> Data:
    """What a plan knows of a config's dataset; what is given stands in place of the table's."""
    known = DATASETS.get(config.data.name, (None, None, None))
    found = (channels or config.data.channels or known[0], *(
        listed if given is None else given for given, listed in zip((classes, examples), known[1:], strict=True)
    ))  # fmt: skip
    for flag, value in zip(("--channels", "--classes", "--examples"), found, strict=True):
        if value is None:
            raise UserError(f"{flag} is missing: what is known are {', '.join(DATASETS)}, not {config.data.name!r}")
    if not config.data.image_size:
        raise UserError("config.data.image_size=() leaves the images' size open; expected: (height, width)")
    return Data((*config.data.image_size, found[0]), *found[1:])


def work_of(config: ConfigDict, data: Data) -> Work:
    """Counts a config's turn, from its program before compilation."""
    turn, given = program(config, data)
    game, shapes = turn.keywords["game"], given[0]
    players = {"generator": shapes.generator, "discriminator": shapes.discriminator}
    updates = {name: getattr(game, name).steps for name in players}
    # The vectors of a spectral normalization are made from parameters, by every device.
    statistics = {
        name: tree_bytes({part: tree for part, tree in player.batch_stats.items() if part != SPECTRAL_NORM})
        for name, player in players.items()
    }
    # Where a player looks at a whole batch, each pass through it, forward or back, adds up so much, at most. In D's
    # update: G forward, twice where it makes pseudo images; D forward and back, on real images and on generated ones.
    # In G's: both forward and back, D on the generated images, and forward on the real ones if the loss compares.
    in_d = (2 if game.augment.pseudo else 1) * statistics["generator"] + 4 * statistics["discriminator"]
    in_g = 2 * statistics["generator"] + 3 * statistics["discriminator"]
    return Work(
        operations=flops.by_type(functools.partial(turn, axis_name=None), *given),
        images=config.batch_size * game.discriminator.steps,
        image_bytes=math.prod(data.image_shape),
        is_resident=sources.is_resident(data, config.data.on_device),
        gradients=sum(updates[name] * tree_bytes(player.params) for name, player in players.items()),
        statistics=game.microbatches * (updates["discriminator"] * in_d + updates["generator"] * in_g),
        state=shapes,
    )


def program(config: ConfigDict, data: Data) -> tuple[functools.partial, tuple]:
    """A run's turn on streamed data, without its `axis_name`, and the shapes that it is given."""
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
    """Of all arrays of a tree of shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _as_given(arrays: dict, seed: Array, step: Array, rows: Array, batches: int) -> dict:
    return arrays
