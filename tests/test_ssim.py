"""gan.metrics.ssim against closed forms, brute force and public implementations."""

import itertools

import numpy as np
import pytest
from test_metrics import REFERENCES

from gan.errors import UserError
from gan.metrics import ssim


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
