"""Pixels of one image: from any PIL image to 8-bit grey or RGB, cropped, resized, an array.

Every dataset passes through here: a folder of images while it is prepared, all of them when they are read.
"""

import io
import os
import stat

import numpy as np
from PIL import Image, ImageOps

CROPS = ("center", "none")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF")
"""What is decoded, whatever a file is called: PIL knows formats that start programs (PostScript) and many more."""
MOST_PIXELS = 89_478_485
"""Of one image: PIL's own limit, 256 MiB of RGB. A small file can claim any number."""
MOST_BYTES = 2**28
"""Of one encoded image."""
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


def opened(source: bytes | os.PathLike) -> Image.Image:
    """PIL image from a path or from bytes, fully decoded: a broken file fails here and not later.

    Raises what PIL raises, and `ValueError` for what is no regular file or beyond MOST_PIXELS or MOST_BYTES.
    """
    if not isinstance(source, bytes):
        status = os.stat(source)
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device read without end
            raise ValueError("no regular file")
        _check_bytes(status.st_size)
        with open(source, "rb") as file:
            source = file.read()
    _check_bytes(len(source))
    image = Image.open(io.BytesIO(source), formats=FORMATS)
    if not 0 < image.width * image.height <= MOST_PIXELS:  # PIL only warns up to twice as many
        raise ValueError(f"{image.width} x {image.height} pixels; expected: 1 to {MOST_PIXELS:,}")
    image.load()
    return image


def _check_bytes(size):
    if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes; expected: up to {MOST_BYTES:,}")


def flattened(image: Image.Image) -> Image.Image:
    """The image as it is meant to be seen, in mode "L" or "RGB": upright, its first frame, alpha over white, 8 bits.

    Grey of 16 bits or more is scaled by its range (0..65535, or 0..1 for floats), not cut off at 255.
    """
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _grey(np.asarray(image, np.float64) / 65535)
    if image.mode == "F":
        return _grey(np.asarray(image, np.float64))
    grey = is_grey(image.mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")


def is_grey(mode: str) -> bool:
    """Whether a PIL mode holds no color: "1", "L", "LA", "La", 16 or 32 bit integers, floats."""
    return mode == "1" or mode[0] in "LIF" and mode != "LAB"


def fitted(image: Image.Image, image_size: tuple[int, int], crop: str) -> Image.Image:
    """The image resized to image_size = (height, width), antialiased.

    crop "center" first cuts the largest centered box of the target's aspect ratio; "none" stretches. The filter is
    PIL's bicubic, both ways: its support grows with the scale, so that shrinking does not alias (Parmar et al. 2022,
    "On Aliased Resizing and Surprising Subtleties in GAN Evaluation"). An image of the right size is left untouched.
    """
    height, width = image_size
    if image.size == (width, height):
        return image
    box = (0, 0, image.width, image.height)
    if crop == "center":
        scale = min(image.width / width, image.height / height)
        left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
        box = (left, top, image.width - left, image.height - top)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


def as_array(image: Image.Image, channels: int) -> np.ndarray:
    """uint8 [height, width, channels] of a flattened image, for 1 (ITU-R 601 luma) or 3 channels."""
    mode = "L" if channels == 1 else "RGB"
    array = np.asarray(image if image.mode == mode else image.convert(mode))
    return array[:, :, None] if channels == 1 else array


def _grey(fraction):
    return Image.fromarray(np.rint(np.clip(fraction, 0, 1) * 255).astype(np.uint8))
