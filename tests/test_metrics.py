"""gan.metrics against closed forms, brute force, public implementations and negative controls."""

import itertools
import math

import numpy as np
import pytest

from gan.errors import UserError
from gan.metrics import frechet, neighbors, ssim
from gan.metrics.frechet import Moments, frechet_distance, intra_class_distance, moments, moments_by_class, rank_warning
from gan.metrics.inception_score import inception_score
from gan.metrics.kernel import kernel_distance, squared_mmd
from gan.metrics.neighbors import nearest, prdc

REFERENCES = "a public implementation to compare with: pip install -e .[metrics]"


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def gaussian(mean, covariance):
    """The moments of a Gaussian: with two samples the scatter equals the covariance."""
    return Moments(2, np.array(mean, float), np.array(covariance, float))


# Frechet


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


# Nearest neighbors


def prdc_by_brute_force(real, fake, manifold_k, density_k):
    """The definitions, as loops."""

    def radius(points, i, k):
        return sorted(np.linalg.norm(points[i] - other) for j, other in enumerate(points) if j != i)[k - 1]

    def share(points, among, k):
        balls = [(center, radius(among, i, k)) for i, center in enumerate(among)]
        return np.mean([any(np.linalg.norm(p - center) <= r for center, r in balls) for p in points])

    balls = [(center, radius(real, i, density_k)) for i, center in enumerate(real)]
    contained = [[np.linalg.norm(p - center) < r for p in fake] for center, r in balls]
    density, coverage = np.sum(contained) / (density_k * len(fake)), np.mean(np.any(contained, axis=1))
    return share(fake, real, manifold_k), share(real, fake, manifold_k), density, coverage


@pytest.mark.parametrize(("offset", "spread"), [(0, 0), (1e5, 0), (0, 1e3)])
def test_prdc_by_brute_force(offset, spread, monkeypatch):
    # More than thirty borders of blocks and tiles; neighbors 1 apart, 1e5 from the origin or in clusters 1e3 apart,
    # which squares in float32 would not distinguish.
    monkeypatch.setattr(neighbors, "TILE", 7)
    monkeypatch.setattr(neighbors, "BLOCK", 200)
    centers = offset + spread * normal((4, 3), 2)[np.arange(40) % 4]
    real, fake = normal((40, 3)) + centers, normal((31, 3), 1) * 0.8 + 0.4 + centers[:31]
    expected = prdc_by_brute_force(real, fake, 3, 5)
    assert min(expected) > 0.1 and max(expected[:2] + expected[3:]) < 1
    assert prdc(real, fake) == pytest.approx(expected, rel=1e-12)


def test_prdc_equals_the_public_implementation():
    reference = pytest.importorskip("prdc", reason=REFERENCES)
    real, fake = (np.maximum(normal((n, 64), n) + n / 1e4, 0).astype(np.float32) for n in (300, 250))
    for k in (3, 5):
        expected = reference.compute_prdc(real, fake, k)
        assert prdc(real, fake, manifold_k=k, density_k=k)._asdict() == pytest.approx(expected, rel=1e-12)


def test_precision_and_recall_equal_torch_fidelitys():
    reference = pytest.importorskip("torch_fidelity.metric_prc", reason=REFERENCES)
    torch = pytest.importorskip("torch", reason=REFERENCES)
    real, fake = normal((120, 8)), normal((100, 8), 1) + 0.3
    expected = reference.calculate_precision_recall_full(torch.tensor(fake), torch.tensor(real), 3)
    found = prdc(real, fake)
    assert (found.precision, found.recall) == pytest.approx(expected, abs=1e-6)  # its mean is float32


def test_prdc_of_a_set_with_itself():
    # Each open ball of the 5-th neighbor contains its center and four others: density 5 / 5.
    points = normal((50, 4))
    assert prdc(points, points) == (1, 1, 1, 1)


def test_a_collapsed_generator_has_precision_but_no_recall_or_coverage():
    real = normal((60, 4))
    healthy = prdc(real, normal((60, 4), 1))
    collapsed = prdc(real, np.repeat(real[7:8], 60, axis=0))
    assert collapsed.precision == 1 >= healthy.precision
    assert collapsed.recall <= 1 / 60 < 0.5 < healthy.recall
    assert collapsed.coverage < 0.3 < 0.8 < healthy.coverage


def test_a_missing_class_lowers_recall_and_coverage_by_its_share():
    centers = 50 * np.eye(4)
    real = normal((100, 4)) + np.repeat(centers, 25, axis=0)
    fake = normal((100, 4), 1) + np.repeat(centers, 25, axis=0)
    whole, missing = prdc(real, fake), prdc(real, fake[:75])
    assert missing.recall <= 0.75 and missing.coverage <= 0.75
    assert missing.recall == pytest.approx(whole.recall - 0.25, abs=0.1)
    assert missing.coverage == pytest.approx(whole.coverage - 0.25, abs=0.1)
    assert missing.precision == pytest.approx(whole.precision, abs=0.1)


def test_an_outlier_raises_precision_but_not_density():
    # One distant real point has a ball of radius about 100 that contains half of the noise; its weight in density is 1.
    real = np.concatenate([normal((50, 2)), [[100.0, 0.0]]])
    noise = np.stack([np.linspace(5, 200, 50), np.full(50, 20.0)], axis=1)
    found = prdc(real, noise)
    assert found.precision > 0.9
    assert found.density < 0.3


def test_nearest_references_are_sorted_and_a_copy_has_distance_zero():
    references = normal((40, 3)) + 1e4
    queries = np.concatenate([references[[5, 17]], normal((9, 3), 1) + 1e4])
    found = nearest(queries, references, 4)
    table = np.linalg.norm(queries[:, None] - references[None], axis=2)
    np.testing.assert_array_equal(found.indices, np.argsort(table, axis=1)[:, :4])
    np.testing.assert_allclose(found.distances, np.sort(table, axis=1)[:, :4], rtol=1e-12)
    np.testing.assert_array_equal(found.indices[:2, 0], [5, 17])
    np.testing.assert_array_equal(found.distances[:2, 0], [0, 0])
    assert nearest(queries, references, 40).indices.shape == (11, 40)


def test_invalid_numbers_of_neighbors_are_rejected():
    points = normal((5, 2))
    with pytest.raises(UserError, match="expected: 1 to 4"):
        prdc(points, points)
    with pytest.raises(UserError, match="expected: 1 to 5"):
        nearest(points, points, 6)
    with pytest.raises(UserError, match="2 and of 3 dimensions"):
        prdc(points, normal((9, 3)))


# Structural similarity


def random_images(n, height, width, channels=1, seed=0):
    """Smooth random images, uint8 [n, height, width, channels]."""
    coarse = np.random.default_rng(seed).integers(0, 256, size=(n, -(-height // 4), -(-width // 4), channels))
    return np.kron(coarse, np.ones((1, 4, 4, 1)))[:, :height, :width].astype(np.uint8)


def ssim_by_brute_force(a, b):
    """(SSIM, its contrast-structure term) of two planes in [0, 1], window by window as in the paper."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    full, structure = [], []
    for i, j in itertools.product(range(a.shape[0] - 10), range(a.shape[1] - 10)):
        x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
        mx, my = np.sum(window * x), np.sum(window * y)
        vx, vy, vxy = (np.sum(window * u * v) for u, v in ((x - mx, x - mx), (y - my, y - my), (x - mx, y - my)))
        structure.append((2 * vxy + 0.03**2) / (vx + vy + 0.03**2))
        full.append(structure[-1] * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2))
    return np.mean(full), np.mean(structure)


def test_ssim_by_brute_force():
    a, b = random_images(2, 14, 17, 2), random_images(2, 14, 17, 2, seed=1)
    planes = [
        [ssim_by_brute_force(x[..., c] / 255, y[..., c] / 255)[0] for c in range(2)] for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(ssim.ssim(a, b), np.mean(planes, axis=1), rtol=1e-9)
    np.testing.assert_allclose(ssim.ssim(a / 255, b / 255), ssim.ssim(a, b), rtol=1e-9)


def test_ms_ssim_of_a_digits_size_by_brute_force():
    # 28 pixels have two scales, with weights .0448 and .2856 over their sum: structure at 28, full SSIM at 14.
    a = random_images(1, 28, 28)
    b = (a // 2 + random_images(1, 28, 28, seed=1) // 4).astype(np.uint8)
    x, y = a[0, ..., 0] / 255, b[0, ..., 0] / 255
    half_x, half_y = (z.reshape(14, 2, 14, 2).mean(axis=(1, 3)) for z in (x, y))
    fine, coarse = ssim_by_brute_force(x, y)[1], ssim_by_brute_force(half_x, half_y)[0]
    assert min(fine, coarse) > 0
    expected = fine ** (0.0448 / 0.3304) * coarse ** (0.2856 / 0.3304)
    np.testing.assert_allclose(ssim.ms_ssim(a, b), [expected], rtol=1e-9)


def test_the_number_of_scales_is_the_largest_that_fits():
    sizes = {10: 0, 11: 1, 20: 1, 21: 2, 28: 2, 32: 2, 64: 3, 128: 4, 160: 4, 161: 5, 1024: 5}
    assert {size: ssim.scales(size, 2 * size) for size in sizes} == sizes
    odd = random_images(1, 21, 23)
    np.testing.assert_allclose(ssim.ms_ssim(odd, odd), [1], rtol=1e-12)
    # Flat images stay flat when an odd side is downsampled, so only luminance remains, at the coarser of two scales.
    flat = np.full((1, 21, 23, 1), 0.2)
    np.testing.assert_allclose(ssim.ms_ssim(flat, 2 * flat), [(0.1601 / 0.2001) ** (0.2856 / 0.3304)], rtol=1e-9)


def test_ssim_of_equal_noisy_and_shuffled_images():
    a = random_images(3, 28, 28, 3)
    for metric in (ssim.ssim, ssim.ms_ssim):
        np.testing.assert_allclose(metric(a, a), 1, rtol=1e-12)
        noisy = (a * 0.9 + 0.1 * random_images(3, 28, 28, 3, seed=1)).astype(np.uint8)
        shuffled = np.random.default_rng(0).permutation(a.reshape(3, 784, 3), axis=1).reshape(a.shape)
        assert (metric(a, shuffled) < 0.2).all() and (metric(a, noisy) > 0.5).all() and (metric(a, noisy) < 1).all()
    assert (ssim.ssim(a, 255 - a) < 0).all()
    np.testing.assert_array_equal(ssim.ms_ssim(a, 255 - a), 0)  # a negative term becomes 0, not NaN
    # Flat images differ in luminance only: (2 * .2 * .4 + 1e-4) / (.04 + .16 + 1e-4) = .1601 / .2001
    flat = np.full((1, 16, 16, 1), 0.2)
    np.testing.assert_allclose(ssim.ssim(flat, 2 * flat), [0.1601 / 0.2001], rtol=1e-9)


def test_ssim_equals_scikit_images():
    reference = pytest.importorskip("skimage.metrics", reason=REFERENCES).structural_similarity
    a, b = random_images(3, 28, 32, 3), random_images(3, 28, 32, 3, seed=1)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = [reference(x, y, channel_axis=2, **options) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ssim.ssim(a, b), expected, rtol=1e-10)


def test_ms_ssim_equals_pytorch_msssims_at_five_scales():
    reference = pytest.importorskip("pytorch_msssim", reason=REFERENCES)
    torch = pytest.importorskip("torch", reason=REFERENCES)
    a = random_images(2, 176, 192)
    b = (a * 0.7 + 0.3 * random_images(2, 176, 192, seed=1)).astype(np.uint8)
    planes = [torch.tensor(np.moveaxis(x, 3, 1)).double() for x in (a, b)]
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)  # its own is float32
    window = torch.tensor(window / window.sum())[None, None, None]
    expected = reference.ms_ssim(*planes, data_range=255, size_average=False, win=window).numpy()
    np.testing.assert_allclose(ssim.ms_ssim(a, b), expected, rtol=1e-7)  # its weights are float32


def test_a_collapsed_class_has_ms_ssim_one_and_classes_are_independent():
    images = np.concatenate([np.repeat(random_images(1, 28, 28), 12, axis=0), random_images(12, 28, 28, seed=1)])
    labels = np.repeat([3, 5], 12)
    found = ssim.within_class(images, labels, pairs=20)
    assert found[3] == pytest.approx(1) and found[5] < 0.5
    assert ssim.within_class(images[12:], labels[12:], pairs=20) == {5: found[5]}
    assert ssim.within_class(images, labels, pairs=20, seed=1)[5] != found[5]
    # With two images every pair consists of both: an image is never paired with itself.
    both = ssim.within_class(images[12:14], [0, 0], pairs=40)
    assert both[0] == pytest.approx(ssim.ms_ssim(images[12:13], images[13:14])[0])
    with pytest.raises(UserError, match="class 5 has one image"):
        ssim.within_class(images[:13], labels[:13])


def test_invalid_images_are_rejected():
    a = random_images(1, 28, 28)
    with pytest.raises(UserError, match="at least 11"):
        ssim.ssim(a[:, :8], a[:, :8])
    with pytest.raises(UserError, match=r"outside \[0, 1\]"):
        ssim.ssim(a / 127.5 - 1, a / 127.5 - 1)
    with pytest.raises(UserError, match="uint8 both"):
        ssim.ssim(a, a / 255)
