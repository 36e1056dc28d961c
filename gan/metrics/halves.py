"""Error bars: the standard deviation of a metric over random halves of the samples.

A half without replacement is a smaller set of samples of the same generator. The bootstrap with replacement is not: its
copies are neighbors at distance 0, and make any set less diverse (docs/evaluation.md compares both).
"""

import numpy as np

from gan.errors import UserError


def draw(count: int, number: int, seed: int = 0) -> np.ndarray:
    """`number` random halves of `count` samples: bool [number, count], with count // 2 True in each row."""
    if count < 2 or number < 2:
        raise UserError(f"{number} halves of {count} samples; expected: at least 2 of at least 2")
    scores = np.random.default_rng(seed).random((number, count))
    return scores < np.partition(scores, count // 2, axis=1)[:, count // 2, None]


def deviation(values: np.ndarray, count: int) -> np.ndarray:
    """The standard deviation of a metric of `count` samples, from its values on random halves [number, ...].

    With m = count // 2 samples kept and d = count - m left out, the variance over halves times m / d is that of the
    metric over new sets of `count` samples of the same generator, to first order in 1 / count: exactly for a mean. The
    real images stay the same. Where the first order vanishes, as in the distance between sets of one distribution, it
    is too large, by up to sqrt(3) where the metric is quadratic in the difference.

    The mean over halves is not reported: it has the bias of count / 2 samples.

    Reference: the delete-d jackknife of Shao and Wu 1989, A General Theory for Jackknife Variance Estimation, Annals of
    Statistics 17(3), equation 2.4, which holds for medians too; Politis and Romano 1994 for subsampling in general.
    """
    kept = count // 2
    return np.sqrt(kept / (count - kept)) * np.std(values, axis=0, ddof=1)


def described(number: int) -> str:
    """How error bars are computed, for a protocol."""
    return f"standard deviation over {number} random halves of the samples (delete-half jackknife)"
