"""gan.metrics.modes and gan.metrics.wasserstein: closed forms, and what each metric must detect."""

import numpy as np
import pytest

from gan.errors import UserError
from gan.metrics.modes import label_counts, label_coverage, mode_coverage, reverse_kl
from gan.metrics.wasserstein import sliced_wasserstein, wasserstein

CENTERS = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
STD = 0.1
RNG = np.random.default_rng(0)


def sample(labels):
    return CENTERS[labels] + STD * RNG.standard_normal((len(labels), 2))


EVEN = sample(np.repeat(np.arange(4), 1000))


def test_the_true_distribution_covers_all_modes_at_even_shares():
    metrics = mode_coverage(EVEN, CENTERS, STD)
    assert metrics["modes"] == 4
    assert metrics["reverse_kl"] == 0.0
    # Within three standard deviations of the plane: 1 - exp(-9 / 2) = 0.98889; std of the share sqrt(.989 .011 / 4000).
    assert abs(metrics["high_quality"] - 0.98889) < 4 * 0.0017


def test_a_missing_mode_is_detected():
    metrics = mode_coverage(EVEN[1000:], CENTERS, STD)
    assert metrics["modes"] == 3
    # Three modes at 1/3 each instead of 1/4: log((1/3) / (1/4)) = log(4 / 3).
    np.testing.assert_allclose(metrics["reverse_kl"], np.log(4 / 3))


def test_uneven_shares_are_compared_with_the_true_shares():
    uneven = sample(np.repeat(np.arange(4), [100, 200, 300, 400]))
    # 0.1 log 0.4 + 0.2 log 0.8 + 0.3 log 1.2 + 0.4 log 1.6 = 0.1064
    np.testing.assert_allclose(mode_coverage(uneven, CENTERS, STD)["reverse_kl"], 0.1064, atol=1e-4)
    np.testing.assert_allclose(mode_coverage(uneven, CENTERS, STD, [1, 2, 3, 4])["reverse_kl"], 0.0, atol=1e-12)


def test_noise_is_of_low_quality_and_covers_nothing():
    noise = RNG.uniform(2.0, 8.0, (4000, 2))  # at least 2 sqrt(2) from every center
    assert mode_coverage(noise, CENTERS, STD) | {"reverse_kl": 0} == {"modes": 0, "high_quality": 0.0, "reverse_kl": 0}


def test_the_border_of_high_quality_is_three_standard_deviations():
    inside, outside = [[0.299, 0.0]], [[0.301, 0.0]]
    assert mode_coverage(inside, CENTERS, STD)["high_quality"] == 1.0
    assert mode_coverage(outside, CENTERS, STD)["high_quality"] == 0.0


def test_one_sample_of_high_quality_covers_a_mode_and_one_of_low_quality_does_not():
    assert mode_coverage([[0.0, 0.0], [10.0, 0.1]], CENTERS, STD)["modes"] == 2
    assert mode_coverage([[0.0, 0.0], [10.0, 1.0]], CENTERS, STD)["modes"] == 1


@pytest.mark.parametrize("modes", [2, 8, 1000])
def test_reverse_kl_of_one_mode_out_of_many_is_log_of_their_number(modes):
    np.testing.assert_allclose(reverse_kl(np.eye(modes)[0] * 7), np.log(modes))
    assert reverse_kl(np.ones(modes)) == 0.0


def test_a_mode_of_zero_true_share_is_infinitely_wrong():
    assert reverse_kl([1, 1], [1, 0]) == np.inf
    assert reverse_kl([2, 0], [1, 0]) == 0.0


def test_labels_are_modes():
    labels = np.repeat([0, 2, 999], [2, 1, 1])
    assert label_counts(labels, 1000).sum() == 4
    metrics = label_coverage(labels, 1000)
    assert metrics["modes"] == 3
    # 0.5 log(0.5 * 1000) + 2 * 0.25 log(0.25 * 1000)
    np.testing.assert_allclose(metrics["reverse_kl"], 0.5 * np.log(500) + 0.5 * np.log(250))


def test_invalid_arguments_are_rejected():
    for call in (
        lambda: label_counts([0, 4], 4),
        lambda: label_counts([-1], 4),
        lambda: reverse_kl([0, 0]),
        lambda: reverse_kl([1, 1], [1, 1, 1]),
        lambda: mode_coverage([[0.0, 0.0, 0.0]], CENTERS, STD),
        lambda: wasserstein([1.0], [1.0, 2.0]),
        lambda: wasserstein([1.0], [1.0], 0.5),
        lambda: sliced_wasserstein(EVEN[:3], EVEN[:4]),
    ):
        with pytest.raises(UserError):
            call()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_shift_in_one_dimension_is_its_distance(order):
    x = RNG.standard_normal(50)
    np.testing.assert_allclose(wasserstein(x, RNG.permutation(x) - 0.7, order), 0.7)
    np.testing.assert_allclose(sliced_wasserstein(x[:, None], x[::-1, None] + 2.5, order), 2.5)


def test_the_sorted_plan_is_optimal():
    import itertools

    a, b = RNG.standard_normal((2, 5))
    for order in (1, 2):
        plans = [np.mean(np.abs(a - np.array(plan)) ** order) for plan in itertools.permutations(b)]
        np.testing.assert_allclose(wasserstein(a, b, order), min(plans) ** (1 / order))


def test_a_shift_in_the_plane_is_measured_from_all_directions():
    # The mean of |cos| over directions is 2 / pi, that of cos^2 is 1/2; 4,096 directions give them to a percent or so.
    few = EVEN[::40]
    shifted, many = few + [3.0, 4.0], {"projections": 4096}
    np.testing.assert_allclose(sliced_wasserstein(few, shifted, 1, **many), 5 * 2 / np.pi, rtol=0.03)
    np.testing.assert_allclose(sliced_wasserstein(few, shifted, 2, **many), 5 / np.sqrt(2), rtol=0.03)


def test_sliced_wasserstein_is_seeded_and_symmetric_and_detects_a_missing_mode():
    other = sample(np.repeat(np.arange(4), 1000))
    missing = sample(np.repeat(np.arange(1, 4), [1334, 1333, 1333]))
    assert sliced_wasserstein(EVEN, RNG.permutation(EVEN)) == 0.0
    assert sliced_wasserstein(EVEN, other) == sliced_wasserstein(other, EVEN)
    assert sliced_wasserstein(EVEN, missing) != sliced_wasserstein(EVEN, missing, seed=1)
    assert sliced_wasserstein(EVEN, other) < 0.02 < 0.5 < sliced_wasserstein(EVEN, missing)
