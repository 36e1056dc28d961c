"""gan.metrics.frechet_infinity: the line through the distances of parts, and Gaussians whose distance is known."""

import numpy as np
import pytest
from test_metrics import normal

from gan.errors import UserError
from gan.metrics import frechet
from gan.metrics.frechet import Moments, frechet_distance, moments
from gan.metrics.frechet_infinity import frechet_infinity

DIMENSION = 8
STANDARD = Moments(10**9, np.zeros(DIMENSION), np.eye(DIMENSION) * (10**9 - 1))
"""Of the standard normal distribution, exactly."""


def test_distances_that_are_linear_in_the_inverse_number_are_extrapolated_exactly(monkeypatch):
    parts = []

    def distance(real, part):
        parts.append(part)
        return 3 + 7 / part.count  # of 40, 20 and 10 samples: 3.175, 3.35 and 3.7; at infinity 3

    monkeypatch.setattr(frechet, "frechet_distance", distance)
    monkeypatch.setattr(frechet, "moments", lambda features: Moments(len(features), features.mean(axis=0), features))
    samples = np.arange(80.0).reshape(40, 2)
    assert frechet_infinity(None, samples) == pytest.approx(3)
    assert [part.count for part in parts] == [40, 20, 20, 10, 10, 10, 10]
    for some in (parts[:1], parts[1:3], parts[3:]):  # the parts hold every sample once
        held = np.concatenate([part.scatter for part in some])
        np.testing.assert_array_equal(np.sort(held[:, 0]), samples[:, 0])
    assert (parts[1].scatter != samples[:20]).any()  # at random
    parts.clear()
    frechet_infinity(None, samples[:36])  # quarters of 9, fewer than 5 of each of 2 dimensions
    assert [part.count for part in parts] == [36, 18, 18]


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_it_does_not_depend_on_the_number_of_samples_where_the_distance_does(shift):
    def means(count):
        sets = [normal((count, DIMENSION), seed) + shift for seed in range(24)]
        found = [(frechet_distance(STANDARD, moments(x)), frechet_infinity(STANDARD, x)) for x in sets]
        return np.mean(found, axis=0)

    true = DIMENSION * shift**2
    (few, few_infinity), (many, many_infinity) = means(160), means(1280)
    # The bias falls with 1 / N: about (D + D (D + 1) / 4) / N = 26 / 160 = 0.16, and an eighth of it.
    if shift == 0:  # chance hides the bias otherwise
        assert few > 0.12 and 4 < few / many < 14
    assert abs(few_infinity - true) < 0.03 + 0.3 * shift  # with a shift, chance is 2 shift sqrt(D / N / 24) = 0.1
    assert abs(many_infinity - true) < 0.01 + 0.1 * shift


def test_the_order_of_the_samples_is_drawn_from_the_seed():
    x = normal((200, DIMENSION))
    assert frechet_infinity(STANDARD, x) == frechet_infinity(STANDARD, x)
    assert frechet_infinity(STANDARD, x) != frechet_infinity(STANDARD, x, seed=1)
    with pytest.raises(UserError, match="3 samples; expected: 4 or more"):
        frechet_infinity(STANDARD, x[:3])
