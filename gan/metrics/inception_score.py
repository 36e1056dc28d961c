"""The inception score, from class probabilities. A leaf: plain arrays in, floats out."""

from typing import NamedTuple

import numpy as np

from gan.errors import UserError
from gan.metrics.frechet import check_features


class InceptionScore(NamedTuple):
    """The mean of the splits' scores and the standard deviation among them."""

    mean: float
    std: float


def inception_score(probabilities: np.ndarray, *, splits: int = 10) -> InceptionScore:
    """exp(mean KL(p(y|x) || p(y))) of class probabilities [N, K]: from 1 to K, larger where classes are sure and even.

    The samples are cut into `splits` runs in the order given, each with its own p(y), and the scores are averaged: a
    smaller split lowers the score. Samples that lie sorted by class must be permuted by the caller.

    Reference: Salimans et al. 2016, arXiv:1606.03498, section 4.
    """
    probabilities = check_features(probabilities, "probabilities").astype(np.float64)
    if probabilities.min() < 0 or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise UserError("probabilities are negative or do not sum to 1; expected: the softmax of the logits, [N, K]")
    if not 1 <= splits <= len(probabilities):
        raise UserError(f"splits={splits}; expected: 1 to {len(probabilities)}, the number of samples")
    bounds = [split * len(probabilities) // splits for split in range(splits + 1)]
    scores = [_score(probabilities[start:stop]) for start, stop in zip(bounds, bounds[1:], strict=False)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(conditional: np.ndarray) -> float:
    """The score of one split [N, K]. 0 log 0 is 0: a probability of 0 multiplies a finite logarithm."""
    tiny = np.finfo(np.float64).tiny
    marginal = conditional.mean(axis=0)
    divergence = conditional * (np.log(np.maximum(conditional, tiny)) - np.log(np.maximum(marginal, tiny))[None])
    return float(np.exp(divergence.sum(axis=1).mean()))
