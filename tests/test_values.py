"""Images of more than 8 bits per channel: what is white is found from the values of all images, or is an error."""

import io
import struct
import zlib

import numpy as np
import pytest
from image_folders import BLUE, CASES, RED, error_of, halves, load, save
from PIL import Image

from gan.data import pixels, values

SHAPE = (8, 8)


def folder_of(root, maximum, dtype, suffix):
    """Two images with the values 0 to half of the maximum, and 0 to the maximum."""
    root.mkdir()
    ramp = np.linspace(0, 1, 64).reshape(SHAPE)
    for number, share in enumerate((0.5, 1.0)):
        Image.fromarray((ramp * share * maximum).astype(dtype)).save(root / f"{number}.{suffix}")
    return root


@pytest.mark.parametrize("maximum, dtype, suffix", [
    (255, np.uint16, "png"), (1023, np.uint16, "png"), (4095, np.uint16, "png"), (4095, np.uint16, "tif"),
    (16383, np.uint16, "tif"), (65535, np.uint16, "png"), (255, np.int32, "tif"), (65535, np.int32, "tif"),
    (2**31 - 1, np.int32, "tif"), (1, np.float32, "tif"), (255, np.float32, "tif"), (4095, np.float32, "tif"),
])  # fmt: skip
def test_known_conventions_are_scaled(tmp_path, maximum, dtype, suffix):
    images, _ = load(folder_of(tmp_path / "images", maximum, dtype, suffix)).arrays()
    ramp = np.linspace(0, 1, 64).reshape(1, *SHAPE, 1)
    dark, bright = sorted(images.astype(float), key=np.max)
    # Half a level of rounding to 8 bits, and up to one more since the stored values are truncated to integers.
    np.testing.assert_allclose(bright, 255 * ramp[0], atol=1.5)
    np.testing.assert_allclose(dark, 127.5 * ramp[0], atol=1.5)


@pytest.mark.parametrize("maximum, dtype, suffix", [
    (1, np.uint16, "png"), (100, np.uint16, "png"), (1500, np.uint16, "png"), (5000, np.uint16, "tif"),
    (20000, np.uint16, "png"), (100000, np.int32, "tif"), (-7, np.int32, "tif"), (-1, np.float32, "tif"),
    (100, np.float32, "tif"), (1e9, np.float32, "tif"), (np.nan, np.float32, "tif"),
])  # fmt: skip
def test_unknown_conventions_stop_with_the_largest_value(tmp_path, maximum, dtype, suffix):
    message = error_of(folder_of(tmp_path / "images", maximum, dtype, suffix))
    assert (
        "config.data.dir" in message
        and "what is white is unknown" in message
        and "set config.data.white" in message
        and f".{suffix}" in message
    )
    largest = "nan" if np.isnan(maximum) else f"{max(maximum, 0):g}"
    assert f" to {largest} (the largest is in " in message


@pytest.mark.parametrize("maximum, white, dtype, suffix", [
    (1500, 4095, np.uint16, "png"), (1500, 1500, np.uint16, "png"), (100000, 200000, np.int32, "tif"),
    (0.25, 0.5, np.float32, "tif"), (100, 100, np.float32, "tif"),
])  # fmt: skip
def test_a_given_white_is_used(tmp_path, maximum, white, dtype, suffix):
    root = folder_of(tmp_path / "images", maximum, dtype, suffix)
    bright = max(load(root, white=white).arrays()[0].astype(float), key=np.max)
    ramp = np.linspace(0, 1, 64).reshape(*SHAPE, 1)
    np.testing.assert_allclose(bright, 255 * maximum / white * ramp, atol=1.5)  # the tolerance is that of above
    other = max(load(root, white=2 * white).arrays()[0].astype(float), key=np.max)  # prepared again
    np.testing.assert_allclose(other, 127.5 * maximum / white * ramp, atol=1.5)


@pytest.mark.parametrize("maximum, white, dtype, suffix", [
    (5000, 4095, np.uint16, "tif"), (-1, 255, np.float32, "tif"), (np.nan, 1, np.float32, "tif"),
])  # fmt: skip
def test_a_white_that_does_not_fit_the_values_is_an_error(tmp_path, maximum, white, dtype, suffix):
    message = error_of(folder_of(tmp_path / "images", maximum, dtype, suffix), white=white)
    assert f"which config.data.white={white} does not fit" in message


def test_black_images_are_no_error(tmp_path):
    images, _ = load(folder_of(tmp_path / "images", 0, np.uint16, "png")).arrays()
    assert images.max() == 0


def colors_of_16_bit(value):
    """A PNG with 16 bits per color, all `value`; PIL cannot write it."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = (b"\0" + struct.pack(">H", value) * 3 * 8) * 8
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("value, is_known", [(4095, False), (40000, True), (65535, True)])
def test_colors_of_16_bits(tmp_path, value, is_known):
    """PIL keeps the upper 8 bits: 12 bits of data would be nearly black."""
    root = tmp_path / "images"
    root.mkdir()
    for number in range(2):
        (root / f"{number}.png").write_bytes(colors_of_16_bit(value))
    assert values.value_range(pixels.open_image(root / "0.png")).kind == values.COLOR
    if is_known:
        assert np.all(load(root).arrays()[0] == value >> 8)
    else:
        assert "mode 16-bit color are 0 to 3855" in error_of(root)
        assert "the upper 8 are read, too few for config.data.white=4095" in error_of(root, white=4095)
        assert np.all(load(root, white=65535).arrays()[0] == value >> 8)


def test_16_bits_for_three_colors_are_not_16_bits_per_color():
    """A BMP file of 2 x 1 pixels with 5, 6 and 5 bits: red, and dark blue."""
    masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0) + masks
    offset = 14 + len(header)
    bitmap = b"BM" + struct.pack("<IHHI", offset + 4, 0, 0, offset) + header + struct.pack("<2H", 0xF800, 0x0004)
    image = pixels.open_image(bitmap)
    assert values.value_range(image) is None
    assert np.asarray(image).tolist() == [[[255, 0, 0], [0, 0, 32]]]


def test_images_of_8_bits_have_no_range():
    for name in ("rgb.png", "gray.png", "palette.png", "rgba.png", "rgb.tif"):
        case = CASES[name][0]
        image, options = case if isinstance(case, tuple) else (case, {})
        content = io.BytesIO()
        image.save(content, "TIFF" if name.endswith("tif") else "PNG", **options)
        assert values.value_range(pixels.open_image(content.getvalue())) is None


def test_a_cmyk_jpeg_without_the_marker_of_adobe_is_not_inverted(tmp_path):
    """In both files 0 is no ink for a viewer: Adobe's are stored inverted, others are not."""
    content = io.BytesIO()
    red, blue = (0, 255, 255, 0), (255, 255, 0, 0)
    halves("CMYK", red, blue).save(content, "JPEG", quality=95)
    adobe = content.getvalue()
    content = io.BytesIO()
    halves("CMYK", tuple(255 - v for v in red), tuple(255 - v for v in blue)).save(content, "JPEG", quality=95)
    start = content.getvalue().index(b"\xff\xee")
    plain = content.getvalue()[:start] + content.getvalue()[start + 16 :]
    save(tmp_path / "images" / "a.png", halves("RGB", RED, BLUE))
    for name, encoded in (("adobe.jpg", adobe), ("plain.jpg", plain)):
        (tmp_path / "images" / name).write_bytes(encoded)
    images, _ = load(tmp_path / "images").arrays()
    for image in images.astype(int):
        assert np.abs(image[:, 2:16] - RED).max() <= 6 and np.abs(image[:, 24:38] - BLUE).max() <= 6
