"""Filters along the axes of an image as matrix products, with reflected edges: frequency bands and their gains."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

EXACT = jax.lax.Precision.HIGHEST
"""The precision of every matrix product here: the default of accelerators would round the pixels."""

LOWPASS = np.array([-1, 0, 9, 16, 9, 0, -1]) / 32
"""The autocorrelation of the wavelet sym2. It and its complement split a spectrum into two halves that sum to one."""


def amplify(image: Array, gains: Array) -> Array:
    """The sum of four frequency bands of the image [H, W, C], each times its gain, `gains` [4]. Neutral: 1.

    The bands, lowest first, are about [0, 1/8], [1/8, 1/4], [1/4, 1/2] and [1/2, 1] of the Nyquist frequency along
    each axis. Without gains they sum to the image. Edges are reflected.

    Reference: Karras et al. 2020, arXiv:2006.06676, appendix B, "image-space filtering".
    """
    height, width, channels = image.shape
    rows, columns = (
        jnp.eye(size) + jnp.einsum("b,bij->ij", gains - 1.0, _band_matrices(size), precision=EXACT)
        for size in (height, width)
    )
    image = jnp.matmul(rows, image.reshape(height, width * channels), precision=EXACT).reshape(image.shape)
    return jnp.einsum("ij,hjc->hic", columns, image, precision=EXACT)


def filter_matrix(size: int, first: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """The matrix [len(first), size] whose row r has `taps` from column `first[r]` on, reflected at the edges."""
    period = max(2 * (size - 1), 1)
    columns = (first[:, None] + np.arange(len(taps))[None]) % period
    matrix = np.zeros((len(first), size), np.float32)
    np.add.at(matrix, (np.arange(len(first))[:, None], np.minimum(columns, period - columns)), taps)
    return matrix


def _band_matrices(size: int) -> np.ndarray:
    """The matrices [4, size, size] that extract each frequency band along an axis. Their sum is the identity."""
    delta = np.eye(1, len(LOWPASS), len(LOWPASS) // 2)[0]
    bands = [np.ones(1)]
    for _ in range(3):
        # Doubling the spacing of the taps adds a mirrored band in the upper half of the spectrum. LOWPASS removes it.
        spread = [np.kron(band, [1.0, 0.0])[:-1] for band in bands]
        bands = [*(np.convolve(band, LOWPASS) for band in spread), delta - LOWPASS]
    return np.stack([filter_matrix(size, np.arange(size) - len(band) // 2, band) for band in bands])
