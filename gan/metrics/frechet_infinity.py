"""The Frechet distance of infinitely many samples, extrapolated from parts of those that there are."""

from collections.abc import Sequence

import numpy as np

from gan.errors import UserError
from gan.metrics import frechet
from gan.metrics.frechet import Moments, Vectors

PARTS = (1, 2, 4)
"""The samples are divided into so many parts: three points of a line, at N, N / 2 and N / 4 samples."""
SAMPLES_PER_DIMENSION = 5
"""Four parts are used where each has so many samples for each dimension: in smaller ones the bias is no longer linear
in 1 / N."""
LEAST_PER_DIMENSION = 8
"""Below so many samples for each dimension, more than about 3% of the bias is left."""


def frechet_infinity(real: Moments | Vectors, fake: np.ndarray, *, seed: int = 0) -> float:
    """The limit of the Frechet distance FD_N for N to infinity samples of a generator: FD_N is larger by about c / N.

    The samples are permuted at random and divided into k equal parts, for k = 1, 2 and 4. The mean distance of the k
    parts is FD_N for N = len(fake) / k, and the result is the intercept of the least-squares line through the points
    (1 / N, FD_N). Seven distances in all; three, with k = 1 and 2, where four parts would be too small.

    Chong and Forsyth take one random subset for each of 15 numbers N. Parts that are disjoint hold all samples at each
    point, so that what these samples have in common does not change the slope: between sets of real images the result
    varies half as much (docs/evaluation.md). The bias by the finite number of real images remains, and the
    result may be negative.

    Args:
      real: the moments of the real images.
      fake: features of samples [N, D], N >= 4.

    Raises:
      UserError: fewer than four samples, or different dimensions.

    Reference: Chong and Forsyth 2020, Effectively Unbiased FID and Inception Score, arXiv:1911.07023, section 4.
    """
    fake = frechet.check_features(fake, "fake")
    count, dimension = fake.shape
    if count < 4:
        raise UserError(f"frechet_infinity of {count} samples; expected: 4 or more")
    order = np.random.default_rng(seed).permutation(count)
    used = [k for k in PARTS if k <= 2 or count // k >= SAMPLES_PER_DIMENSION * dimension]
    distances = [_mean_distance(real, [fake[rows] for rows in np.array_split(order, k)]) for k in used]
    _, intercept = np.polyfit([k / count for k in used], distances, 1)
    return float(intercept)


def _mean_distance(real: Moments | Vectors, parts: Sequence[np.ndarray]) -> float:
    return float(np.mean([frechet.frechet_distance(real, frechet.moments(part)) for part in parts]))
