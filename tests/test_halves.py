"""Error bars: gan.metrics.halves, and the metrics of many halves at once against the metrics of each."""

import numpy as np
import pytest
from test_metrics import normal

from gan.errors import UserError
from gan.metrics import halves, kernel, neighbors
from gan.metrics.kernel import squared_mmd, squared_mmd_of_halves
from gan.metrics.neighbors import prdc, prdc_of_halves


def test_a_half_has_half_of_the_samples_and_all_samples_are_as_frequent():
    kept = halves.draw(11, 4000)
    assert kept.shape == (4000, 11) and (kept.sum(axis=1) == 5).all()
    # The share of a sample is 5/11, with a deviation of sqrt(5/11 * 6/11 / 4000) = 0.008.
    np.testing.assert_allclose(kept.mean(axis=0), 5 / 11, atol=0.04)
    np.testing.assert_array_equal(kept, halves.draw(11, 4000))
    assert (kept != halves.draw(11, 4000, seed=1)).any()
    with pytest.raises(UserError, match="1 halves of 11 samples; expected: at least 2"):
        halves.draw(11, 1)


@pytest.mark.parametrize("count", [40, 41])
def test_the_deviation_of_a_mean_is_its_standard_error(count):
    # The mean of m of n without replacement has the variance (1/m - 1/n) s^2, which times m / (n - m) is s^2 / n.
    x = normal(count)
    means = np.array([x[marks].mean() for marks in halves.draw(count, 5000)])
    np.testing.assert_allclose(halves.deviation(means, count), x.std(ddof=1) / np.sqrt(count), rtol=0.04)


def test_the_deviation_of_a_median_is_that_of_new_samples():
    new = np.std([np.median(normal(200, seed)) for seed in range(400)])
    estimates = []
    for seed in range(20):
        x = normal(200, seed)
        medians = np.array([np.median(x[marks]) for marks in halves.draw(200, 100, seed)])
        estimates.append(halves.deviation(medians, 200))
    np.testing.assert_allclose(np.mean(estimates), new, rtol=0.2)  # a single estimate is noisier


def test_the_kernel_distances_of_halves_are_those_of_each(monkeypatch):
    monkeypatch.setattr(kernel, "TILE", 7)  # tiles on and below the diagonal, and a last one that is smaller
    real, fake = normal((30, 5)), normal((26, 5), 1) + 0.2
    kept = halves.draw(26, 6)
    expected = np.array([squared_mmd(real, fake[marks]) for marks in kept])
    found = squared_mmd_of_halves(real, fake, kept)
    np.testing.assert_allclose(found - found[0], expected - expected[0], rtol=1e-10)


@pytest.mark.parametrize("spread", [0.8, 0.0, 30.0])  # as wide as the real ones; all one point; far outside
def test_precision_and_recall_of_halves_are_those_of_each(monkeypatch, spread):
    monkeypatch.setattr(neighbors, "TILE", 13)
    monkeypatch.setattr(neighbors, "BLOCK", 500)
    real, fake = normal((50, 3)), normal((60, 3), 1) * spread + 0.3
    fake[:5] = fake[5:10]  # copies, at distance 0 from each other
    kept = halves.draw(60, 8)
    expected = [prdc(real, fake[marks]) for marks in kept]
    found = prdc_of_halves(real, fake, kept)
    for name in found._fields:
        np.testing.assert_allclose(getattr(found, name), [getattr(each, name) for each in expected], rtol=1e-12)


def test_a_radius_that_is_not_among_the_neighbors_listed_is_that_of_the_last(monkeypatch):
    monkeypatch.setattr(neighbors, "LISTED", 2)
    line = np.arange(6.0)[:, None] ** 2  # 0, 1, 4, 9, 16, 25
    kept = np.array([[True, True, False, False, True, True]])
    # Of 0 the two nearest are 1 and 4, of which one is kept: the second nearest of the half, 16, is not among them.
    radii = neighbors._radii_of_parts(line, kept, 2)
    np.testing.assert_array_equal(radii, [[4, 3, -1, -1, 9, 16]])
