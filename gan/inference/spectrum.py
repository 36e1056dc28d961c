"""The radial power spectrum of images: how much of their variance is at each spatial frequency."""

import numpy as np


def radial_spectrum(images: np.ndarray) -> np.ndarray:
    """The azimuthally averaged power spectrum of each of images uint8 [N, H, W, C]: float64 [N, min(H, W) // 2 + 1].

    Entry k is the mean of |F|^2 / (H W) over the frequencies whose radius, in cycles per shorter side, rounds to k. F
    is the discrete Fourier transform of the gray image (the mean of the channels) in 0..1, without its mean. So white
    noise of variance s^2 has the expectation s^2 at every frequency, but for k = 0, where only the mean would be.
    Frequencies beyond the shorter side's Nyquist frequency, in the corners, are left out.

    Reference: Durall, Keuper and Keuper 2020, arXiv:2003.01826, equation 4.
    """
    gray = images.astype(np.float64).mean(axis=-1) / 255.0
    gray -= gray.mean(axis=(1, 2), keepdims=True)
    height, width = gray.shape[1:]
    side = min(height, width)
    power = np.square(np.abs(np.fft.fft2(gray))) / (height * width)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    radius = np.rint(np.sqrt(np.square(rows) + np.square(columns)) * side).astype(int).ravel()
    count = side // 2 + 1
    is_within = radius < count
    sums = np.zeros((len(images), count))
    np.add.at(sums.T, radius[is_within], power.reshape(len(images), -1)[:, is_within].T)
    return sums / np.bincount(radius[is_within], minlength=count)[None]
