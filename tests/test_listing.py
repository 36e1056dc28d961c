"""Which files below a folder are images, and to which split and class they belong."""

import collections
import os

import numpy as np
import pytest
from image_folders import BLUE, CASES, RED, error_of, halves, load, save

from gan.data import listing, pixels


def make(root, *names):
    """Distinct images with these names; returns the folder."""
    for number, name in enumerate(names):
        save(root / name, halves("RGB", (number, 0, 0), (0, number, 0)))
    return root


def found(*names):
    """(split, class) of images with these names."""
    return [tuple(place) for place in listing.places(listing.pathlib.Path("source"), names)]


def test_folders_named_as_splits_are_splits(tmp_path):
    root = make(tmp_path / "images", "train/cat/0.png", "train/cat/1.png", "train/dog/2.png", "test/dog/3.png")
    train, test = load(root), load(root, split="test")
    assert train.class_names == test.class_names == ("cat", "dog")
    assert (train.class_counts(), test.class_counts()) == ((2, 1), (0, 1))
    assert sorted(train.arrays()[0][:, 0, 0, 0]) == [0, 1, 2]
    assert test.arrays()[0][:, 0, 0, 0].tolist() == [3]
    assert "'val' is not a split of folder" in error_of(root, split="val")


@pytest.mark.parametrize("names, expected", [
    (("Train/a/1.png", "VAL/b/2.png"), [("train", "a"), ("val", "b")]),
    (("validation/1.png", "test/2.png"), [("validation", ""), ("test", "")]),
    (("train/1.png", "train/2.png"), [("train", ""), ("train", "")]),
    (("data/train/a/1.png", "data/test/b/2.png"), [("train", "a"), ("test", "b")]),
    (("train/images/a/1.png", "test/images/b/2.png"), [("train", "a"), ("test", "b")]),
    (("outer/inner/a/1.png", "outer/inner/b/2.png"), [("train", "a"), ("train", "b")]),
    (("images/1.png", "images/2.png"), [("train", "images"), ("train", "images")]),
    (("cats/1.png", "cats/deep/2.png"), [("train", "cats"), ("train", "cats")]),
    (("train/1.png", "car/2.png", "bus/3.png"), [("train", "train"), ("train", "car"), ("train", "bus")]),
    (("1.png", "2.png"), [("train", ""), ("train", "")]),
])  # fmt: skip
def test_splits_and_classes(names, expected):
    assert found(*names) == expected


def test_what_cannot_be_assigned_is_an_error(tmp_path):
    root = make(tmp_path / "a", "train/x/1.png", "test/x/2.png", "extra/x/3.png")
    assert "contains the splits test, train beside extra" in error_of(root)
    root = make(tmp_path / "b", "train/x/1.png", "train/x/2.png", "test/3.png")
    assert "test/3.png lies beside the class folders x" in error_of(root)


def test_numbers_as_class_names_are_sorted_by_value(tmp_path):
    names = ("10", "9", "2", "1", "a10b", "a9b", "01")
    root = make(tmp_path / "images", *(f"{name}/x.png" for name in names))
    dataset = load(root)
    assert dataset.class_names == ("01", "1", "2", "9", "10", "a9b", "a10b")
    for image, label in zip(*dataset.arrays(), strict=True):
        assert names[image[0, 0, 0]] == dataset.class_names[label]


def test_two_links_to_one_folder_are_two_classes(tmp_path):
    make(tmp_path / "shared", "1.png", "2.png")
    root = tmp_path / "images"
    for name in ("a", "b", "train/c"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(tmp_path / "shared", root / name)
    assert listing.list_images(root) == [f"{name}/{number}.png" for name in ("a", "b", "train/c") for number in (1, 2)]


def test_links_that_lead_back_end(tmp_path):
    """Ten folders with links to each other: without a bound they are walked in 10! orders."""
    names = [f"f{number}" for number in range(10)]
    root = make(tmp_path / "images", *(f"a/b/c/{name}/x.png" for name in names))
    for name in names:
        for other in names:
            os.symlink(root / "a/b/c" / other, root / "a/b/c" / name / f"to_{other}")
    walked = []
    real = os.path.realpath
    listing.os.path.realpath = lambda path: walked.append(path) or real(path)
    try:
        assert len(listing.list_images(root)) == 10
    finally:
        listing.os.path.realpath = real
    assert len(walked) < 200


def test_folders_of_thumbnails_are_skipped(tmp_path):
    root = make(tmp_path / "images", "a/1.png", "b/2.png", "a/@eaDir/1.png/thumb.png", "@eaDir/x.png", "#recycle/y.png")
    assert listing.list_images(root) == ["a/1.png", "b/2.png"]


def test_other_files_are_counted_in_one_line(tmp_path, caplog):
    root = make(tmp_path / "images", "1.png", "2.png")
    for name in ("3.heic", "4.HEIC", "labels.csv", "README"):
        (root / name).write_text("")
    load(root)
    load(root)
    assert caplog.text.count("not read as images") == 1
    assert "that are not read as images: 2 .heic, 1 .csv, 1 no extension" in caplog.text
    assert listing.counts_text(collections.Counter({f".{n}": 9 - n for n in range(7)})).endswith("5 .4, ...")


@pytest.mark.parametrize("extension, options", [
    ("jfif", {"format": "JPEG", "quality": 95}), ("ppm", {}), ("pgm", {"format": "PPM"}),
    ("avif", {"quality": 100, "subsampling": "4:4:4"}),
])  # fmt: skip
def test_further_formats_are_read(tmp_path, extension, options):
    if extension == "avif" and "AVIF" not in pixels.FORMATS:
        pytest.skip("this PIL has no AVIF")
    root = tmp_path / "images"
    root.mkdir()
    for number, (left, right) in enumerate(((RED, BLUE), (BLUE, RED))):
        halves("RGB", left, right).save(root / f"{number}.{extension}", **options)
    images, _ = load(root).arrays()
    assert sorted(np.rint(images[:, 0, 2].astype(int) / 64).astype(int).tolist()) == [[0, 0, 4], [4, 0, 0]]


def test_a_gif_in_a_folder_of_classes_keeps_its_class(tmp_path):
    root = make(tmp_path / "images", "a/1.png", "b/2.png")
    save(root / "b" / "3.gif", CASES["palette.gif"][0])
    assert load(root, image_size=(8, 8)).class_counts() == (1, 2)
