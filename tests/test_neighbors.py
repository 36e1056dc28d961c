"""gan.metrics.neighbors against brute force, public implementations and negative controls."""

import numpy as np
import pytest
from test_metrics import REFERENCES, normal

from gan.errors import UserError
from gan.metrics import neighbors
from gan.metrics.neighbors import nearest, prdc


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


def test_balls_are_closed_for_precision_and_recall_and_open_for_density_and_coverage():
    # Each of 0 and 2 has the radius 2, and -2 and 4 lie on the borders of these balls; the radius of each of them is 6.
    inner, outer = np.array([[0.0], [2.0]]), np.array([[-2.0], [4.0]])
    assert prdc(inner, outer, manifold_k=1, density_k=1) == (1.0, 1.0, 0.0, 0.0)
    assert prdc(outer, inner, manifold_k=1, density_k=1) == (1.0, 1.0, 2.0, 1.0)


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


@pytest.mark.parametrize("offset", [0, 1e3])
def test_the_search_on_the_device_finds_what_all_distances_show(offset, monkeypatch):
    monkeypatch.setattr(neighbors, "ROWS", 16)  # three batches of queries, of which the last is padded
    references = (normal((50, 20)) + offset).astype(np.float32)
    queries = np.concatenate([references[[3, 48]], (normal((38, 20), 1) + offset).astype(np.float32)])
    found = neighbors.nearest_on_device(queries, np.split(references, [16, 32, 48]))  # the last of two
    expected = nearest(queries, references)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-12)
    np.testing.assert_array_equal(found.distances[:2, 0], [0, 0])


def test_a_query_among_the_references_is_not_its_own_neighbor(monkeypatch):
    monkeypatch.setattr(neighbors, "ROWS", 16)
    references = normal((50, 20)).astype(np.float32)
    references[7] = references[49]  # a copy, in another batch, is a neighbor at distance 0
    own = np.array([7, 0, 31, 32, 49, 48])  # in the first, a middle and the last batch, which is of this image alone
    batches = np.split(references, [16, 32, 48, 49])
    found = neighbors.nearest_on_device(references[own], batches, own)
    table = np.linalg.norm(np.float64(references[own])[:, None] - references[None], axis=2)
    table[np.arange(6), own] = np.inf
    np.testing.assert_array_equal(found.indices[:, 0], table.argmin(axis=1))
    np.testing.assert_allclose(found.distances[:, 0], table.min(axis=1), rtol=1e-12)
    assert found.distances[0, 0] == 0 and found.indices[0, 0] == 49


def test_invalid_numbers_of_neighbors_are_rejected():
    points = normal((5, 2))
    with pytest.raises(UserError, match="expected: 1 to 4"):
        prdc(points, points)
    with pytest.raises(UserError, match="expected: 1 to 5"):
        nearest(points, points, 6)
    with pytest.raises(UserError, match="2 and of 3 dimensions"):
        prdc(points, normal((9, 3)))
