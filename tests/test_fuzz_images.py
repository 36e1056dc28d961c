"""Fuzz tests with Hypothesis: any image, folder or dataset is read or rejected in one line.

There is never a traceback, a hang, or a result from a part of a file. The examples are the same in every run; the slow
variants of the tests use many more.
"""

import contextlib
import io
import itertools
import os
import shutil
import struct
import warnings
import zlib

import numpy as np
import pytest
from fuzzing import DAMAGE, VALUES, damaged, fuzzed, over, rejected_or, within
from hypothesis import strategies as st
from PIL import Image

from gan import data
from gan.data import listing, pixels
from gan.errors import UserError


def encoded(format, mode="RGB", size=(9, 7), **options):
    content = io.BytesIO()
    rows = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 4), np.uint8)
    image = Image.fromarray(rows, "RGBA")
    if mode == "I;16":
        image = Image.fromarray(rows[..., 0].astype(np.uint16) * 256)
    elif mode != "RGBA":
        image = image.convert("RGB").convert(mode)
    image.save(content, format, **options)
    return content.getvalue()


def animation(format):
    frames = [Image.new("L", (9, 7), 80 * number) for number in range(3)]
    content = io.BytesIO()
    frames[0].save(content, format, save_all=True, append_images=frames[1:])
    return content.getvalue()


def png_declaring(width, height):
    """A PNG whose header declares width x height pixels, with almost no data."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rest


EXIF = Image.Exif()
EXIF[0x0112] = 6
IMAGES = {
    "png": encoded("PNG"), "gray.png": encoded("PNG", "L"), "bits.png": encoded("PNG", "1"),
    "alpha.png": encoded("PNG", "RGBA"), "palette.png": encoded("PNG", "P", transparency=3),
    "sixteen.png": encoded("PNG", "I;16"),
    "jpeg": encoded("JPEG", exif=EXIF), "progressive.jpeg": encoded("JPEG", progressive=True, size=(64, 64)),
    "cmyk.jpeg": encoded("JPEG", "CMYK"), "gif": animation("GIF"), "apng": animation("PNG"), "webp": encoded("WEBP"),
    "animated.webp": animation("WEBP"), "bmp": encoded("BMP"), "tiff": encoded("TIFF", "F"),
    "deflated.tiff": encoded("TIFF", compression="tiff_adobe_deflate"), "bomb.png": png_declaring(60_000, 60_000),
    "large.png": png_declaring(9_999, 9_999),
}  # fmt: skip
NOT_IMAGES = [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    b"BM",
    b"GIF89a",
    b"II*\0",
    b"RIFF\0\0\0\0WEBP",
    b"",
]


@fuzzed(400, 2000)
def test_image_files(examples):
    """A decoded image has a size within bounds; everything else raises an exception."""
    before = dict(IMAGES)

    @over(examples, name=st.sampled_from(sorted(before)), damages=st.lists(DAMAGE, max_size=3))
    def check(name, damages):
        content = before[name]
        for damage in damages:
            content = damaged(content, damage)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = pixels.to_gray_or_rgb(pixels.open_image(content))
        except Exception:  # `image_files` catches every exception of one file
            return
        assert image.mode in ("L", "RGB") and 0 < image.width * image.height <= pixels.MAX_PIXELS
        array = pixels.to_array(pixels.crop_and_resize(image, (8, 8), "center"), 3)
        assert array.shape == (8, 8, 3) and array.dtype == np.uint8


@pytest.mark.parametrize("content", NOT_IMAGES)
def test_only_the_formats_of_images_are_decoded(content):
    """PIL also knows PostScript, which it passes to another program."""
    with pytest.raises(Image.UnidentifiedImageError):
        pixels.open_image(content)
    assert set(pixels.FORMATS).isdisjoint({"EPS", "WMF", "FITS", "PDF", "HDF5", "BUFR", "GRIB"})


ODD_NAMES = ["a.png", "b.JPG", "c d.webp", "é.png", "\u202e.gif", b"\xff\xfe.png", "new\nline.png",
             "$(touch x).png", "-rf.png", "%s.png", "{}.png", ".hidden.png", "no extension",
             "x" * 240 + ".png", "a.png/b.png", "deep/er/c.png",
             b"class\xff/d.png", "class\n/e.png", " /f.png", "..png", "~.png"]  # fmt: skip
THINGS = [*IMAGES, "text", "empty", "folder", "pipe", "loop", "away", "zeros", "unreadable"]


@fuzzed(30, 300)
def test_folders_of_images(examples, tmp_path, monkeypatch):
    number = itertools.count()

    def make(path, what):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.lexists(path):
            return
        if what == "folder":
            os.mkdir(path)
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "loop":
            os.symlink(path, path)
        elif what == "away":
            os.symlink(b"..", path)
        elif what == "zeros":
            os.symlink(b"/dev/zero", path)
        else:
            with open(path, "wb") as file:
                file.write(
                    {"text": b"hello", "empty": b"", "unreadable": b"\0" * 99}.get(what) or IMAGES.get(what, b"")
                )

    @over(
        examples,
        files=st.dictionaries(st.sampled_from(ODD_NAMES), st.sampled_from(THINGS) | st.just("png"), max_size=5),
        good=st.integers(0, 2),
        skip_broken=st.booleans(),
    )
    def check(files, good, skip_broken):
        root = tmp_path / str(next(number))
        root.mkdir()
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            for name, what in files.items():
                make(os.path.join(os.fsencode(root), os.fsencode(name)), what)
            for name in range(good):
                make(os.fsencode(root / f"good{name}.png"), "png")
        loaded = rejected_or(
            data.load,
            name="folder",
            data_dir=root,
            image_size=(8, 8),
            skip_broken=skip_broken,
            cache_dir=tmp_path / "cache",
        )
        if loaded is not None:
            images, labels = loaded.arrays()
            assert images.shape[1:3] == (8, 8) and len(images) == len(labels) == len(loaded) >= 2
            assert labels.min() >= 0 and labels.max() < len(loaded.class_names)
            if not skip_broken:  # no file was skipped
                assert len(images) == len(listing.list_images(root))
        shutil.rmtree(root)


def test_pipes_and_devices_are_not_read(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(IMAGES["png"])
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        make(tmp_path / "odd.png")
        with within(20), pytest.raises(UserError, match="odd.png cannot be read as an image .not a regular file"):
            data.load(name="folder", data_dir=tmp_path, cache_dir=tmp_path / "cache")
        (tmp_path / "odd.png").unlink()


@pytest.mark.parametrize("limit", ["MAX_PIXELS", "MAX_BYTES"])
def test_decoding_is_bounded(tmp_path, monkeypatch, limit):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(encoded("PNG", size=(30, 20)))
    monkeypatch.setattr(pixels, limit, 599)  # 600 pixels; more than 2,000 bytes of noise
    word = "30 x 20 pixels; expected: 1 to 599" if limit == "MAX_PIXELS" else "bytes; expected: up to 599"
    with pytest.raises(UserError, match=f"0.png cannot be read as an image .*{word}"):
        data.load(name="folder", data_dir=tmp_path, cache_dir=tmp_path / "cache")


@fuzzed(60, 3000)
def test_datasets_by_name(examples, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(data.prepare, "_unreachable", lambda builder: "there is no network here")

    @over(
        examples,
        name=st.sampled_from(
            ["digits", "ring8", "digits", "mnist/x", "a:b:c", "huggingface:x", "../x", "/", "imagenet2012"]
        )
        | VALUES,
        split=VALUES
        | st.sampled_from(["train", "train[:9]", "train+train", "all", "train[50%:]", "train[::2]", "test"]),
        size=st.sampled_from([None, (8, 8), (0, 8), (8,), (8192, 8193)]),
        channels=st.integers(-1, 4),
        folder=st.sampled_from(["", str(tmp_path), "/proc/none", "~nobody_of_this_name", "x" * 5000, "a\0b"]),
    )
    def check(name, split, size, channels, folder):
        if name == "stacked_mnist":
            return
        options = {"data_dir": folder, "image_size": size, "channels": channels, "cache_dir": tmp_path / "cache"}
        rejected_or(data.load, name=name, split=split, **options)
