"""Animations of frames: GIF files, which need nothing, and MP4 files, which need imageio-ffmpeg."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from gan.errors import UserError
from gan.io.atomic import replacing

FORMATS = ("gif", "mp4")
"""The suffixes of the files."""
SIDE = 400
"""Pixels: the longer side of small frames is enlarged to at most this."""


def save(path: Path, frames: Sequence[np.ndarray], *, seconds: float = 0.05, hold: float = 0.05) -> None:
    """Writes frames uint8 [H, W, 1 or 3] of one size as an endless GIF or an MP4, by the suffix of the path.

    Small frames are enlarged. `seconds` is the time of a frame, and `hold` that of the last one. Raises `UserError`
    where MP4 is asked for and imageio-ffmpeg is not installed.
    """
    scale = max(1, SIDE // max(frames[0].shape[:2]))
    frames = [np.broadcast_to(frame, (*frame.shape[:2], 3)) for frame in frames]
    frames = [frame.repeat(scale, axis=0).repeat(scale, axis=1) for frame in frames]
    with replacing(path) as tmp:
        (_save_mp4 if path.suffix == ".mp4" else save_gif)(tmp, frames, seconds, hold)


def save_gif(path: Path | IO[bytes], frames: Sequence[np.ndarray], seconds: float, hold: float) -> None:
    """Writes frames uint8 [H, W, 3] as a GIF of 64 colors, in the format whatever the name, or to an open file."""
    images = [Image.fromarray(frame).quantize(64, dither=Image.Dither.NONE) for frame in frames]
    durations = [round(1000 * seconds)] * (len(images) - 1) + [round(1000 * hold)]
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)


def reduced(frame: np.ndarray) -> np.ndarray:
    """A frame [H, W, C] without its enlargement: one pixel for each block of k x k equal ones, with the largest k."""
    height, width = frame.shape[:2]
    for k in range(32, 1, -1):
        if height % k == 0 and width % k == 0:
            small = frame[::k, ::k]
            if np.array_equal(small.repeat(k, axis=0).repeat(k, axis=1), frame):
                return small
    return frame


def check_format(suffix: str) -> None:
    """Raises `UserError` where files of this format cannot be written."""
    if suffix == "mp4":
        _ffmpeg()


def _save_mp4(path: Path, frames: Sequence[np.ndarray], seconds: float, hold: float) -> None:
    ffmpeg = _ffmpeg()
    height, width = frames[0].shape[:2]
    pad = ((0, height % 2), (0, width % 2), (0, 0))  # H.264 in this format has even sides
    size = (width + width % 2, height + height % 2)
    options = {"codec": "libx264", "quality": 8, "macro_block_size": 2, "output_params": ["-f", "mp4"]}
    video = ffmpeg.write_frames(str(path), size, fps=1 / seconds, **options)
    with warnings.catch_warnings():  # the child only executes ffmpeg
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
        video.send(None)
    for frame in [*frames, *[frames[-1]] * (round(hold / seconds) - 1)]:
        video.send(np.ascontiguousarray(np.pad(frame, pad, mode="edge")))
    video.close()


def _ffmpeg():
    try:
        import imageio_ffmpeg  # late: an extra
    except ImportError:
        raise UserError(
            "MP4 files need imageio-ffmpeg: pip install '.[explore]'; expected without it: --format=gif"
        ) from None
    return imageio_ffmpeg
