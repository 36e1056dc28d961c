"""gan.metrics.wasserstein.mind against closed forms and the definition, one direction at a time."""

import numpy as np
import pytest
from test_metrics import REFERENCES, normal

from gan.errors import UserError
from gan.metrics import halves, wasserstein
from gan.metrics.wasserstein import mind, mind_of_halves


def by_definition(real, fake, directions, seed):
    """3 D mean over directions of the mean squared difference of sorted projections, one direction at a time."""
    us = np.random.default_rng(seed).standard_normal((directions, real.shape[1]))
    distances = []
    for u in us:
        u = u / np.sqrt(np.sum(u**2))
        distances.append(np.mean((np.sort(real @ u) - np.sort(fake @ u)) ** 2))
    return 3 * real.shape[1] * np.mean(distances)


def test_on_a_line_it_is_three_times_the_squared_transport():
    # Sorted, 0 1 2 is moved to 3 4 5: 3 * 1 * 3^2, whatever the sign of a direction.
    assert mind(np.array([[0.0], [1.0], [2.0]]), np.array([[5.0], [3.0], [4.0]])) == pytest.approx(27)
    # 0 4 to 1 1: 3 * (1 + 9) / 2.
    assert mind(np.array([[0.0], [4.0]]), np.ones((2, 1))) == pytest.approx(15)


def test_a_shift_by_v_costs_three_times_its_square_and_a_scale_the_spread():
    x, v = normal((400, 16)), 3 * np.eye(16)[2]
    # The mean of (u . v)^2 over directions is |v|^2 / D; of 4,000 directions its relative deviation is sqrt(2 / 4000).
    assert mind(x, x + v, directions=4000) == pytest.approx(3 * 9, rel=0.1)
    # Sorted projections are doubled: 3 D mean (u . x)^2 = 3 mean |x|^2 in the limit of many directions.
    assert mind(x, 2 * x, directions=4000) == pytest.approx(3 * np.square(x).sum(axis=1).mean(), rel=0.05)
    assert mind(x, np.random.default_rng(1).permutation(x)) == pytest.approx(0, abs=1e-12)


def test_it_is_the_definition_in_blocks_of_directions_and_dimensions(monkeypatch):
    real, fake = normal((60, 7)), normal((60, 7), 1) * 1.3 + 0.2
    monkeypatch.setattr(wasserstein, "VALUES", 60 * 9)  # nine directions at a time
    monkeypatch.setattr(wasserstein, "COLUMNS", 3)
    expected = by_definition(real, fake, 50, 4)
    assert mind(real, fake, directions=50, seed=4) == pytest.approx(expected, rel=1e-10)
    assert mind(fake, real, directions=50, seed=4) == pytest.approx(expected, rel=1e-10)
    assert mind(real, fake, directions=50, seed=5) != pytest.approx(expected, rel=1e-3)


def test_the_larger_set_is_reduced_at_random():
    small, large = normal((200, 4)), np.concatenate([normal((200, 4), 1), normal((200, 4), 2) + 50])
    # Half of the larger set is 50 away: all of its rows have a chance, not the first alone.
    assert mind(small, large, directions=50) == pytest.approx(mind(large, small, directions=50), rel=1e-10)
    assert mind(small, large, directions=50) > 100 * mind(small, large[:200], directions=50)
    with pytest.raises(UserError, match="4 and of 5 dimensions"):
        mind(small, normal((9, 5)))


def test_mind_of_halves_is_that_of_each_sample_twice():
    real, fake = normal((24, 5)), normal((24, 5), 1) + 0.3
    kept = halves.draw(24, 4)
    expected = [by_definition(real, np.repeat(fake[marks], 2, axis=0), 20, 3) for marks in kept]
    found = mind_of_halves(real, fake, kept, directions=20, seed=3)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    everything = mind_of_halves(real, fake, np.ones((1, 24), bool), directions=20, seed=3)
    np.testing.assert_allclose(everything, mind(real, fake, directions=20, seed=3), rtol=1e-10)


def test_it_equals_torch_fidelitys_up_to_its_directions():
    reference = pytest.importorskip("torch_fidelity.metric_mind", reason=REFERENCES)
    torch = pytest.importorskip("torch", reason=REFERENCES)
    real, fake = normal((300, 8)), normal((300, 8), 1) + 1
    options = {"mind_num_projections": 4000, "cuda": False, "rng_seed": 0, "verbose": False}
    expected = reference.mind_features_to_metric(torch.tensor(real), torch.tensor(fake), **options)
    # The relative deviation of a mean of (u . v)^2 over 4,000 directions is about sqrt(2 / 4000), on each side.
    assert mind(real, fake, directions=4000) == pytest.approx(expected["monge_inception_distance"], rel=0.1)
