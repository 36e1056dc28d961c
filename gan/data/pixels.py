"""Pixels: open an image file, convert it to 8-bit gray or RGB, crop, resize, and return it as an array.

This is the only place where images of unknown origin are decoded: both when a folder of images is prepared and when
the examples of a dataset are read.
"""

import io
import os
import stat
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageChops, ImageOps, features

CROPS = ("center", "none")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", *(("AVIF",) if features.check("avif") else ()))
"""The formats that are decoded, whatever the file's extension. PIL has many more, some of which start other programs
(PostScript)."""
MAX_PIXELS = 89_478_485
"""Of one image: PIL's own limit, 256 MiB of RGB. A small file can claim any size."""
MAX_BYTES = 2**28
"""Of one encoded image."""
ORIENTATION = 0x0112
"""The EXIF tag; its value for an upright image is 1."""


def open_image(source: bytes | os.PathLike) -> Image.Image:
    """The fully decoded PIL image from a path or from bytes. A corrupted file fails here, not at first use.

    Raises:
      ValueError: not a regular file, or more than MAX_PIXELS or MAX_BYTES.
      Exception: whatever PIL raises for a file that it cannot decode.
    """
    if not isinstance(source, bytes):
        source = read_file(source)
    check_bytes(len(source))
    image = Image.open(io.BytesIO(source), formats=FORMATS)
    if not 0 < image.width * image.height <= MAX_PIXELS:  # PIL only warns up to twice its limit
        raise ValueError(f"{image.width} x {image.height} pixels; expected: 1 to {MAX_PIXELS:,}")
    # PIL keeps the upper 8 of 16 bits of a color. Only the name of its decoder says so, and only before `load`. In a
    # BMP file the same name means 16 bits for all three colors.
    is_16_bit = image.format in ("PNG", "TIFF") and any(";16" in str(tile[3]) for tile in image.tile)
    image.load()
    if is_16_bit:
        image.info["bits_per_channel"] = 16
    return image


def read_file(path: str | os.PathLike) -> bytes:
    """The content of an image file. Raises `ValueError` for more than MAX_BYTES, or where it is no regular file."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
        raise ValueError("not a regular file")
    check_bytes(status.st_size)
    with open(path, "rb") as file:
        return file.read()


def check_bytes(size: int) -> None:
    """Raises `ValueError` for an encoded image of more than MAX_BYTES."""
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes; expected: up to {MAX_BYTES:,}")


def to_gray_or_rgb(image: Image.Image, whites: Mapping[str, float] | None = None) -> Image.Image:
    """The image in mode "L" or "RGB", 8 bits, as a viewer shows it: EXIF rotation, first frame, alpha over white.

    Gray of more than 8 bits is scaled, not clipped at 255: by the white of its mode in `whites`, or else by 65535, and
    floats by 1.
    """
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # PIL takes every CMYK JPEG for one of Adobe, which are stored inverted
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode[0] in "IF":
        white = (whites or {}).get(image.mode, 1 if image.mode == "F" else 65535)
        return _gray(np.asarray(image, np.float64) / white)
    gray = is_gray(image.mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if gray else "RGB")


def is_gray(mode: str) -> bool:
    """Whether a PIL mode has no color: "1", "L", "LA", "La", 16- or 32-bit integers, floats."""
    return mode == "1" or mode[0] in "LIF" and mode != "LAB"


def crop_and_resize(image: Image.Image, image_size: tuple[int, int], crop: str) -> Image.Image:
    """The image resized to image_size = (height, width) with antialiasing; unchanged if it has that size.

    crop "center" first crops to the largest centered box of the target's aspect ratio; "none" stretches. The filter is
    PIL's bicubic. Its support grows with the scale, so downsampling does not alias (Parmar et al. 2022,
    arXiv:2104.11222).
    """
    height, width = image_size
    if image.size == (width, height):
        return image
    box: tuple[float, float, float, float] = (0, 0, image.width, image.height)
    if crop == "center":
        scale = min(image.width / width, image.height / height)
        left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
        box = (left, top, image.width - left, image.height - top)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


def to_array(image: Image.Image, channels: int) -> np.ndarray:
    """uint8 [height, width, channels] of an image in mode "L" or "RGB", for channels = 1 (ITU-R 601 luma) or 3."""
    mode = "L" if channels == 1 else "RGB"
    array = np.asarray(image if image.mode == mode else image.convert(mode))
    return array[:, :, None] if channels == 1 else array


def _gray(fraction):
    return Image.fromarray(np.rint(np.clip(fraction, 0, 1) * 255).astype(np.uint8))
