"""gan.inference.projection and spectrum: images that the generator drew are found again; spectra of known images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import made

from gan.inference import projection
from gan.inference.spectrum import radial_spectrum


@pytest.fixture(scope="module")
def plain():
    return made("dcgan", width=4, latent=8)


@pytest.fixture(scope="module")
def conditional():
    return made("mlp", class_names=("a", "b", "c"), latent=4, width=16, layers=(1,), conditioning="concat")


def test_an_image_that_the_generator_drew_is_found_again(plain):
    target = plain.sample(1, seed=123)[0]
    found = projection.project(plain, target, steps=200, starts=4)
    assert found.psnr > 45  # 45 dB: a root mean square difference of 1.4 of 255
    assert found.start_psnr < 38  # the nearest of 256 samples, without the optimization
    assert found.code.shape == (8,) and found.image.shape == (8, 8, 1) and len(found.steps) > 20
    assert projection.psnr(found.image, target) == found.psnr
    drawn = plain.to_uint8(plain.generate(jnp.asarray(found.code)[None]))[0]
    np.testing.assert_allclose(drawn.astype(int), found.image, atol=1)
    # Without steps there is the start alone: the negative control.
    assert projection.project(plain, target, steps=1, starts=1).psnr < 38


def test_the_class_is_found_or_given(conditional):
    target = conditional.sample(1, seed=5, classes="b")[0]
    found = projection.project(conditional, target, steps=200, starts=6)
    assert conditional.class_names[found.label] == "b" and found.psnr > 35
    given = projection.project(conditional, target, labels=[2], steps=40, starts=2)
    assert given.label == 2 and given.psnr < found.psnr


@pytest.mark.slow
def test_styles_are_found_and_shared_by_all_layers():
    styled = made("stylegan2", image_shape=(8, 8, 3), widths=(8, 4), mapping_layers=1, style_width=4, latent=4)
    target = styled.sample(1, seed=9)[0]
    found = projection.project(styled, target, steps=200, starts=4)
    assert found.code.shape == (4, 4) and np.ptp(found.code, axis=0).max() == 0
    assert found.psnr > max(30, found.start_psnr + 5)


def test_uniform_latents_stay_within_their_bounds():
    uniform = made("dcgan", width=4, latent=4, prior="uniform")
    found = projection.project(uniform, np.full((8, 8, 1), 255, np.uint8), steps=60, starts=2)
    assert np.abs(found.code).max() <= 1.0
    assert np.isfinite(found.psnr)


def test_features_are_a_part_of_the_distance(plain):
    def half(images):
        return images[:, :4].reshape(len(images), -1) / 255

    target = plain.sample(1, seed=123)[0]
    target = np.concatenate([target[:4], 255 - target[4:]])
    errors = {}
    for name, features in (("pixels", None), ("half", lambda images: 10 * half(images))):
        found = projection.project(plain, target, steps=60, starts=4, features=features)
        errors[name] = np.abs(found.image[:4].astype(int) - target[:4]).mean()
    assert errors["half"] <= errors["pixels"]


def test_the_schedule_of_the_paper():
    # The rate: 0.05 of the steps to warm up, then 1, then half a cosine over the last quarter. Noise: (1 - t / 0.75)^2.
    rates, noise = jax.vmap(projection.schedule)(jnp.array([0.0, 0.025, 0.5, 0.75, 0.875, 1.0]))
    np.testing.assert_allclose(rates, [0.0, 0.5, 1.0, 1.0, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(noise[2:], [1 / 9, 0.0, 0.0, 0.0], atol=1e-6)


def test_the_psnr_of_a_known_difference():
    # A difference of 1 everywhere: 20 log10(255) = 48.13 dB.
    image = np.zeros((4, 4, 1), np.uint8)
    assert projection.psnr(image, image + 1) == pytest.approx(48.1308, abs=1e-4)
    assert projection.psnr(image, image) == np.inf


def test_the_spectrum_of_white_noise_is_flat():
    # Uniform in 0..255, of variance (256^2 - 1) / 12 / 255^2 = 0.08398. The mean over 400 images of the smallest bin,
    # of 8 frequencies in conjugate pairs, has a standard error of 1 / sqrt(4 * 400) = 2.5%.
    images = np.random.default_rng(0).integers(0, 256, (400, 16, 16, 1), np.uint8)
    spectrum = radial_spectrum(images).mean(axis=0)
    assert spectrum.shape == (9,)
    np.testing.assert_allclose(spectrum[1:], 0.08398, rtol=0.1)
    assert spectrum[0] < 1e-12  # the mean is removed


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_the_spectrum_of_a_sinusoid_has_one_peak(size):
    columns = np.arange(size[1])
    # 0.125 cycles per pixel: 4 cycles per shorter side of 32.
    wave = np.rint(127.5 + 100 * np.sin(2 * np.pi * 0.125 * columns)).astype(np.uint8)
    image = np.broadcast_to(wave[None, None, :, None], (1, *size, 1))
    spectrum = radial_spectrum(image)[0]
    assert np.argmax(spectrum) == 4
    assert np.delete(spectrum, 4).max() < 1e-3 * spectrum[4]
    # Parseval: the power over all frequencies is the variance times the pixels; this is all in bin 4.
    power = np.square(np.abs(np.fft.fft2(image[0, :, :, 0] / 255.0 - image.mean() / 255.0))) / (size[0] * size[1])
    assert spectrum[4] <= power.max()


def test_color_is_averaged_to_gray():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    np.testing.assert_allclose(radial_spectrum(images.repeat(3, axis=-1)), radial_spectrum(images))
