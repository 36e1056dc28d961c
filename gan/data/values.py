"""What is white in images of more than 8 bits: found from the values in all of them, or an error.

A file does not say whether its 16 bits hold 8, 12 or 16 bits of data. Taken for the wrong one they are black.
"""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from gan.errors import UserError

WHITES = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))
COLOR = "16-bit color"


class Range(NamedTuple):
    """The values of one image, or of all images of a kind."""

    kind: str
    """PIL's mode; COLOR for images of which PIL only keeps the upper 8 of 16 bits."""
    low: float
    high: float


def value_range(image: Image.Image) -> Range | None:
    """The range of the values of an image of more than 8 bits per channel, before conversion; None for others."""
    if image.mode[0] in "IF":
        values = np.asarray(image)
        return Range(image.mode, float(values.min()), float(values.max()))
    if image.info.get("bits_per_channel") != 16:
        return None
    colors = [band for band in image.getbands() if band != "A"]
    return Range(COLOR, 0, 257 * max(int(np.asarray(image.getchannel(band)).max()) for band in colors))


def whites(source: pathlib.Path, ranges: Mapping[str, Range | None], white: float = 0.0) -> dict[str, float]:
    """{PIL's mode: the value that is white} for the images of a folder that have more than 8 bits.

    Args:
      source: the folder.
      ranges: {relative path: range of its values, or None}.
      white: the value that is white in all of them; 0: found from their values.

    Raises:
      UserError: a value is negative or more than `white`; or, without it, the largest of a kind is more than half of
        no known white.
    """
    found = {}
    for kind in sorted({values.kind for values in ranges.values() if values}):
        of_kind = {name: values for name, values in ranges.items() if values is not None and values.kind == kind}
        # np.min and np.max, unlike min and max, return NaN if there is one.
        low = np.min([values.low for values in of_kind.values()])
        high = np.max([values.high for values in of_kind.values()]) + 0.0  # -0.0 becomes 0.0
        found[kind] = _white(kind, low, high, white)
        if found[kind] is None:
            at = max(of_kind, key=lambda name: of_kind[name].high)
            raise UserError(
                f"config.data.dir={str(source)!r}: the values of images of mode {kind} are {low:g} to {high:g} (the "
                f"largest is in {at}), {_expected(kind, white)}"
            )
    return found


def _expected(kind, white):
    """How the message about values ends that are none of the known, or do not fit the given white."""
    if white and kind == COLOR:
        return (
            f"and of 16 bits of a color the upper 8 are read, too few for config.data.white={white:g}; expected: "
            f"{WHITES[-1]}, or images converted to 8 bits"
        )
    if white:
        return (
            f"which config.data.white={white:g} does not fit; expected: the value that is white, the largest or above"
        )
    return (
        f"so what is white is unknown; expected: 0 to {', '.join(map(str, WHITES))}, the largest value above half of "
        "it, or floats from 0 to 1: set config.data.white to the value that is white, or convert them to 8 bits"
    )


def _white(kind, low, high, white):
    """The given white if it fits values from low to high, or else the known one, or None."""
    if white:
        return white if 0 <= low <= high <= white and (kind != COLOR or white == WHITES[-1]) else None
    if kind == COLOR:
        return WHITES[-1] if high > WHITES[-1] / 2 or high == 0 else None
    if kind == "F" and 0 <= low <= high <= 1:
        return 1
    if low == high == 0:
        return WHITES[-1]
    known = (*WHITES, 2**31 - 1)
    return next((white for white in known if low >= 0 and white / 2 < high <= white), None)
