"""The Vendi score: how many different samples a set is worth, from their similarities alone, without real images."""

import numpy as np

from gan.metrics.frechet import check_features

BLOCK = 4096
"""Vectors, or dimensions of all vectors, that are in memory in float64 at once."""


def vendi_score(features: np.ndarray) -> float:
    """exp(-sum over i of l_i log l_i), l the eigenvalues of K / N, for the cosine similarities K [N, N] of features.

    It is 1 for N equal samples and N for N orthogonal ones; K equally frequent kinds of samples that are equal within a
    kind and orthogonal between kinds have K. It is at most min(N, D). It increases with N, so compare it with that of
    equally many real images.

    The nonzero eigenvalues of K = X X^T are those of X^T X [D, D], the smaller of the two where N > D: N D^2 operations
    for the product and D^3 for the eigenvalues, and 8 D^2 bytes. A vector of zeros has no direction: all of these count
    as one direction that is orthogonal to the others.

    Args:
      features: [N, D].

    Reference: Friedman and Dieng 2022, The Vendi Score, arXiv:2210.02410, definition 3.1, with the cosine kernel of
    Stein et al. 2023, arXiv:2306.04675.
    """
    features = check_features(features)
    count, dimension = features.shape
    lengths = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))
    scales = 1 / np.where(lengths > 0, lengths, 1.0)[:, None]
    gram = np.zeros((min(count, dimension),) * 2)
    for start in range(0, max(count, dimension), BLOCK):
        part = slice(start, start + BLOCK)
        if count > dimension:
            unit = features[part] * scales[part]
            gram += unit.T @ unit
        else:
            unit = features[:, part] * scales
            gram += unit @ unit.T
    eigenvalues = np.append(np.linalg.eigvalsh(gram), np.count_nonzero(lengths == 0)) / count
    eigenvalues = eigenvalues[eigenvalues > 0]  # 0 log 0 = 0; rounding makes zeros negative
    return float(np.exp(-np.sum(eigenvalues * np.log(eigenvalues))))
