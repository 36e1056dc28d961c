"""Sheets: image grids with the names of their rows and columns."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_TILE = 64
GAP = 2
FONT = 13


def sheet(
    images: np.ndarray, rows: Sequence[str] = (), columns: Sequence[str] = (), *, tile: int = MIN_TILE
) -> np.ndarray:
    """A sheet uint8 [H', W', C] of images uint8 [R, K, H, W, C], black on white, with names left and on top.

    Images with a side below `tile` pixels are enlarged by a whole number. Names are cut where a column is too narrow.
    """
    num_rows, num_columns, height, width, channels = images.shape
    scale = max(1, -(-tile // min(height, width)))
    images = images.repeat(scale, axis=2).repeat(scale, axis=3)
    height, width = height * scale, width * scale
    font = ImageFont.load_default(size=FONT)
    left = max((round(font.getlength(name)) + 8 for name in rows), default=GAP)
    top = FONT + 6 if any(columns) else GAP
    result = np.full((top + num_rows * (height + GAP), left + num_columns * (width + GAP), channels), 255, np.uint8)
    for row, column in np.ndindex(num_rows, num_columns):
        y, x = top + row * (height + GAP), left + column * (width + GAP)
        result[y : y + height, x : x + width] = images[row, column]
    page = Image.fromarray(result[..., 0] if channels == 1 else result)
    draw, ink = ImageDraw.Draw(page), 0 if channels == 1 else (0, 0, 0)
    for row, name in enumerate(rows):
        draw.text((left - 5, top + row * (height + GAP) + height // 2), name, ink, font, anchor="rm")
    for column, name in enumerate(columns):
        while name and font.getlength(name) > width:
            name = name[:-1]
        draw.text((left + column * (width + GAP) + width // 2, top // 2), name, ink, font, anchor="mm")
    return np.asarray(page).reshape(result.shape)
