"""Samples of a generator for an evaluation: with labels in the proportions of the training data."""

from collections.abc import Iterator
from typing import Any

from gan.evaluation.reference import evenly_spaced
from gan.game import Game
from gan.inference import sampling
from gan.state import GeneratorEMA

BATCH_SIZE = 500


def draw_samples(game: Game, ema: GeneratorEMA, training: Any, *, seed: int, count: int) -> Iterator[dict]:
    """Yields batches as `sampling.draw` does.

    A conditional generator is given the labels of `count` evenly spaced training examples: with equally many samples of
    each class, classes of different sizes would make another distribution.
    """
    labels = ()
    if game.is_conditional:
        _, training_labels = training.arrays()
        labels = training_labels[evenly_spaced(len(training_labels), count)].tolist()
    return sampling.draw(game, ema, seed=seed, count=count, batch_size=min(BATCH_SIZE, count), labels=labels)
