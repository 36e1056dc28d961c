"""gan.augment: exact results of operations, the identity at p = 0, independent keys, derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan import augment
from gan.augment import AUGMENTS, adaptive
from gan.augment.transform import UNIFORMS_PER_PART, normal_from_uniform
from gan.config import specs
from gan.errors import UserError

ALL = 'ada("blit,geometry,color,filter,cutout")'
SHAPES = ((28, 28, 1), (12, 12, 3), (6, 9, 2))
X = np.random.default_rng(0).uniform(-1, 1, (8, 6, 3)).astype(np.float32)

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""Without optimization: these programs run once on a few pixels, and compilation would take most of the time."""


def build(text):
    return specs.call(AUGMENTS, text, "config.augment.policy")


@functools.cache
def transform(text):
    return jit(build(text).transform)


def some(count, shape=(12, 12, 3), seed=0):
    """`count` images and keys, made by NumPy, so nothing is compiled."""
    random = np.random.default_rng(seed)
    images = random.uniform(-1, 1, (count, *shape)).astype(np.float32)
    return images, jax.random.wrap_key_data(random.integers(2**32, size=(count, 2), dtype=np.uint32))


@pytest.mark.parametrize("text", ["none", "apa", "diff_augment", ALL])
@pytest.mark.parametrize("shape", SHAPES)
def test_images_are_unchanged_at_p_0_and_changed_at_p_1(text, shape):
    images, keys = some(6, shape)
    np.testing.assert_array_equal(transform(text)(images, keys, 0.0), images)
    changed = transform(text)(images, keys, 1.0)
    assert changed.shape == images.shape and changed.dtype == jnp.float32 and np.all(np.isfinite(changed))
    assert np.any(changed != images, axis=(1, 2, 3)).all() == (text not in ("none", "apa"))


@pytest.mark.parametrize("text", ["diff_augment", ALL])
def test_an_image_does_not_depend_on_other_images(text):
    images, keys = some(6)
    whole = transform(text)(images, keys, 0.7)
    others = np.concatenate([np.zeros_like(images[:5]), images[5:]])
    np.testing.assert_allclose(transform(text)(others, keys, 0.7)[5], whole[5], atol=1e-6)
    np.testing.assert_allclose(transform(text)(images[::-1], keys[::-1], 0.7)[::-1], whole, atol=1e-6)
    # Negative control: its own key does matter.
    assert np.max(np.abs(transform(text)(images, keys[::-1], 0.7) - whole)) > 0.1


def test_jit_changes_nothing():
    inverse = augment.rotation(0.6, 0.8) @ augment.translation(0.3, -1.7)
    np.testing.assert_allclose(jit(augment.resample)(X, inverse), augment.resample(X, inverse), atol=1e-5)


def test_normal_draws():
    # The quantiles of N(0, 1) at 0.5, 0.975 and 0.025, and the ends of what a generator can draw.
    np.testing.assert_allclose(
        normal_from_uniform(jnp.array([0.5, 0.975, 0.025])), [0.0, 1.959964, -1.959964], atol=1e-5
    )
    ends = normal_from_uniform(jnp.array([0.0, 1.0 - 2.0**-23]))
    np.testing.assert_allclose(ends, [-5.29, 5.29], atol=0.1)


def test_operations_are_applied_with_probability_p():
    # 4,000 images: the standard deviation of the fraction is sqrt(0.3 0.7 / 4000) = 0.0072; 0.03 is four of them.
    images, keys = some(4000, (4, 4, 1))
    for text in ("diff_augment", 'ada("cutout")'):
        fraction = np.mean(np.any(transform(text)(images, keys, 0.3) != images, axis=(1, 2, 3)))
        assert abs(fraction - 0.3) < 0.03, text
    # Rotations: one or both with p. No operation is applied with probability 0.7 (zoom) 0.7 (stretch)
    # 0.7 (rotations) 0.7 (translation) = 0.2401, with a standard deviation of 0.0068.
    draws = np.random.default_rng(1).uniform(size=(4000, UNIFORMS_PER_PART)).astype(np.float32)
    maps = jit(jax.vmap(lambda draws: adaptive._geometry(32, 32, draws, 0.3)))(draws)
    assert abs(np.mean(np.all(maps == np.eye(3)[None], axis=(1, 2))) - 0.2401) < 0.027


def test_geometric_maps_of_pixels_to_pixels_are_exact():
    resample = jit(augment.resample)
    square = X[:6]
    turn = augment.rotation(0.0, 1.0)
    np.testing.assert_array_equal(resample(square, turn), np.rot90(square, -1))
    np.testing.assert_array_equal(resample(square, turn @ turn @ turn @ turn), square)
    np.testing.assert_array_equal(resample(X, turn @ turn), np.rot90(X, 2))
    np.testing.assert_array_equal(resample(X, augment.scaling(1.0, -1.0)), X[:, ::-1])
    # Two down and one left; the filled part is the image reflected about its edge pixels: rows 2, 1 and column 4 of 6.
    moved = resample(X, augment.translation(2.0, -1.0))
    np.testing.assert_array_equal(moved, np.pad(X, ((2, 0), (0, 1), (0, 0)), mode="reflect")[:8, 1:])
    # Mirroring and then shifting to the right is not shifting and then mirroring: a @ b applies a, then b.
    then = resample(X, augment.scaling(1.0, -1.0) @ augment.translation(0.0, 1.0))
    np.testing.assert_array_equal(then[:, 1:], X[:, ::-1][:, :-1])


def test_polynomials_are_interpolated_between_pixels():
    # Half a pixel down: row r holds what was at r - 1/2, a point of the fine grid, where the fifth degree is exact
    # (three pixels from the edges inwards). A quarter: halfway between two such points, where the second degree is
    # off by h^2 f'' / 8 = (1/2)^2 2 / 8 = 1/16 of the coefficient, and upwards.
    resample = jit(augment.resample)
    row = (np.arange(12, dtype=np.float32) - 5.5)[:, None, None] / 6
    zero = np.zeros((12, 3, 1), np.float32)
    half = resample(row**5 - row**2 + zero, augment.translation(0.5, 0.0))
    np.testing.assert_allclose(half[3:-2], ((row - 1 / 12) ** 5 - (row - 1 / 12) ** 2 + zero)[3:-2], atol=1e-6)
    quarter = resample(row**2 + zero, augment.translation(0.25, 0.0))
    expected = (row - 1 / 24) ** 2 + 1 / 16 / 36 + zero
    np.testing.assert_allclose(quarter[3:-2], expected[3:-2], atol=1e-6)


def test_tiny_images_and_large_translations_are_reflected():
    np.testing.assert_array_equal(jit(augment.resample)(X[:1, :1], augment.translation(3.7, -9.2)), X[:1, :1])
    # The reflection of 8 rows has the period 2 (8 - 1) = 14.
    np.testing.assert_allclose(jit(augment.resample)(X, augment.translation(28.0, 0.0)), X, atol=1e-6)


def test_blit_moves_pixels_whole():
    # Every pixel value of a result is a value of the image.
    image = np.arange(64.0, dtype=np.float32).reshape(1, 8, 8, 1)
    _, keys = some(200)
    blit = transform('ada("blit")')(np.broadcast_to(image, (200, 8, 8, 1)), keys, 1.0)
    assert np.isin(blit, image).all()
    # 8 mirror images and turns by 3 x 3 translations (an eighth of 8 is 1 pixel): each of the 8 occurs.
    assert len(np.unique(blit, axis=0)) > 40
    # A rectangle is only rotated by 180 degrees: a gradient along the columns remains along the columns.
    tall = np.broadcast_to(np.arange(8, dtype=np.float32)[None, :, None, None], (200, 8, 4, 1))
    assert np.all(np.ptp(transform('ada("blit")')(tall, keys, 1.0), axis=2) == 0)


def test_colors_in_closed_form():
    grey = np.mean(X, axis=-1, keepdims=True)
    np.testing.assert_allclose(augment.saturation(X, 0.0), grey + 0 * X, atol=1e-6)
    np.testing.assert_allclose(augment.contrast(X, 0.0), np.full(X.shape, np.mean(X)), atol=1e-6)
    np.testing.assert_allclose(augment.contrast(X, 3.0) - np.mean(X), 3 * (X - np.mean(X)), atol=1e-5)
    flipped = augment.luma_flip(X, 1.0)
    np.testing.assert_allclose(augment.luma(flipped), -grey, atol=1e-6)
    np.testing.assert_allclose(flipped + grey, X - grey, atol=1e-6)
    # A rotation by 120 degrees about the grey axis takes red to green, green to blue, blue to red.
    third = 2 * jnp.pi / 3
    np.testing.assert_allclose(augment.hue(X, third), np.roll(X, 1, axis=-1), atol=1e-6)
    turned = augment.hue(X, 1.0)
    np.testing.assert_allclose(augment.luma(turned), grey, atol=1e-6)
    np.testing.assert_allclose(np.sum(turned**2, axis=-1), np.sum(X**2, axis=-1), atol=1e-5)
    np.testing.assert_allclose(augment.hue(turned, -1.0), X, atol=1e-6)
    for neutral in (augment.saturation(X, 1.0), augment.contrast(X, 1.0), augment.luma_flip(X, 0.0)):
        np.testing.assert_array_equal(neutral, X)
    np.testing.assert_array_equal(augment.hue(X, 0.0), X)


def test_the_colors_of_ada_are_drawn_in_both_directions():
    draws = np.random.default_rng(2).uniform(size=(2000, UNIFORMS_PER_PART)).astype(np.float32)
    pixels = np.concatenate([np.zeros((1, 3)), np.eye(3)]).astype(np.float32)[None]  # black, red, green and blue
    changed = np.asarray(jit(jax.vmap(lambda draws: adaptive._color(pixels, draws, 1.0)))(draws))[:, 0]
    product = changed[:, 1:] - changed[:, :1]  # the linear map of a pixel, after the brightness
    grey = product.sum(axis=1).mean(axis=-1)  # (1, 1, 1) becomes this times itself: the contrast, or its negative
    first, second = np.array([1, -1, 0]) / 2**0.5, np.array([1, 1, -2]) / 6**0.5  # axes of the chroma
    turned = first @ product
    angle = np.arctan2(turned @ second, turned @ first)
    strength = np.linalg.norm(turned, axis=-1) / np.abs(grey)
    found = [changed[:, 0, 0] / grey, np.log2(np.abs(grey)), np.sign(grey), angle, np.log2(strength)]
    np.testing.assert_allclose(np.mean(found, axis=1), np.zeros(5), atol=0.15)
    np.testing.assert_allclose(np.std(found, axis=1), [0.2, 0.5, 1.0, np.pi / 3**0.5, 1.0], rtol=0.1)


def test_colors_of_a_grey_image_are_one_brightness_and_one_contrast():
    # On C = 1 all of ADA's color is a x + b, with one a and one b for the image: x = 0, 1, 2 stay in line.
    line = np.broadcast_to(np.arange(3, dtype=np.float32)[None, :, None, None], (50, 3, 1, 1))
    colored = transform('ada("color")')(line, some(50)[1], 1.0)[..., 0, 0]
    np.testing.assert_allclose(colored[:, 2] - colored[:, 1], colored[:, 1] - colored[:, 0], atol=1e-5)
    # a = +-2^N(0, 1/4): flipped with probability 1/2; the standard deviation of the fraction is 0.07.
    assert 0.2 < np.mean(colored[:, 1] < colored[:, 0]) < 0.8
    np.testing.assert_array_equal(augment.saturation(X[..., :1], 5.0), X[..., :1])
    np.testing.assert_array_equal(augment.hue(X[..., :2], 1.0), X[..., :2])


def test_shift_and_cutout_to_the_pixel():
    moved = augment.shift(X, jnp.array([2, -1]), (2, 2))
    np.testing.assert_array_equal(moved[2:, :-1], X[:-2, 1:])
    assert not np.any(moved[:2]) and not np.any(moved[:, -1])
    holed = augment.cutout(X, jnp.array([3, -1]), jnp.array([2, 4]))
    np.testing.assert_array_equal(holed == 0, np.zeros(X.shape, bool) | (np.isin(np.arange(8), [3, 4])[:, None, None]
                                  & (np.arange(6) < 3)[None, :, None]))  # fmt: skip
    np.testing.assert_array_equal(augment.cutout(X, jnp.array([3, 1]), jnp.zeros(2)), X)


def test_diff_augment_stays_within_its_ranges():
    images, (_, keys) = np.ones((300, 8, 8, 1), np.float32), some(300)
    # An eighth of 8: no more than one row and one column of 8 are empty, so 64, 56 or 49 ones; all nine occur.
    moved = transform('diff_augment("translation")')(images, keys, 1.0)
    assert set(np.unique(np.sum(moved, axis=(1, 2, 3)))) == {64, 56, 49}
    assert len(np.unique(moved, axis=0)) == 9
    # An eighth of 12 and of 4, rounded up from one half: up to 2 rows and 1 column, so 5 times 3 places.
    moved = transform('diff_augment("translation")')(np.ones((300, 12, 4, 1), np.float32), keys, 1.0)
    assert len(np.unique(moved, axis=0)) == 15
    # A box of 4 x 4 centered on one of 9 x 9 corners of pixels: 2, 3 or 4 pixels of each side are within the image.
    holed = transform('diff_augment("cutout")')(images, keys, 1.0)
    assert set(np.unique(64 - np.sum(holed, axis=(1, 2, 3)))) == {4, 6, 8, 9, 12, 16}
    assert len(np.unique(np.any(holed == 0, axis=(2, 3)), axis=0)) == 9
    # A constant grey image has neither saturation nor contrast: 1 + U(-1/2, 1/2), of mean 1 and sd sqrt(1/12) = 0.289.
    bright = transform('diff_augment("color")')(images, keys, 1.0)[:, 0, 0, 0]
    assert 0.5 <= np.min(bright) < 0.55 and 1.45 < np.max(bright) <= 1.5
    np.testing.assert_allclose([np.mean(bright), np.std(bright)], [1.0, 0.289], atol=0.07)
    # Three pixels of mean 0: contrast scales the difference of two grey ones, saturation that of channels too.
    image = np.float32([[[1, 1, 1], [-1, -1, -1], [1, 0, -1]]])
    changed = transform('diff_augment("color")')(np.stack([image] * 300), keys, 1.0)[:, 0]
    contrast = (changed[:, 0, 0] - changed[:, 1, 0]) / 2
    saturation = (changed[:, 2, 0] - changed[:, 2, 2]) / 2 / contrast
    np.testing.assert_allclose([np.mean(contrast), np.std(contrast)], [1.0, 1 / 12**0.5], atol=0.05)
    np.testing.assert_allclose([np.mean(saturation), np.std(saturation)], [1.0, 2 / 12**0.5], atol=0.1)
    assert np.min(contrast) >= 0.5 and np.max(contrast) <= 1.5 and np.min(saturation) >= 0 and np.max(saturation) <= 2
    assert np.abs(np.corrcoef([bright, contrast, saturation]) - np.eye(3)).max() < 0.2  # draws of their own


def test_parts_of_diff_augment_that_change_some_images_alone():
    images, (_, keys) = np.random.default_rng(0).random((300, 4, 6, 3), np.float32), some(300)
    # 0.4 and 0.5 of 300, give or take 4 sqrt(300 * 0.25) = 35.
    flipped = transform('diff_augment("flip")')(images, keys, 1.0)
    is_flipped = np.all(flipped == images[:, :, ::-1], axis=(1, 2, 3))
    np.testing.assert_array_equal(flipped[~is_flipped], images[~is_flipped])
    assert abs(np.sum(is_flipped) - 120) < 35
    always, half = (transform(f'diff_augment("color", color={p})')(images, keys, 1.0) for p in (1.0, 0.5))
    is_colored = np.any(half != images, axis=(1, 2, 3))
    np.testing.assert_allclose(half[is_colored], always[is_colored], atol=1e-6)
    assert abs(np.sum(is_colored) - 150) < 35


def test_frequency_bands():
    amplify = jit(augment.amplify)
    gains = np.array([2.0, 1.0, 1.0, 1.0], np.float32)
    np.testing.assert_array_equal(amplify(X, jnp.ones(4)), X)
    # Equal gains g act along each axis: g^2. A constant is in the lowest band: 2^2. What alternates along both axes is
    # in the highest band, and the gains of the other three do not change it.
    np.testing.assert_allclose(amplify(X, jnp.full(4, 3.0)), 9 * X, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(amplify(jnp.ones((8, 6, 1)), gains), np.full((8, 6, 1), 4.0), rtol=1e-5)
    checks = (-1.0) ** (np.arange(8)[:, None] + np.arange(6)[None])[..., None]
    np.testing.assert_allclose(amplify(checks, gains), checks, atol=1e-5)
    np.testing.assert_allclose(amplify(checks, gains[::-1]), 4 * checks, atol=1e-5)


@pytest.mark.parametrize("text", ["diff_augment", ALL])
def test_derivatives_through_the_transform(text):
    """R1 through an augmented quadratic critic, and its gradient in the critic's weight, in closed form."""
    images, keys = some(3, (6, 6, 3))
    act = build(text).transform
    ones = jnp.ones_like(images)

    def penalty(weight):
        def critic(x):
            return weight / 2 * jnp.sum(jnp.square(act(x, keys, 0.8)))

        return jnp.sum(jnp.square(jax.grad(critic)(images)))

    def along(t):
        return jnp.sum(jnp.square(act(images + t * ones, keys, 0.8)))

    @jit
    def derivatives():
        moved = act(images + ones, keys, 0.8) - act(images, keys, 0.8)
        return penalty(1.0), *jax.value_and_grad(penalty)(3.0), jax.grad(jax.grad(along))(0.3), jnp.sum(moved**2)

    # act(x) = A x + b: the critic's gradient is w A'(A x + b), whose square is w^2 times that at w = 1.
    once, value, gradient, curvature, length = derivatives()
    assert np.isfinite(once) and once > 0
    np.testing.assert_allclose([value, gradient], [9 * once, 6 * once], rtol=1e-4)
    # And in the image: along v, |A x + b|^2 has the second derivative 2 |A v|^2, and A v = act(x + v) - act(x).
    np.testing.assert_allclose(curvature, 2 * length, rtol=1e-3)


def test_an_added_part_does_not_change_the_draws_of_the_others():
    images, keys = some(6)
    cut = transform('ada("cutout")')(images, keys, 1.0) == 0
    assert 0 < np.mean(cut) < 1
    np.testing.assert_array_equal(transform(ALL)(images, keys, 1.0) == 0, cut)


def test_the_probability_adapts():
    # 64 of 500,000 images more, and 64 less.
    step = functools.partial(augment.adapted, target=0.6, images=64, ada_images=500_000)
    np.testing.assert_allclose(step(0.5, 0.7), 0.5 + 64 / 500_000, rtol=1e-6)
    np.testing.assert_allclose(step(0.5, 0.1), 0.5 - 64 / 500_000, rtol=1e-6)
    assert step(0.5, 0.6) == 0.5 and step(0.0, -1.0) == 0.0 and step(1.0, 1.0) == 1.0


def test_color_can_have_a_part_of_p():
    images, keys = some(16)
    halved = transform('ada("color,cutout", color=0.5)')(images, keys, 0.6)
    # Cutout is applied with probability 0.6 in both. The remaining pixels are colored as with p = 0.3.
    colored = transform('ada("color")')(images, keys, 0.3)
    cut = transform('ada("cutout")')(jnp.ones_like(images), keys, 0.6)
    np.testing.assert_allclose(halved, colored * cut, atol=1e-6)
    with pytest.raises(UserError, match=r"config\.augment\.policy: ada's color=2 .*expected: 0 <= color <= 1"):
        build("ada(color=2)")


def test_equal_arguments_build_equal_values():
    for text in ("none", "apa", "diff_augment", "ada"):
        assert build(text) == build(text) and hash(build(text)) == hash(build(text))
    assert build('ada("color, blit")') == build('ada("blit,color")') != build('ada("blit")')
    assert build("diff_augment") != build("ada") != build("none") != build("apa")
    assert build("apa").pseudo and not build("ada").pseudo


@pytest.mark.parametrize("text", ['ada("colr")', 'diff_augment("3")', 'diff_augment("")', 'ada("blit,translation")'])
def test_an_unknown_part_is_rejected(text):
    with pytest.raises(UserError, match=r"config\.augment\.policy.*expected: .*color.*cutout"):
        build(text)


@pytest.mark.parametrize("color", [0.0, 1.5, -0.5])
def test_a_color_that_is_no_probability_is_rejected(color):
    with pytest.raises(UserError, match=r"config\.augment\.policy: color=.*; expected: 0 < color <= 1"):
        build(f'diff_augment("color", color={color})')
