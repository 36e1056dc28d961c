"""gan.metrics.frechet against closed forms, brute force, SciPy and negative controls."""

import math

import numpy as np
import pytest
from test_metrics import REFERENCES, normal

from gan.errors import UserError
from gan.metrics import frechet
from gan.metrics.frechet import Moments, frechet_distance, intra_class_distance, moments, moments_by_class, rank_warning


def gaussian(mean, covariance):
    """The moments of a Gaussian: with two samples the scatter equals the covariance."""
    return Moments(2, np.array(mean, float), np.array(covariance, float))


def test_the_frechet_distance_of_two_gaussians_on_a_line():
    # (0 - 3)^2 + 1 + 4 - 2 sqrt(1 * 4) = 9 + 5 - 4 = 10
    assert frechet_distance(gaussian([0], [[1]]), gaussian([3], [[4]])) == pytest.approx(10, abs=1e-12)


def test_the_frechet_distance_where_covariances_do_not_commute():
    # For 2 x 2, (tr M^1/2)^2 = tr M + 2 sqrt(det M). AB = [[2, 2], [1, 5]]: tr 7, det 8; tr A = 3, tr B = 6.
    a, b = [[2, 0], [0, 1]], [[1, 1], [1, 5]]
    expected = 3 + 6 - 2 * math.sqrt(7 + 2 * math.sqrt(8))
    assert frechet_distance(gaussian([1, 1], a), gaussian([1, 1], b)) == pytest.approx(expected, abs=1e-12)


def test_moments_equal_numpys():
    features = normal((50, 4))
    found = moments(features)
    np.testing.assert_allclose(found.mean, features.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-12)


def test_streamed_moments_equal_those_of_the_whole_in_any_order_and_far_from_the_origin():
    features = (normal((60, 3)) + 1e6).astype(np.float32)
    whole = moments(features)
    stream = frechet.empty(3)
    for batch in np.split(features, [1, 7, 8, 40]):
        stream = stream.update(batch)
    backwards = moments(features[40:]).merge(frechet.empty(3)).merge(moments(features[:40]))
    for found in (stream, backwards):
        assert found.count == 60
        np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-14)
        np.testing.assert_allclose(found.scatter, whole.scatter, rtol=1e-9)
    # Negative control: mean of squares minus square of mean loses digits that the features have, even in float64.
    wide = features.astype(np.float64)
    assert np.abs(wide.T @ wide - 60 * np.outer(wide.mean(0), wide.mean(0)) - whole.scatter).max() > 1e-3


KINDS = {  # number of samples of the first set, of the second set, and the scales of their 16 features
    "full rank": (200, 150, np.ones(16)),
    "rank deficient": (10, 10, np.ones(16)),
    "one deficient": (10, 200, np.ones(16)),
    "near singular": (99, 99, np.logspace(0, -7, 16)),
    "a dead feature": (99, 99, np.arange(16) > 0),
}


@pytest.mark.filterwarnings("ignore:Matrix is singular")  # SciPy's, of sqrtm
@pytest.mark.parametrize("kind", KINDS)
def test_the_frechet_distance_at_any_rank(kind):
    n, m, scales = KINDS[kind]
    x, y = normal((n, 16)) * scales, normal((m, 16), 1) * (scales * 2) + 1
    # For A = X^T X and B = Y^T Y the trace of the root is the sum of the singular values of X Y^T: here computed from
    # the centered data, without squaring them.
    left, right = (z - z.mean(0) for z in (x, y))
    left, right = left / math.sqrt(len(left) - 1), right / math.sqrt(len(right) - 1)
    overlap = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    exact = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(left**2) + np.sum(right**2) - 2 * overlap
    a, b = moments(x), moments(y)
    assert frechet_distance(a, b) == pytest.approx(exact, rel=1e-6 if kind == "one deficient" else 1e-11)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert 0 <= frechet_distance(a, a) < 1e-10

    linalg = pytest.importorskip("scipy.linalg", reason=REFERENCES)
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    by_sqrtm = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm, rel=1e-5)


def test_a_shift_raises_the_frechet_distance_by_its_square_and_a_rotation_by_nothing():
    x, y = normal((80, 5)), normal((80, 5), 1)
    base = frechet_distance(moments(x), moments(y))
    shifted = y + (x.mean(0) - y.mean(0)) + np.array([3, 4, 0, 0, 0])  # means now 5 apart
    rotation = np.linalg.qr(normal((5, 5), 2))[0]
    same_means = base - np.sum((x.mean(0) - y.mean(0)) ** 2)
    assert frechet_distance(moments(x), moments(shifted)) == pytest.approx(same_means + 25, abs=1e-10)
    assert frechet_distance(moments(x @ rotation), moments(y @ rotation)) == pytest.approx(base, abs=1e-10)


def test_too_few_samples_cause_a_warning_or_an_error():
    assert rank_warning(2049, 2048) is None
    assert "2048 samples for 2048 features" in rank_warning(2048, 2048)
    with pytest.raises(UserError, match="expected: at least 2"):
        frechet_distance(moments(normal((1, 3))), moments(normal((9, 3))))
    with pytest.raises(UserError, match="3 and of 4 dimensions"):
        frechet_distance(moments(normal((9, 3))), moments(normal((9, 4))))
    with pytest.raises(UserError, match="NaN"):
        moments(np.array([[1.0], [math.nan]]))


def test_swapped_classes_change_the_intra_class_distance_only():
    labels = np.repeat([0, 1], 40)
    real = normal((80, 3)) + 4 * labels[:, None]
    fake = normal((80, 3), 1) + 4 * labels[:, None]
    by_class = {name: moments_by_class(real, which) for name, which in (("right", labels), ("swapped", 1 - labels))}
    generated = moments_by_class(fake, labels)
    right, swapped = (intra_class_distance(by_class[name], generated) for name in ("right", "swapped"))
    assert right.mean == pytest.approx((right.by_class[0] + right.by_class[1]) / 2)
    assert right.by_class[1] == frechet_distance(moments(real[40:]), moments(fake[40:]))
    assert right.mean < 1 and swapped.mean > 40  # 4^2 in each of 3 features
    merged = [by_class[name][0].merge(by_class[name][1]) for name in by_class]
    whole = moments(fake)
    assert frechet_distance(merged[0], whole) == pytest.approx(frechet_distance(merged[1], whole), abs=1e-9)
    with pytest.raises(UserError, match="class 1 is on one side"):
        intra_class_distance({0: moments(real)}, generated)


def test_the_frechet_distance_of_few_samples_needs_no_covariance():
    # {0, 2u} has the mean u and the covariance 2 u u^T, {0, 6u} 3u and 18 u u^T: 2^2 + 2 + 18 - 2 sqrt(2 * 18) = 12,
    # for a unit vector u. A covariance of 300,000 x 300,000 would take 720 GB.
    u = np.zeros(300_000, np.float32)
    u[[1, 200_000]] = 0.6, 0.8
    a, b = moments(np.stack([0 * u, 2 * u])), moments(np.stack([0 * u, 6 * u]))
    assert frechet_distance(a, b) == pytest.approx(12, rel=1e-6)
    assert a.variation == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize("n, m", [(30, 25), (30, 60), (60, 30), (60, 70)])
def test_few_samples_have_the_distance_that_their_covariances_have(n, m, monkeypatch):
    x, y = normal((n, 40)), 1.5 * normal((m, 40), 1) + 0.1
    by_samples = frechet_distance(*(frechet.empty(40).update(z[:10]).update(z[10:]) for z in (x, y)))
    by_covariances = frechet_distance(*(Moments(len(z), z.mean(0), np.cov(z.T) * (len(z) - 1)) for z in (x, y)))
    assert by_samples == pytest.approx(by_covariances, rel=1e-6)  # roots of zeros cost the latter half of its digits
    monkeypatch.setattr(frechet, "LARGE", 1)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(by_samples, rel=1e-6)
