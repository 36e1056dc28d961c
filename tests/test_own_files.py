"""A user's own data without a builder: NPZ files, ZIP files of images, and StyleGAN's labels in dataset.json."""

import json
import zipfile

import numpy as np
import pytest
import runs
from image_folders import BLUE, RED, error_of, halves, load, prepared, save

from gan import checks, data
from gan.data import npz, pixels
from gan.errors import UserError
from gan.inference import command


def load_npz(path, **options):
    return data.load(name="npz", data_dir=path, cache_dir=path.parent / "cache", **options)


def npz_error(path):
    with pytest.raises(UserError) as error:
        load_npz(path)
    assert "\n" not in str(error.value) and "config.data.dir" in str(error.value)
    return str(error.value)


def examples_of(*parts):
    """The (image, label) pairs of datasets, in an order of their own."""
    return sorted((image.tobytes(), int(label)) for part in parts for image, label in zip(*part.arrays(), strict=True))


RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (120, 6, 9, 3)).astype(np.uint8)
LABELS = np.arange(120) % 3


@pytest.mark.parametrize("images", [IMAGES, IMAGES[..., :1], IMAGES[..., 0]], ids=["color", "gray", "no channels"])
def test_an_npz_file_is_its_images_and_labels(tmp_path, images):
    np.savez(tmp_path / "a.npz", images=images, labels=LABELS, class_names=np.array(["ants", "bees", "cats"]))
    train, test = load_npz(tmp_path / "a.npz"), load_npz(tmp_path / "a.npz", split="test")
    whole = images if images.ndim == 4 else images[..., None]
    assert train.class_names == ("ants", "bees", "cats") and train.image_shape == whole.shape[1:]
    # A tenth of the 40 images of each class is held out, and no slice is without a class.
    assert (train.class_counts(), test.class_counts()) == ((36,) * 3, (4,) * 3)
    assert load_npz(tmp_path / "a.npz", split="train[:50%]").class_counts() == (18,) * 3
    assert examples_of(train, test) == sorted((a.tobytes(), int(b)) for a, b in zip(whole, LABELS, strict=True))
    assert load_npz(tmp_path / "a.npz", image_size=(3, 3), channels=1)[0]["image"].shape == (3, 3, 1)


def test_an_npz_file_is_prepared_once_and_known_by_its_content(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", images=IMAGES[:20])
    first = load_npz(tmp_path / "a.npz")
    assert first.class_names == ("image",) and len(first) == 20
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes())
    np.savez(tmp_path / "c.npz", images=IMAGES[1:21])
    assert load_npz(tmp_path / "c.npz").fingerprint != first.fingerprint
    monkeypatch.setattr(np, "load", lambda *arguments, **options: pytest.fail("read again"))
    assert load_npz(tmp_path / "b.npz") == load_npz(tmp_path / "a.npz") == first


def write_npz(path, **arrays):
    np.savez(path, **({"images": IMAGES} | arrays))


@pytest.mark.parametrize("write, line", [
    (lambda path: None, "is not an NPZ file"),
    (lambda path: path.mkdir(), "is not an NPZ file; config.data.name=folder is for a folder"),
    (lambda path: path.write_bytes(b"PK"), "cannot be read as an NPZ file"),
    (lambda path: np.save(path.open("wb"), IMAGES), "is an array, not an NPZ file"),
    (lambda path: np.savez(path, x=IMAGES), "has no array 'images'; it has: x"),
    (lambda path: write_npz(path, images=IMAGES / 255), "'images' is float64 from 0 to 1; expected: uint8"),
    (lambda path: write_npz(path, images=IMAGES[..., :2]), "'images' has the shape [120, 6, 9, 2]; expected: uint8 [N"),
    (lambda path: write_npz(path, images=IMAGES[:1]), "'images' has the shape [1, 6, 9, 3]; expected"),
    (lambda path: write_npz(path, images=np.array([None, 1])), "cannot be read as an NPZ file (Object arrays"),
    (lambda path: write_npz(path, labels=LABELS[1:]), "'labels' is int64 [119]; expected: integers [120]"),
    (lambda path: write_npz(path, labels=LABELS / 2), "'labels' is float64 [120]; expected: integers [120]"),
    (lambda path: write_npz(path, labels=LABELS - 1), "'labels' are -1 to 1; expected: 0 to 1"),
    (lambda path: write_npz(path, labels=LABELS, class_names=["a", "b"]), "'labels' are 0 to 2; expected: 0 to 1"),
    (lambda path: write_npz(path, labels=LABELS, class_names=["a", "b", "a"]), "'class_names' must differ"),
])  # fmt: skip
def test_a_bad_npz_file_is_one_line(tmp_path, write, line):
    write(tmp_path / "a.npz")
    assert line in npz_error(tmp_path / "a.npz")
    assert not prepared(tmp_path / "a.npz")


def test_a_cut_npz_file_is_one_line(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES)
    content = (tmp_path / "a.npz").read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "a.npz").write_bytes(content[: int(share * len(content))])
        assert "cannot be read as an NPZ file" in npz_error(tmp_path / "a.npz")


def test_an_npz_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAX_BYTES", 2**14)  # 120 * 6 * 9 * 3 = 19,440 bytes of images
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros_like(IMAGES))
    assert "holds 0.0 GiB; expected: up to 0 GiB" in npz_error(tmp_path / "a.npz")


def test_samples_of_a_run_are_a_dataset(tmp_path):
    conditional = {"generator__conditioning": "embedding", "discriminator__conditioning": "projection"}
    runs.save(tmp_path / "run", runs.config(**conditional), image_shape=(8, 8, 1), class_names="0123456789")
    command.sample(tmp_path / "run", count=150, seed=0, out=tmp_path / "samples.npz")
    config = runs.config(data__name="npz", data__dir=str(tmp_path / "samples.npz"), **conditional)
    checks.check_values(config)
    train, test = data.open_dataset(config.data), data.open_dataset(config.data, "test")
    assert train.class_names == test.class_names == tuple("0123456789")
    with np.load(tmp_path / "samples.npz") as samples:
        expected = sorted((a.tobytes(), int(b)) for a, b in zip(samples["images"], samples["labels"], strict=True))
    assert examples_of(train, test) == expected


# ZIP files.


def fill(root, labels=None, count=120):
    """Images of the classes a and b below a folder."""
    for number in range(count):
        save(root / "ab"[number % 2] / f"{number}.png", halves("RGB", RED, (number % 2, number, 0)))
    if labels is not None:
        (root / "dataset.json").write_text(json.dumps({"labels": labels}))
    return root


def zipped(root, compression=zipfile.ZIP_DEFLATED):
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root))
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_follows_the_rules_of_a_folder(tmp_path, compression, caplog):
    root = fill(tmp_path / "images")
    for name in ("readme.txt", ".hidden.png", "__MACOSX/a/._0.png", "@eaDir/1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not an image")
    archive = zipped(root, compression)
    as_folder, as_zip = load(root), load(archive)
    assert as_zip.class_names == as_folder.class_names == ("a", "b")
    assert as_zip.class_counts() == as_folder.class_counts() == (54, 54)
    both = [examples_of(load(path), load(path, split="test")) for path in (root, archive)]
    assert both[0] == both[1] and len(both[0]) == 120
    assert "that are not read as images: 1 .txt" in caplog.text


def test_splits_and_wrappers_in_a_zip_file(tmp_path):
    root = tmp_path / "images"
    for name, count in (("train", 6), ("test", 2)):
        fill(root / "wrapper" / name, count=count)
    archive = zipped(root)
    assert load(archive).class_counts() == (3, 3) and load(archive, split="test").class_counts() == (1, 1)


def test_a_zip_file_is_prepared_once_and_known_by_its_content(tmp_path, monkeypatch):
    archive = zipped(fill(tmp_path / "images", count=10))
    first = load(archive)
    save(tmp_path / "images" / "a" / "0.png", halves("RGB", BLUE, RED))
    changed = zipped(tmp_path / "images")
    assert load(changed).fingerprint != first.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "read", lambda *arguments: pytest.fail("read again"))
        load(changed)


def test_broken_zip_files_are_one_line(tmp_path):
    archive = zipped(fill(tmp_path / "images", count=10), zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        offset = file.getinfo("a/0.png").header_offset + 60
    content[offset] ^= 1
    archive.write_bytes(content)
    assert "images.zip/a/0.png cannot be read as an image (Bad CRC-32" in error_of(archive)
    assert len(load(archive, skip_broken=True)) == 9
    archive.write_bytes(content[: len(content) // 2])
    assert "is not a folder or a ZIP file (File is not a zip file)" in error_of(archive)
    zipped(tmp_path / "cache")  # nothing but what the runs above have prepared
    assert "contains no images" in error_of(tmp_path / "cache.zip")
    np.savez(tmp_path / "a.npz", images=IMAGES)
    assert "is an NPZ file; expected for it: config.data.name=npz" in error_of(tmp_path / "a.npz")


def test_a_member_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    archive = zipped(fill(tmp_path / "images", count=10))
    monkeypatch.setattr(pixels, "MAX_BYTES", 20)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *arguments: pytest.fail("read"))
    assert "bytes; expected: up to 20" in error_of(archive)


# dataset.json.


def names(count=120):
    return [f"{'ab'[number % 2]}/{number}.png" for number in range(count)]


@pytest.mark.parametrize("pack", [lambda root: root, zipped], ids=["folder", "ZIP"])
def test_labels_of_dataset_json_are_the_classes(tmp_path, pack):
    labels = [[name, number % 4] for number, name in enumerate(names())]
    path = pack(fill(tmp_path / "images", [*labels, ["other/1.png", 7]]))
    dataset = load(path)
    assert dataset.class_names == ("0", "1", "2", "3") and dataset.class_counts() == (27,) * 4
    images, found = dataset.arrays()
    assert np.array_equal(images[:, 0, -1, 1] % 4, found)  # the green of the right half is the number of the image
    assert load(path, split="test").class_counts() == (3,) * 4


def test_a_changed_label_is_another_dataset_and_a_class_may_have_no_image(tmp_path):
    root = fill(tmp_path / "images", [[name, 0] for name in names(10)], count=10)
    first = load(root)
    (root / "dataset.json").write_text(json.dumps({"labels": [[name, 2] for name in names(10)]}))
    second = load(root)
    assert first.class_names == ("0",) and second.class_names == ("0", "1", "2")
    assert second.class_counts() == (0, 0, 10) and first.fingerprint != second.fingerprint


def test_dataset_json_without_labels(tmp_path):
    root = fill(tmp_path / "images", count=10)
    (root / "dataset.json").write_text('{"license": "MIT"}')  # of another kind: the folders are the classes
    assert load(root).class_names == ("a", "b")
    (root / "dataset.json").write_text('{"labels": null}')  # StyleGAN's: there are none, and folders are no classes
    assert load(root).class_names == ("image",)


@pytest.mark.parametrize("content, line", [
    ("{", "dataset.json is not JSON"),
    ('{"labels": 3}', '"labels" is no list of pairs'),
    ('{"labels": [["a/0.png", 0]]}', "dataset.json has no label for a/2.png"),
    ('{"labels": [["a/0.png", 0], ["a/0.png", 1]]}', "dataset.json has two labels for a/0.png"),
    (json.dumps({"labels": [[name, 0.5] for name in names(10)]}), "the label of a/0.png is 0.5; expected: a whole"),
    (json.dumps({"labels": [[name, -1] for name in names(10)]}), "the label of a/0.png is -1; expected: a whole"),
    (json.dumps({"labels": [[name, 1e9] for name in names(10)]}), "the label of a/0.png is 1000000000.0; expected"),
    (json.dumps({"labels": [[name, [1, 0]] for name in names(10)]}), "the label of a/0.png is [1, 0]; expected"),
])  # fmt: skip
def test_a_bad_dataset_json_is_one_line(tmp_path, content, line):
    root = fill(tmp_path / "images", count=10)
    (root / "dataset.json").write_text(content)
    assert line in error_of(root)
