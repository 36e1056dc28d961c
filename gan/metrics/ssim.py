"""SSIM and multi-scale SSIM of image pairs, and the mean MS-SSIM within each class as a measure of diversity.

Images are [N, H, W, C], uint8 or float in [0, 1]. Everything is float64, because variances are computed as differences
of nearly equal numbers.
"""

import numpy as np

from gan.errors import UserError

WINDOW = 11
WINDOW_STD = 1.5
LUMINANCE, CONTRAST = 0.01**2, 0.03**2
"""(K1 L)^2 and (K2 L)^2 for images with range L = 1."""
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""The exponents of the five scales, finest first, as published. Their sum is 1.0001."""


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The structural similarity of each pair of images: float64 [N], 1 for equal images.

    The mean over channels and positions of (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2)),
    with means m and (co)variances s under a Gaussian window, without padding.

    Reference: Wang et al. 2004, Image Quality Assessment, IEEE TIP 13(4), equation 13.
    """
    a, b = _images(a, b)
    return _similarity(a, b)[0].mean(axis=1)


def scales(height: int, width: int) -> int:
    """The number of scales, at most five, at which the window fits into an image of this size.

    2 from 21 pixels (28 and 32 too), 3 from 41 (64), 4 from 81 (128), 5 from 161 (256).
    """
    side, count = min(height, width), 0
    while side >= WINDOW and count < len(WEIGHTS):
        side, count = -(-side // 2), count + 1
    return count


def ms_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The multi-scale structural similarity of each pair of images: float64 [N] in 0..1, 1 for equal images.

    The mean over channels of the product over scales j of (mean contrast-structure term)^w_j; the coarsest scale's term
    includes luminance. Negative terms are replaced by 0. Images are downsampled by 2x2 means; an odd last row or column
    is repeated. Images that are too small for five scales use the first `scales` of them, with weights divided by their
    sum; values with different numbers of scales are not comparable.

    Reference: Wang, Simoncelli and Bovik 2003, Multiscale Structural Similarity, Asilomar, equation 7.
    """
    a, b = _images(a, b)
    weights = np.array(WEIGHTS[: scales(*a.shape[2:])])
    if len(weights) < len(WEIGHTS):
        weights /= weights.sum()
    result = np.ones(())
    for scale, weight in enumerate(weights):
        full, structure = _similarity(a, b)
        result = result * np.maximum(full if scale == len(weights) - 1 else structure, 0.0) ** weight
        a, b = _downsample(a), _downsample(b)
    return result.mean(axis=1)


def within_class(images: np.ndarray, labels: np.ndarray, *, pairs: int = 100, seed: int = 0) -> dict[int, float]:
    """{class: mean `ms_ssim` of `pairs` random pairs of its images}; near 1 if a class has collapsed to one image.

    Compare it with the same metric of the training set. The pairs of a class depend only on the seed and on the number
    of its images.

    Args:
      images: [N, H, W, C].
      labels: int [N].

    Reference: Odena, Olah and Shlens 2017, arXiv:1610.09585, section 4.2.
    """
    if pairs < 1:
        raise UserError(f"pairs={pairs}; expected: at least 1")
    labels, means = np.asarray(labels), {}
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise UserError(f"within_class: class {label} has one image; expected: at least 2 of every class")
        rng = np.random.default_rng(seed)
        first = rng.integers(len(members), size=pairs)
        second = (first + rng.integers(1, len(members), size=pairs)) % len(members)  # never the same image
        # A few pairs at a time: the intermediate arrays of a hundred large images would take gigabytes.
        parts = np.array_split(np.stack([members[first], members[second]]), -(-pairs // 16), axis=1)
        means[label] = float(np.concatenate([ms_ssim(images[i], images[j]) for i, j in parts]).mean())
    return means


def _images(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays of images as float64 [N, C, H, W] in [0, 1]. Raises `UserError` if they are invalid."""
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 4 or a.shape != b.shape or min(a.shape[1:3]) < WINDOW:
        raise UserError(
            f"images {a.shape} and {b.shape}; expected: equal shapes [N, H, W, C], H and W at least {WINDOW}"
        )
    if a.dtype != b.dtype:
        raise UserError(f"images of {a.dtype} and {b.dtype}; expected: uint8 both, or float in [0, 1] both")
    if a.dtype != np.uint8 and not (min(a.min(), b.min()) >= 0 and max(a.max(), b.max()) <= 1):
        raise UserError("float images outside [0, 1]; expected: uint8, or float in [0, 1]")
    scale = 255.0 if a.dtype == np.uint8 else 1.0
    return np.moveaxis(a, 3, 1) / np.float64(scale), np.moveaxis(b, 3, 1) / np.float64(scale)


def _similarity(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean over positions of SSIM and of its contrast-structure term, for images [N, C, H, W]: [N, C] each."""
    rows, columns = _window(a.shape[2]), _window(a.shape[3])

    def blur(x):
        return rows @ x @ columns.T

    mean_a, mean_b = blur(a), blur(b)
    squares, product = mean_a**2 + mean_b**2, mean_a * mean_b
    variances, covariance = blur(a * a + b * b) - squares, blur(a * b) - product
    structure = (2 * covariance + CONTRAST) / (variances + CONTRAST)
    luminance = (2 * product + LUMINANCE) / (squares + LUMINANCE)
    return (luminance * structure).mean(axis=(2, 3)), structure.mean(axis=(2, 3))


def _window(size: int) -> np.ndarray:
    """The matrix [size - 10, size] of the 1-D convolution with the Gaussian window, without padding; rows sum to 1."""
    offsets = np.arange(size)[None] - np.arange(size - WINDOW + 1)[:, None] - WINDOW // 2
    weights = np.where(abs(offsets) <= WINDOW // 2, np.exp(-0.5 * (offsets / WINDOW_STD) ** 2), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _downsample(x: np.ndarray) -> np.ndarray:
    """Images [N, C, H, W] downsampled by 2x2 means; an odd last row or column is repeated first."""
    n, c, h, w = x.shape
    x = np.pad(x, ((0, 0), (0, 0), (0, h % 2), (0, w % 2)), mode="edge")
    return x.reshape(n, c, (h + 1) // 2, 2, (w + 1) // 2, 2).mean(axis=(3, 5))
