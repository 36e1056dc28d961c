"""A folder of images that cannot be a dataset: missing, empty, or with broken files."""

import contextlib
import io
import logging
import os
import struct
import zlib

import pytest
from image_folders import CASES, HEIGHT, RED, WIDTH, error_of, halves, load, prepared, save
from PIL import Image

from gan import data
from gan.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """A folder of three images, without subfolders."""
    for number in range(3):
        save(tmp_path / "images" / f"{number}.png", halves("RGB", RED, (0, number, 0)))
    return tmp_path / "images"


def test_missing_folder(tmp_path):
    assert "config.data.dir" in error_of(tmp_path / "nothing") and "is not a folder" in error_of(tmp_path / "nothing")
    with pytest.raises(UserError, match="config.data.name='folder' needs config.data.dir"):
        data.load(name="folder", cache_dir=tmp_path)
    (tmp_path / "file").write_text("")
    assert "is not a folder" in error_of(tmp_path / "file")


def test_empty_folder_and_one_image(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    (root / "readme.txt").write_text("nothing here")
    message = error_of(root)
    assert "contains no images (.png, .jpg" in message and "and other files: 1 .txt; a dataset needs" in message
    (root / "readme.txt").unlink()
    save(root / "only.png", CASES["rgb.png"][0])
    assert "contains only one image, only.png; a dataset needs at least two" in error_of(root)


def text_called_png(path):
    path.write_text("not an image")


def empty_file(path):
    path.write_bytes(b"")


def cut_short(path):
    image = Image.effect_noise((64, 64), 80)
    image.save(path)
    path.write_bytes(path.read_bytes()[:-1000])


def broken_link(path):
    os.symlink(path.parent / "nowhere", path)


def flipped_bits(path):
    """The checksum of the compressed pixels no longer holds."""
    Image.effect_noise((64, 64), 80).save(path)
    content = bytearray(path.read_bytes())
    content[200:220] = bytes(20)
    path.write_bytes(content)


BREAK = [text_called_png, empty_file, cut_short, broken_link, flipped_bits]


@pytest.mark.parametrize("spoil", BREAK)
def test_a_broken_file_is_reported_and_stops_the_preparation(folder, spoil):
    spoil(folder / "bad.png")
    message = error_of(folder)
    assert f"{folder / 'bad.png'} cannot be read as an image" in message
    assert "config.data.skip_broken=True" in message
    assert not prepared(folder)


def test_broken_files_can_be_skipped_and_are_counted(folder, caplog):
    for number, spoil in enumerate(BREAK):
        spoil(folder / f"bad{number}.png")
    with caplog.at_level(logging.WARNING, logger="absl"):
        dataset = load(folder, skip_broken=True)
    assert "Skipped 5 of 8 files" in caplog.text and "bad0.png" in caplog.text
    assert dataset.arrays()[0].shape == (3, HEIGHT, WIDTH, 3)
    assert "cannot be read" in error_of(folder)  # although the data were prepared without them before


def test_the_name_of_a_skipped_file_is_escaped(folder, caplog):
    text_called_png(folder / os.fsdecode(b"new\nline\xff\x1b[2J.png"))
    with caplog.at_level(logging.WARNING):
        load(folder, skip_broken=True)
    (message,) = (record.getMessage() for record in caplog.records if "Skipped" in record.getMessage())
    assert message.isprintable() and message.endswith(": new\\nline\\udcff\\x1b[2J.png")


def test_too_few_readable_images_are_rejected(folder):
    for name in ("0.png", "1.png"):
        text_called_png(folder / name)
    assert "2 of 3 images cannot be read, 0.png among them" in error_of(folder, skip_broken=True)


def huge(path):
    """A PNG that claims 20,000 x 10,000 pixels: more than PIL's limit of 89,478,485, less than twice as many."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def test_a_decompression_bomb_is_an_error_not_a_warning(folder, recwarn):
    huge(folder / "bomb.png")
    limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels"
    assert "bomb.png cannot be read as an image (more than" in error_of(folder) and limit in error_of(folder)
    assert not [warning for warning in recwarn if issubclass(warning.category, Image.DecompressionBombWarning)]


def with_exif(path, exif, color=RED):
    """A JPEG file with these bytes as its EXIF."""
    image = io.BytesIO()
    halves("RGB", color, color).save(image, "JPEG", quality=95)
    segment = b"Exif\0\0" + exif
    path.write_bytes(b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + image.getvalue()[2:])


def test_a_corrupt_exif_names_its_file_once(folder, caplog, recwarn):
    with_exif(folder / "corrupt.jpg", b"II*\0\x08\0\0\0\x05\0" + b"\x0f\x01\x02\0")  # 5 entries, cut in the first
    dataset = load(folder)
    assert caplog.text.count("corrupt.jpg") == 1 and "1 of 4 images have a defect (Corrupt EXIF data" in caplog.text
    assert len(dataset.arrays()[0]) == 4
    assert len(load(folder)) == 4
    assert caplog.text.count("corrupt.jpg") == 1 and not recwarn.list


def test_nothing_is_printed_while_a_folder_is_prepared(folder):
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        load(folder)
    assert output.getvalue() == ""
