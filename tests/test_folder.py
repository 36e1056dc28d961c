"""A folder of images as a dataset: image modes, classes, sizes, crops, and preparing it once."""

import collections
import logging
import os
import sys

import numpy as np
import pytest
from image_folders import BLUE, CASES, HEIGHT, RED, WIDTH, error_of, halves, load, prepared, save
from PIL import Image

from gan.data import folder as folders
from gan.data import image_files, pixels, records
from gan.data.encoded_files import FolderFiles


@pytest.fixture
def folder(tmp_path):
    """A folder of three images, without subfolders."""
    for number in range(3):
        save(tmp_path / "images" / f"{number}.png", halves("RGB", RED, (0, number, 0)))
    return tmp_path / "images"


@pytest.fixture(scope="module")
def every_mode(tmp_path_factory):
    """All cases in one folder, each in its own subfolder, so that its class identifies it."""
    root = tmp_path_factory.mktemp("modes") / "images"
    for name, (case, _, _) in CASES.items():
        save(root / name / f"image{os.path.splitext(name)[1]}", case)
    return load(root)


def test_every_mode_and_format_has_the_expected_colors(every_mode):
    assert every_mode.class_names == tuple(sorted(CASES))
    assert every_mode.image_shape == (HEIGHT, WIDTH, 3)  # all have the same size, so image_size is optional
    images, labels = every_mode.arrays()
    assert sorted(labels) == list(range(len(CASES)))
    for image, label in zip(images.astype(int), labels, strict=True):
        name = every_mode.class_names[label]
        tolerance = 6 if name.endswith(("jpg", "jpeg")) else 0
        for color, columns in ((CASES[name][1], slice(2, 16)), (CASES[name][2], slice(24, 38))):
            assert np.abs(image[:, columns] - color).max() <= tolerance, (name, color)


def test_every_mode_as_gray(every_mode):
    gray = load(every_mode._cache.parent / "images", channels=1)
    assert gray.image_shape == (HEIGHT, WIDTH, 1)
    images, labels = gray.arrays()
    image = images[list(labels).index(gray.class_names.index("rgb.png"))]
    assert image[0, 0, 0] == round(0.299 * 255) and image[0, -1, 0] == round(0.114 * 255)  # ITU-R 601
    assert "tensorflow" not in sys.modules


def test_a_folder_of_gray_images_is_gray(tmp_path):
    for name in ("bilevel.png", "gray.png", "gray_alpha.png", "sixteen_bit.png", "floats.tiff"):
        save(tmp_path / "images" / name, CASES[name][0])
    assert load(tmp_path / "images").image_shape == (HEIGHT, WIDTH, 1)
    assert load(tmp_path / "images", channels=3).arrays()[0].shape == (5, HEIGHT, WIDTH, 3)


def test_plain_files_are_stored_byte_for_byte(tmp_path):
    """They are not compressed again: a photograph keeps its size and its pixels."""
    for number in range(2):
        save(tmp_path / "images" / f"{number}.jpg", (Image.effect_noise((64, 64), 50 + number).convert("RGB"), {}))
    dataset = load(tmp_path / "images")
    images = {dataset[number]["image"].tobytes(): dataset._records[number] for number in range(2)}
    for number in range(2):
        path = tmp_path / "images" / f"{number}.jpg"
        assert path.read_bytes() in images[np.asarray(Image.open(path)).tobytes()]


def test_subfolders_are_classes_and_other_files_are_ignored(tmp_path):
    root = tmp_path / "images"
    for name in ("cats/a.png", "cats/deeper/b.png", "ants/c.png"):
        save(root / name, CASES["rgb.png"][0])
    for name in ("readme.txt", "cats/notes.csv", ".DS_Store", "cats/._a.png", ".hidden/d.png", "__MACOSX/e.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"not an image")
    (root / "empty").mkdir()
    os.symlink(root, root / "cats" / "loop")
    dataset = load(root)
    assert dataset.class_names == ("ants", "cats")
    assert sorted(dataset.arrays()[1].tolist()) == [0, 1, 1]


def test_a_flat_folder_is_one_class(folder):
    dataset = load(folder)
    assert dataset.class_names == ("image",)
    assert dataset.arrays()[1].tolist() == [0, 0, 0]


def test_images_beside_class_folders_are_rejected(folder):
    save(folder / "cats" / "a.png", CASES["rgb.png"][0])
    assert "0.png lies beside the class folders cats" in error_of(folder)


def test_large_folders_are_written_in_shards(folder, monkeypatch):
    monkeypatch.setattr(folders, "SHARD_BYTES", 100)
    images, _ = load(folder).arrays()
    assert sorted(images[:, 0, -1].tolist()) == [[0, 0, 0], [0, 1, 0], [0, 2, 0]]
    assert len(list(folder.parent.glob("cache/prepared/*/folder/*/*-of-00003"))) == 3


# The order in which a folder is stored.


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A folder with 40, 20 and 4 distinct images in the classes 1, 2 and 10."""
    root = tmp_path_factory.mktemp("classes") / "images"
    for label, (name, count) in enumerate({"1": 40, "2": 20, "10": 4}.items()):
        for number in range(count):
            save(root / name / f"{number}.png", halves("RGB", RED, (label, number, 0)))
    return root


@pytest.mark.parametrize("slices, counts", [
    ("", (40, 20, 4)), ("[:50%]", (20, 10, 2)), ("[50%:]", (20, 10, 2)), ("[25%:50%]", (10, 5, 1)),
])  # fmt: skip
def test_every_slice_has_its_share_of_every_class(classes, slices, counts):
    part = load(classes, split=f"train{slices}")
    assert part.class_names == ("1", "2", "10")
    assert part.class_counts() == counts == tuple(np.bincount(part.arrays()[1], minlength=3))
    images, labels = part.arrays()
    assert np.array_equal(images[:, 0, -1, 0], labels)  # the labels are those of the images


def test_a_slice_without_a_class_says_so_in_its_counts(classes):
    counts = load(classes, split="train[:3]").class_counts()
    assert sum(counts) == 3 and 0 in counts


def test_labels_are_read_once(classes, monkeypatch):
    counts = load(classes).class_counts()
    monkeypatch.setattr(records.Dataset, "_read_labels", lambda self: pytest.fail("the labels were read again"))
    assert load(classes).class_counts() == counts


def test_the_order_depends_on_contents_not_on_names(classes, tmp_path):
    for path in classes.rglob("*.png"):
        copy = tmp_path / "images" / path.parent.name / f"x{999 - int(path.stem)}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    first, second = load(classes), load(tmp_path / "images")
    assert np.array_equal(first.arrays()[0], second.arrays()[0])
    # Within a class it is not the order of names either.
    numbers = first.arrays()[0][first.arrays()[1] == 0][:, 0, -1, 1].tolist()
    assert numbers not in (sorted(numbers), sorted(numbers, key=str))


def example(digest, label=0):
    return folders.Example(None, "train", label, str(digest))


def test_a_tenth_is_held_out_where_there_are_no_splits(tmp_path, caplog):
    root = tmp_path / "images"
    for number in range(100):
        save(root / "ab"[number % 2] / f"{number}.png", halves("RGB", RED, (0, number, 0)))
    with caplog.at_level(logging.INFO):
        train, test = load(root), load(root, split="test")
    assert "Holding out 10 of the 100 images as split 'test'" in caplog.text
    assert (train.class_counts(), test.class_counts()) == ((45, 45), (5, 5))
    numbers = [set(part.arrays()[0][:, 0, -1, 1].tolist()) for part in (train, test)]
    assert numbers[0] | numbers[1] == set(range(100)) and not numbers[0] & numbers[1]
    assert len(load(root, split="train+test")) == 100
    (root / "a" / "0.png").rename(root / "a" / "renamed.png")
    assert set(load(root, split="test").arrays()[0][:, 0, -1, 1].tolist()) == numbers[1]


def test_small_folders_and_folders_with_splits_keep_their_images(tmp_path):
    for number in range(99):
        save(tmp_path / "small" / f"{number}.png", halves("RGB", RED, (0, number, 0)))
        save(
            tmp_path / "split" / ("val" if number < 2 else "train") / f"{number}.png",
            halves("RGB", RED, (0, number, 0)),
        )
    save(tmp_path / "split" / "train" / "99.png", halves("RGB", RED, (0, 99, 0)))
    assert len(load(tmp_path / "small")) == 99
    assert (len(load(tmp_path / "split")), len(load(tmp_path / "split", split="val"))) == (98, 2)


def test_copies_are_held_out_together():
    parts = folders.hold_out([example(min(number, 85)) for number in range(100)])
    assert {e.digest for e in parts["train"]}.isdisjoint(e.digest for e in parts["test"])
    assert sum(map(len, parts.values())) == 100
    copies = folders.hold_out([example("same") for _ in range(100)])
    assert (len(copies["train"]), len(copies["test"])) == (90, 10)


# Costs, in calls.


def test_preparing_asks_every_image_once_for_its_color(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(pixels, "is_gray", lambda mode, is_gray=pixels.is_gray: asked.append(mode) or is_gray(mode))
    for number in range(50):
        (tmp_path / str(number)).write_bytes(b"")
    examples = [folders.Example(CountingFile(str(number), asked), "train", 0, str(number)) for number in range(50)]
    builder = folders.Folder(
        files=FolderFiles(tmp_path), examples=examples, class_names=[""], whites={}, data_dir=tmp_path / "prepared"
    )
    assert builder.info.features["image"].shape == (8, 8, 1)
    for example in examples:
        builder._encoded(example)
    assert len(asked) == 2 * len(examples)  # once to find the color of the folder, once to store the image


class CountingFile:
    """An `ImageFile` that counts how often it is asked whether it is gray."""

    size = (8, 8)
    can_store_bytes = True

    def __init__(self, name, asked):
        self.name, self._asked = name, asked

    @property
    def is_gray(self):
        self._asked.append(self.name)
        return True


def test_preparing_reads_every_file_a_constant_number_of_times(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(pixels, "read_file", lambda path, read=pixels.read_file: (opened.append(path), read(path))[1])
    for number in range(30):
        save(tmp_path / "images" / f"{number}.png", halves("L", number, 255))
    load(tmp_path / "images")
    assert collections.Counter(opened) == dict.fromkeys(opened, 2) and len(set(opened)) == 30  # checked, and stored


# Size and crop.


def test_images_smaller_than_the_size_are_reported_in_one_line(folder, caplog):
    load(folder, image_size=(HEIGHT, WIDTH))
    load(folder, image_size=(HEIGHT // 2, WIDTH // 2))
    assert "enlarged" not in caplog.text
    load(folder, image_size=(2 * HEIGHT, WIDTH))
    load(folder, image_size=(2 * HEIGHT, WIDTH))
    assert caplog.text.count("enlarged") == 1
    assert f"image_size=(40, 40): most images of folder are smaller, such as {HEIGHT} x {WIDTH}" in caplog.text


def test_images_of_different_sizes_need_an_image_size(folder):
    save(folder / "wide.png", halves("RGB", RED, BLUE, size=(100, 10)))
    assert "config.data.image_size=(height, width)" in error_of(folder)
    assert load(folder, image_size=(16, 24)).arrays()[0].shape == (4, 16, 24, 3)


def test_crops(tmp_path):
    # Blue margins, 20 pixels wide, left and right of a red square of 60: the center crop is all red.
    image = Image.new("RGB", (100, 60), BLUE)
    image.paste(RED, (20, 0, 80, 60))
    for number in range(2):
        save(tmp_path / "images" / f"{number}.png", image)
    center = load(tmp_path / "images", image_size=(30, 30), crop="center")[0]["image"]
    assert (center[:, 1:-1] == RED).all()  # the filter reaches over the edge of the crop by less than a pixel
    stretched = load(tmp_path / "images", image_size=(30, 30), crop="none")[0]["image"]
    assert (stretched[:, :5] == BLUE).all() and (stretched[:, 7:23] == RED).all() and (stretched[:, 25:] == BLUE).all()


def test_downsampling_is_antialiased():
    """A checkerboard of single pixels becomes uniformly gray; subsampling would make it black or white."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    downsampled = np.asarray(pixels.crop_and_resize(Image.fromarray(board), (8, 8), "center"), int)
    assert np.abs(downsampled[1:-1, 1:-1] - 127.5).max() < 2


def test_an_image_of_the_right_size_is_untouched():
    image = Image.effect_noise((32, 32), 80)
    assert pixels.crop_and_resize(image, (32, 32), "center") is image


# Prepared once, identified by its contents.


def test_a_second_run_prepares_nothing(folder, monkeypatch):
    first = load(folder)
    monkeypatch.setattr(pixels, "read_file", lambda path: pytest.fail(f"{path} was read again"))
    assert load(folder) == first
    assert len(prepared(folder)) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["0.png", "1.png", "2.png"]


def test_the_same_images_elsewhere_are_the_same_dataset(folder, tmp_path):
    first = load(folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert load(copy) == first
    assert len(prepared(folder)) == 1


def test_a_changed_file_is_another_dataset(folder):
    seen = {load(folder).fingerprint}
    path = folder / "1.png"
    status = path.stat()

    content = bytearray(path.read_bytes())
    save(path, halves("RGB", RED, (0, 9, 0)))  # with the same size in bytes and the same mtime
    assert len(path.read_bytes()) == len(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    dataset = load(folder)
    assert [0, 9, 0] in dataset.arrays()[0][:, 0, -1].tolist()
    seen.add(dataset.fingerprint)

    path.rename(folder / "3.png")
    seen.add(load(folder).fingerprint)
    (folder / "3.png").unlink()
    seen.add(load(folder).fingerprint)
    assert len(seen) == 4


def test_known_files_are_not_read_again(folder, monkeypatch):
    monkeypatch.setattr(image_files, "SETTLED_SECONDS", -1)  # as if the files were old
    first = load(folder)
    monkeypatch.setattr(image_files, "_file_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert load(folder) == first


def test_a_corrupted_list_of_known_files_is_rebuilt(folder, monkeypatch):
    monkeypatch.setattr(image_files, "SETTLED_SECONDS", -1)
    first = load(folder)
    for path in (folder.parent / "cache" / "prepared" / "seen").iterdir():
        path.write_text("{")
    assert load(folder) == first
