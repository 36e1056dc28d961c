"""Folders of images for tests: images in every mode and format with their expected colors, and loading."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gan import data
from gan.errors import UserError

WIDTH, HEIGHT = 40, 20
RED, BLUE, WHITE, GRAY = (255, 0, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128)


def halves(mode, left, right, size=(WIDTH, HEIGHT)):
    """An image with one value on its left half and another on its right."""
    image = Image.new(mode, size, right)
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2 - 1, size[1] - 1), fill=left)
    return image


def palette(transparent=None):
    image = halves("P", 0, 1)
    image.putpalette([*RED, *BLUE])
    return image, {} if transparent is None else {"transparency": transparent}


def rotated():
    """Stored rotated; EXIF orientation 6 means that viewers rotate it by 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return halves("RGB", RED, BLUE).transpose(Image.Transpose.ROTATE_90), {"exif": exif, "quality": 95}


def animated():
    return halves("RGB", RED, BLUE), {"save_all": True, "append_images": [halves("RGB", WHITE, WHITE)]}


def sixteen_bit():
    """257 * 128 of 65,535 is 128 of 255."""
    array = np.full((HEIGHT, WIDTH), 257 * 128, np.uint16)
    array[:, WIDTH // 2 :] = 65535
    return Image.fromarray(array)


def floats():
    array = np.full((HEIGHT, WIDTH), 128 / 255, np.float32)
    array[:, WIDTH // 2 :] = 1
    return Image.fromarray(array)


# File name: the image (with options for saving it), and the expected colors of its halves.
CASES = {
    "animated.gif": (animated(), RED, BLUE),
    "animated.png": (animated(), RED, BLUE),
    "animated.webp": ((animated()[0], animated()[1] | {"lossless": True}), RED, BLUE),
    "bilevel.png": (halves("1", 0, 1), (0, 0, 0), WHITE),
    "cmyk.jpg": ((halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), {"quality": 95}), RED, BLUE),
    "floats.tiff": (floats(), GRAY, WHITE),
    "gray.bmp": (halves("L", 128, 255), GRAY, WHITE),
    "gray.jpg": (halves("L", 128, 255), GRAY, WHITE),
    "gray.png": (halves("L", 128, 255), GRAY, WHITE),
    "gray_alpha.png": (halves("LA", (0, 255), (0, 127)), (0, 0, 0), GRAY),
    "gray_key.png": ((halves("L", 128, 7), {"transparency": 7}), GRAY, WHITE),
    "palette.gif": (palette(), RED, BLUE),
    "palette.png": (palette(), RED, BLUE),
    "palette_alpha.png": (palette(transparent=0), WHITE, BLUE),
    "palette_alpha.webp": ((halves("RGBA", (*RED, 255), (*BLUE, 0)), {"lossless": True}), RED, WHITE),
    "rgb.BMP": (halves("RGB", RED, BLUE), RED, BLUE),
    "rgb.jpeg": ((halves("RGB", RED, BLUE), {"quality": 95}), RED, BLUE),
    "rgb.png": (halves("RGB", RED, BLUE), RED, BLUE),
    "rgb.tif": (halves("RGB", RED, BLUE), RED, BLUE),
    "rgb_key.png": ((halves("RGB", RED, BLUE), {"transparency": BLUE}), RED, WHITE),
    "rgba.png": (halves("RGBA", (*RED, 128), (*BLUE, 0)), (255, 127, 127), WHITE),
    "rotated.jpg": (rotated(), RED, BLUE),
    "sixteen_bit.png": (sixteen_bit(), GRAY, WHITE),
    "sixteen_bit.tif": (sixteen_bit(), GRAY, WHITE),
}


def save(path, case):
    image, options = case if isinstance(case, tuple) else (case, {})
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def load(folder, **options):
    return data.load(name="folder", data_dir=folder, cache_dir=folder.parent / "cache", **options)


def error_of(folder, **options):
    with pytest.raises(UserError) as error:
        load(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def prepared(folder):
    return sorted(path.name for path in folder.parent.glob("cache/prepared/folder-*"))
