"""gan.metrics.vendi against closed forms and the definition with the matrix of all similarities."""

import numpy as np
import pytest
from test_metrics import normal

from gan.errors import UserError
from gan.metrics import vendi
from gan.metrics.vendi import vendi_score


def by_definition(features):
    """exp of the entropy of the eigenvalues of K / N, K the cosines of all pairs."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / len(unit))
    values = values[values > 1e-15]
    return np.exp(-(values * np.log(values)).sum())


def test_kinds_of_samples_are_counted():
    assert vendi_score(np.eye(5)) == pytest.approx(5)
    assert vendi_score(np.repeat(np.eye(5), 7, axis=0)) == pytest.approx(5)  # copies add nothing
    assert vendi_score(np.ones((9, 4))) == pytest.approx(1)
    # Shares 1/4 and 3/4: exp(ln 4 / 4 + 3/4 ln(4/3)) = 4 / 3^(3/4).
    assert vendi_score(np.eye(2)[[0, 1, 1, 1]]) == pytest.approx(4 / 3**0.75)
    # Two samples at 60 degrees: K / N has the eigenvalues (1 +- 1/2) / 2, and exp of their entropy is 4 / 3^(3/4) too.
    assert vendi_score(np.array([[1.0, 0.0], [0.5, np.sqrt(3) / 2]])) == pytest.approx(4 / 3**0.75)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (12, 12)])
def test_the_score_is_that_of_the_matrix_of_similarities(shape, monkeypatch):
    features = normal(shape) + 0.5
    assert vendi_score(features) == pytest.approx(by_definition(features), rel=1e-10)
    monkeypatch.setattr(vendi, "BLOCK", 5)
    assert vendi_score(features.astype(np.float32)) == pytest.approx(by_definition(features), rel=1e-5)
    lengths = np.random.default_rng(1).uniform(0.1, 9, (len(features), 1))
    assert vendi_score(features * lengths) == pytest.approx(vendi_score(features), rel=1e-10)  # directions alone


def test_vectors_of_zeros_are_one_kind():
    # Black images in the features of pixels. Shares 1/2 of zeros and 1/2 of one direction: two kinds.
    assert vendi_score(np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])) == pytest.approx(2)
    assert vendi_score(np.zeros((6, 3))) == pytest.approx(1)
    with pytest.raises(UserError, match="NaN"):
        vendi_score(np.full((2, 2), np.nan))


def test_the_score_falls_with_every_mode_that_is_dropped():
    centers = np.eye(6) * 10
    samples = np.repeat(centers, 50, axis=0) + normal((300, 6))
    scores = [vendi_score(samples[: 50 * modes]) for modes in range(6, 0, -1)]
    assert all(more > less + 0.5 for more, less in zip(scores, scores[1:], strict=False))
    assert scores[0] == pytest.approx(6, rel=0.02) and scores[-1] < 1.4
