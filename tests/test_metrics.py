"""gan.metrics.kernel and gan.metrics.inception_score against closed forms and public implementations."""

import itertools
import math

import numpy as np
import pytest

from gan.errors import UserError
from gan.metrics import kernel
from gan.metrics.inception_score import inception_score
from gan.metrics.kernel import kernel_distance, squared_mmd

REFERENCES = "a public implementation to compare with: pip install -e .[metrics]"


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# Kernel


def test_squared_mmd_on_a_line():
    # k(x, y) = (x y + 1)^3. Within {0, 1}: k(0, 1) = 1. Within {1, 2}: k(1, 2) = 27.
    # Across: k(0, 1) = k(0, 2) = 1, k(1, 1) = 8, k(1, 2) = 27, mean 37 / 4. 1 + 27 - 2 * 37 / 4 = 9.5.
    assert squared_mmd(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])) == pytest.approx(9.5, abs=1e-12)


def test_squared_mmd_by_brute_force():
    x, y = normal((7, 3)), normal((5, 3), 1) + 0.5

    def mean(pairs):
        return np.mean([(sum(a * b) / 3 + 1) ** 3 for a, b in pairs])

    expected = (
        mean(itertools.permutations(x, 2)) + mean(itertools.permutations(y, 2)) - 2 * mean(itertools.product(x, y))
    )
    assert squared_mmd(x, y) == pytest.approx(expected, rel=1e-12)


def test_the_kernel_distance_is_unbiased_detects_a_shift_and_depends_on_its_seed():
    x, y = normal((300, 4)), normal((300, 4), 1)
    same = kernel_distance(x, y, subsets=30, subset_size=40)
    assert abs(same.mean) < 3 * same.std
    assert kernel_distance(x, y + 1, subsets=30, subset_size=40).mean > 10 * abs(same.mean) + same.std
    assert kernel_distance(x, y, subsets=30, subset_size=40) == same
    assert kernel_distance(x, y, subsets=30, subset_size=40, seed=1) != same
    everything = kernel_distance(x, y, subsets=3, subset_size=300)  # each subset is the whole, in another order
    assert everything == pytest.approx((squared_mmd(x, y), 0), abs=1e-12)
    with pytest.raises(UserError, match="2 to 300 samples"):
        kernel_distance(x, y)


def test_kept_kernels_give_the_distance_of_the_subsets(monkeypatch):
    x, y = normal((30, 5)), normal((20, 5), 1)
    kept = kernel_distance(x, y, subset_size=18)
    monkeypatch.setattr(kernel, "MAX_PAIRS", 0)
    assert kernel_distance(x, y, subset_size=18) == pytest.approx(kept, rel=1e-12)
    computed = []
    monkeypatch.setattr(kernel, "polynomial_kernel", lambda a, b: computed.append(a) or np.zeros((len(a), len(b))))
    kernel_distance(x, y, subset_size=18)
    monkeypatch.setattr(kernel, "MAX_PAIRS", 2**26)
    kernel_distance(x, y, subset_size=18)
    assert len(computed) == 300 + 3  # three kernels for each subset, and three in all


def test_the_kernel_distance_equals_torch_fidelitys_on_the_same_subsets():
    reference = pytest.importorskip("torch_fidelity.metric_kid", reason=REFERENCES)
    polynomial = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None}
    x, y = normal((64, 32)), normal((64, 32), 1) + 0.1
    assert squared_mmd(x, y) == pytest.approx(
        reference.kernel_mmd(x, y, kid_kernel_poly_coef0=1.0, **polynomial), abs=1e-12
    )


# Inception score


def test_the_inception_score_of_known_probabilities():
    even = np.tile(np.eye(10), (5, 1))
    assert inception_score(even, splits=5) == pytest.approx((10, 0), abs=1e-12)
    assert inception_score(np.full((20, 10), 0.1)) == pytest.approx((1, 0), abs=1e-12)
    assert inception_score(even[:, ::-1][[0] * 20]) == pytest.approx((1, 0), abs=1e-12)  # confident, one class
    # p = (.9, .1) or (.1, .9), p(y) = (.5, .5): exp(.9 ln 1.8 + .1 ln .2) = 1.8^.9 * .2^.1
    assert inception_score(np.array([[0.9, 0.1], [0.1, 0.9]]), splits=1).mean == pytest.approx(1.8**0.9 * 0.2**0.1)
    assert inception_score(even[even[:, 9] == 0], splits=1).mean == pytest.approx(9)  # a missing class


def test_splits_are_consecutive_in_the_given_order():
    ordered = np.repeat(np.eye(4), 5, axis=0)
    assert inception_score(ordered, splits=4).mean == pytest.approx(1)
    assert inception_score(ordered, splits=1).mean == pytest.approx(4)
    # Two splits of 7 at i * 7 // 2, rows 0 to 2 and rows 3 to 6: 2 classes in the first, 3 in the second.
    mean, std = inception_score(np.eye(3)[[0, 1, 1, 0, 1, 2, 2]], splits=2)
    first, second = 3 / 2 ** (2 / 3), 2 * math.sqrt(2)  # exp of entropies: ln 3 - (2/3) ln 2, and (3/2) ln 2
    assert (mean, std) == pytest.approx(((first + second) / 2, (second - first) / 2))


def test_invalid_probabilities_are_rejected():
    with pytest.raises(UserError, match="softmax"):
        inception_score(normal((20, 4)))
    with pytest.raises(UserError, match="1 to 4"):
        inception_score(np.eye(4))


def test_the_inception_score_equals_torch_fidelitys():
    reference = pytest.importorskip("torch_fidelity.metric_isc", reason=REFERENCES)
    torch = pytest.importorskip("torch", reason=REFERENCES)
    logits = normal((103, 10)) * 3
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = reference.isc_features_to_metric(torch.tensor(logits), splits=10, shuffle=False)
    assert inception_score(probabilities) == pytest.approx(tuple(expected.values()), rel=1e-12)
