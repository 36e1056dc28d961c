"""gan.data.batches: positions, gathered and streamed batches, and the conversion of pixels."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan import data


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.load(name="digits", cache_dir=tmp_path_factory.mktemp("cache"))


def test_positions_count_every_example_once():
    shown = [data.positions(step, batches=2, batch_size=3) for step in range(4)]
    assert shown[0].shape == (2, 3) and shown[0].dtype == np.uint32
    assert np.array_equal(np.concatenate(shown).ravel(), np.arange(24))


def test_positions_of_some_rows():
    assert data.positions(5, batches=2, batch_size=4, rows=np.array([3, 1])).tolist() == [[43, 41], [47, 45]]


def test_positions_wrap_at_32_bits():
    assert data.positions(2**26, batches=1, batch_size=64).tolist() == [list(range(64))]


@pytest.mark.parametrize("step", [0, 3, 70_000_000])
def test_positions_of_a_traced_step_and_traced_rows(step):
    rows = np.array([2, 5])
    traced = jax.jit(lambda step, rows: data.positions(step, batches=2, batch_size=64, rows=rows))(step, rows)
    expected = data.positions(np.int32(step), batches=2, batch_size=64, rows=rows)
    assert traced.dtype == expected.dtype == np.uint32
    assert np.array_equal(traced, expected)


@pytest.mark.parametrize("rows, mirror", [(None, False), (np.arange(8, 16), False), (np.arange(8, 16), True)])
def test_gathered_batches_equal_streamed_batches(digits, rows, mirror):
    images, labels = digits.arrays()
    order = {"seed": 11, "batches": 2, "batch_size": 32, "rows": rows, "mirror": mirror}
    gathered = jax.jit(lambda images, labels, step: data.gather(images, labels, step=step, **order))
    # 1,797 examples and 64 per step: steps 26 to 31 cross the end of the first epoch.
    streamed = list(data.stream(digits, first_step=26, last_step=31, **order))
    assert len(streamed) == 5
    for step, batch in zip(range(26, 31), streamed, strict=True):
        expected = gathered(images, labels, np.int32(step))
        for name in ("image", "label"):
            assert batch[name].dtype == expected[name].dtype
            assert batch[name].shape == expected[name].shape
            assert np.array_equal(batch[name], expected[name])


def test_half_of_the_images_are_mirrored_and_others_in_the_next_epoch(digits):
    """Of 1,797 images in each of two epochs; 5 standard deviations of a mean of 1,797 coins are 0.059."""
    images, labels = digits.arrays()
    steps = {"seed": 3, "batches": 1, "batch_size": 1797}
    flipped = []
    for step in (0, 1):
        plain = data.gather(images, labels, step=step, **steps)["image"][0]
        seen = data.gather(images, labels, step=step, mirror=True, **steps)["image"][0]
        mask = np.asarray(data.is_mirrored(data.positions(step, batches=1, batch_size=1797), seed=3))[0]
        expected = np.where(mask[:, None, None, None], np.flip(plain, axis=2), plain)  # width is axis 2 of [N, H, W, C]
        assert np.array_equal(seen, expected)
        of_image = np.empty(1797, bool)
        of_image[data.example_order(np.arange(step * 1797, (step + 1) * 1797), seed=3, n=1797)] = mask
        flipped.append(of_image)
    assert [abs(mask.mean() - 0.5) < 0.059 for mask in flipped] == [True, True]
    assert abs((flipped[0] == flipped[1]).mean() - 0.5) < 0.059


def test_an_epoch_of_batches_holds_every_example(digits):
    images, labels = digits.arrays()
    batch = data.gather(images, labels, seed=0, step=0, batches=1, batch_size=len(digits))
    assert not np.array_equal(batch["label"][0], labels)
    assert np.array_equal(np.sort(batch["label"][0]), np.sort(labels))
    assert int(batch["image"].astype(np.int32).sum()) == int(images.astype(np.int32).sum())


def test_a_closed_stream_leaves_no_thread_behind(digits):
    before = threading.active_count()
    batches = data.stream(digits, seed=0, first_step=0, last_step=10**6, batches=1, batch_size=8)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_failure_while_reading_ends_the_stream(digits):
    class Failing:
        def __len__(self):
            return len(digits)

        def read(self, indices):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(data.stream(Failing(), seed=0, first_step=0, last_step=3, batches=1, batch_size=8))


@pytest.mark.parametrize("image_range", [(-1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("xp", [np, jnp])
def test_range_and_back(image_range, xp):
    pixels = xp.arange(256, dtype=xp.uint8).reshape(1, 16, 16, 1)
    images = data.to_range(pixels, image_range)
    assert images.dtype == np.float32
    assert (float(images.min()), float(images.max())) == image_range
    # 51 / 255 = 0.2
    assert float(images[0, 3, 3, 0]) == pytest.approx(image_range[0] + 0.2 * (image_range[1] - image_range[0]))
    assert np.array_equal(data.to_uint8(images, image_range), pixels)


def test_to_uint8_clips_and_rounds():
    images = np.array([-3.0, -1.0, 0.0, 0.999, 1.5], np.float32)
    assert data.to_uint8(images, (-1.0, 1.0)).tolist() == [0, 0, 128, 255, 255]  # 127.5 is rounded to even
