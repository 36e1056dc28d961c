"""The Inception score, from class probabilities."""

from typing import NamedTuple

import numpy as np

from gan.errors import UserError
from gan.metrics.frechet import check_features


class InceptionScore(NamedTuple):
    """The mean of the scores of the splits, and their standard deviation."""

    mean: float
    std: float


def inception_score(probabilities: np.ndarray, *, splits: int = 10) -> InceptionScore:
    """exp(mean over x of KL(p(y|x) || p(y))) from probabilities p(y|x) [N, K]; 1..K, larger is better.

    It is large if each sample has one probable class and all classes are equally frequent. The samples are divided into
    `splits` consecutive parts, each with its own p(y), and the scores are averaged. Smaller parts have lower scores.
    Samples that are sorted by class must be permuted first.

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
    """The score of one split [N, K]. 0 log 0 = 0: the logarithm's argument is bounded from below."""
    tiny = np.finfo(np.float64).tiny
    marginal = conditional.mean(axis=0)
    divergence = conditional * (np.log(np.maximum(conditional, tiny)) - np.log(np.maximum(marginal, tiny))[None])
    return float(np.exp(divergence.sum(axis=1).mean()))
