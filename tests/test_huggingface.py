"""Datasets of Hugging Face that were saved to disk, in the format that `datasets` 5.2.0 writes."""

import io
import json

import numpy as np
import pyarrow
import pytest
from PIL import Image

from gan import data
from gan.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (120, 6, 9, 3)).astype(np.uint8)
NAMES = ["ants", "bees", "cats"]
FEATURES = {"img": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}, "text": {"_type": "Value"}}


def png(image):
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def save(split, images, labels, *, shards=1, features=FEATURES):
    """One split as `Dataset.save_to_disk` writes it."""
    split.mkdir(parents=True)
    names = [f"data-{shard:05d}-of-{shards:05d}.arrow" for shard in range(shards)]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    for shard, name in enumerate(names):
        rows = range(shard * len(images) // shards, (shard + 1) * len(images) // shards)
        encoded = [{"bytes": png(images[row]) if images[row] is not None else None, "path": "a.png"} for row in rows]
        table = pyarrow.table({
            "img": pyarrow.array(encoded, kind),
            "label": [labels[row] for row in rows],
            "text": ["" for _ in rows],
        })  # fmt: skip
        with pyarrow.ipc.new_stream(str(split / name), table.schema) as stream:
            stream.write_table(table)
    (split / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (split / "dataset_info.json").write_text(json.dumps({"features": features}))


def save_dict(source, **splits):
    for name, (images, labels) in splits.items():
        save(source / name, images, labels)
    (source / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))


def load(source, **options):
    return data.load(name="huggingface", data_dir=source, cache_dir=source.parent / "cache", **options)


def error_of(source, **options):
    with pytest.raises(UserError) as error:
        load(source, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_saved_dataset_is_its_images_and_labels(tmp_path, shards):
    labels = [number % 3 for number in range(120)]
    save(tmp_path / "saved", IMAGES, labels, shards=shards)
    train, test = load(tmp_path / "saved"), load(tmp_path / "saved", split="test")
    assert train.class_names == tuple(NAMES) and train.image_shape == (6, 9, 3)
    assert (train.class_counts(), test.class_counts()) == ((36,) * 3, (4,) * 3)  # a tenth is held out, as of a folder
    found = sorted((i.tobytes(), int(n)) for part in (train, test) for i, n in zip(*part.arrays(), strict=True))
    assert found == sorted((image.tobytes(), label) for image, label in zip(IMAGES, labels, strict=True))


def test_its_splits_are_kept_and_it_is_prepared_once(tmp_path, monkeypatch):
    save_dict(tmp_path / "saved", train=(IMAGES[:30], [0, 1, 2] * 10), test=(IMAGES[30:36], [2] * 6))
    first = load(tmp_path / "saved")
    assert len(first) == 30 and load(tmp_path / "saved", split="test").class_counts() == (0, 0, 6)
    save_dict(tmp_path / "other", train=(IMAGES[1:31], [0, 1, 2] * 10))
    assert load(tmp_path / "other").fingerprint != first.fingerprint
    monkeypatch.setattr(pyarrow, "memory_map", lambda path: pytest.fail("read again"))
    assert load(tmp_path / "saved") == first


def test_without_labels_all_images_are_of_one_class(tmp_path):
    save(tmp_path / "saved", IMAGES[:9], [5] * 9, features={"img": {"_type": "Image"}, "label": {"_type": "Value"}})
    assert load(tmp_path / "saved").class_names == ("image",)


def test_rows_without_an_image_can_be_skipped(tmp_path):
    save(tmp_path / "saved", [*IMAGES[:9], None], [0] * 10)
    assert "train/9 cannot be read as an image (no bytes, only a path)" in error_of(tmp_path / "saved")
    assert len(load(tmp_path / "saved", skip_broken=True)) == 9


def rewrite(name, content):
    return lambda saved: (saved / name).write_text(content)


@pytest.mark.parametrize("damage, line", [
    (lambda saved: (saved / "state.json").unlink(), "no dataset_dict.json and no state.json; expected: a folder"),
    (rewrite("state.json", "{"), "state.json is not a file of a saved dataset"),
    (rewrite("state.json", '{"_data_files": 3}'), "state.json is not a file of a saved dataset ('_data_files' is no"),
    (rewrite("state.json", '{"_data_files": [{"filename": "../a.arrow"}]}'), "state.json names no Arrow files"),
    (rewrite("dataset_info.json", '{"features": {"x": {"_type": "Value"}}}'), "has no column of images; it has: {'x'"),
    (rewrite("dataset_info.json", json.dumps({"features": FEATURES | {"label": {"_type": "ClassLabel", "names": []}}})),
     "split 'train' has the label 1; expected: 0 to 0"),
    (rewrite("data-00000-of-00001.arrow", "x"), "data-00000-of-00001.arrow cannot be read as an Arrow file"),
    (lambda saved: (saved / "data-00000-of-00001.arrow").unlink(), "cannot be read as an Arrow file"),
])  # fmt: skip
def test_a_damaged_dataset_is_one_line(tmp_path, damage, line):
    save(tmp_path / "saved", IMAGES[:9], [0, 1, 2] * 3)
    damage(tmp_path / "saved")
    assert line in error_of(tmp_path / "saved")


def test_labels_outside_the_classes_are_one_line(tmp_path):
    save_dict(
        tmp_path / "saved", train=(IMAGES[:9], [0, 1, 2] * 3), test=(IMAGES[:9], [-1] * 9)
    )  # as for hidden labels
    assert "split 'test' has the label -1; expected: 0 to 2" in error_of(tmp_path / "saved")
