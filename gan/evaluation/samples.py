"""Samples of a generator for an evaluation: with labels in the proportions of the training data."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gan.evaluation.reference import evenly_spaced
from gan.game import Game
from gan.inference import sampling
from gan.state import GeneratorEMA

BATCH_SIZE = 500


def draw_samples(
    game: Game, ema: GeneratorEMA, training: Any, *, seed: int, count: int, rows: np.ndarray | None = None
) -> Iterator[dict]:
    """Yields batches as `sampling.draw` does, of all `count` samples or of the `rows` of them.

    A conditional generator is given the labels of `count` evenly spaced training examples: with equally many samples of
    each class, classes of different sizes would make another distribution.
    """
    labels = ()
    if game.is_conditional:
        _, training_labels = training.arrays()
        labels = training_labels[evenly_spaced(len(training_labels), count)].tolist()
    drawn = count if rows is None else len(rows)
    return sampling.draw(game, ema, seed=seed, count=drawn, batch_size=min(BATCH_SIZE, drawn), labels=labels, rows=rows)
