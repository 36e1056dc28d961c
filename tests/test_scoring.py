"""--mode=evaluate --samples: images of any model, read from every kind of file, scored as those of a run."""

import json
import logging
import shutil
import zipfile

import numpy as np
import pytest
import runs
from PIL import Image

from gan import data
from gan.data import read_images
from gan.errors import UserError
from gan.evaluation import command, evaluator, scoring
from gan.evaluation.options import evaluation_options
from gan.inference import command as inference

EVALUATION = {"data.split": "train[:1000]", "evaluation.split": "train[1000:]", "evaluation.extractor": "pixels",
              "evaluation.num_samples": 120, "evaluation.metrics": ("frechet", "kernel", "memorization")}  # fmt: skip


def config(**overrides):
    return runs.config(**EVALUATION | overrides)


@pytest.fixture(scope="module")
def digits():
    images, labels = data.open_dataset(config().data).arrays()
    return np.asarray(images[:120]), np.asarray(labels[:120])


def write_folder(folder, images, names=None):
    for index, image in enumerate(images):
        path = folder / (names[index] if names else ".") / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)
    return folder


def scored(path, *, of=None, **given):
    scoring.score(path, of or config(), out=path.parent / "found.json", **given)
    return json.loads((path.parent / "found.json").read_text())


@pytest.mark.slow
def test_the_images_of_a_run_have_the_metrics_of_its_own_evaluation(tmp_path):
    folder = tmp_path / "run"
    runs.save(folder, config(), image_shape=(8, 8, 1))
    recorded = json.loads((folder / "config.json").read_text())
    recorded["dataset"]["fingerprint"] = data.open_dataset(config().data).fingerprint
    (folder / "config.json").write_text(json.dumps(recorded))
    command.evaluate(folder, count=None, seed=3)
    expected = json.loads((folder / "evaluation.json").read_text())
    inference.sample(folder, count=120, seed=3, out=tmp_path / "samples.npz")
    shutil.rmtree(folder)  # neither a run nor a checkpoint is needed
    scoring.score(tmp_path / "samples.npz", config(), seed=3)
    found = json.loads((tmp_path / "samples.evaluation.json").read_text())
    # Batches of another size are drawn by another program, whose pixels may differ by 1 of 255.
    of_run = expected["checkpoints"]["last"]["metrics"]
    assert found["samples"]["metrics"] == pytest.approx(of_run, rel=0.01)
    assert found["real_training_images"] == expected["real_training_images"]
    protocol = found["protocol"]
    record = protocol.pop("samples")
    assert protocol == expected["protocol"]
    assert (record["format"], record["found"], record["used"], record["order"]) == ("npz", 120, 120, "as in the file")
    assert (tmp_path / "samples.evaluation.png").exists()  # the nearest training images
    images = np.load(tmp_path / "samples.npz")["images"]
    run_evaluator = evaluator.create(evaluation_options(config()), seed=3)
    exact = run_evaluator.compute_from_images(images, np.zeros(120, np.int32))
    assert found["samples"]["metrics"] == dict(exact)


def test_a_folder_a_zip_file_and_an_npz_file_of_the_same_images_have_the_same_distance(tmp_path, digits):
    images, labels = digits
    folder = write_folder(tmp_path / "images", images, [str(label) for label in labels])
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))
    np.savez(tmp_path / "unnamed.npz", images)  # as `arr_0`
    found = {name: scored(tmp_path / name) for name in ("images", "images.zip", "unnamed.npz")}
    distances = [record["samples"]["metrics"]["fd_pixels"] for record in found.values()]
    np.testing.assert_allclose(distances, distances[0], rtol=1e-6)
    assert distances[0] < 2 * found["images"]["real_training_images"]["fd_pixels"]
    kinds = [record["protocol"]["samples"] for record in found.values()]
    assert [kind["format"] for kind in kinds] == ["folder", "zip", "npz"]
    assert kinds[0]["order"] == kinds[1]["order"] == "permuted at random, seed 0"
    assert kinds[0]["digest"] == kinds[1]["digest"] and kinds[0]["sizes"] == {"8x8": 120}
    assert all((kind["resized"], kind["converted"], kind["choice"]) == ("no", "no", "all") for kind in kinds)


def test_images_of_another_size_or_color_are_converted_and_it_is_said(tmp_path, digits, caplog):
    large = digits[0].repeat(3, axis=1).repeat(3, axis=2).repeat(3, axis=3)
    mixed = [*large[:100], *digits[0][100:]]
    with caplog.at_level(logging.WARNING):
        record = scored(write_folder(tmp_path / "large", mixed))["protocol"]["samples"]
    assert record["sizes"] == {"24x24": 100, "8x8": 20}
    assert record["resized"].startswith("to 8x8, center crop") and record["converted"].startswith("color to gray")
    assert "resized: to 8x8" in caplog.text and "converted: color to gray" in caplog.text
    np.savez(tmp_path / "large.npz", images=large)
    of_array = scored(tmp_path / "large.npz")
    assert of_array["protocol"]["samples"]["sizes"] == {"24x24": 120}
    np.savez(tmp_path / "small.npz", images=digits[0])
    # An image that is enlarged by whole pixels and reduced again is blurred a little.
    small = scored(tmp_path / "small.npz")["samples"]["metrics"]["fd_pixels"]
    assert of_array["samples"]["metrics"]["fd_pixels"] == pytest.approx(small, rel=1)
    read = read_images.read_images(tmp_path / "large.npz", (8, 8, 3), "center", count=50)
    assert read.images.shape == (50, 8, 8, 3) and read.record["choice"] == "evenly spaced in their order"


def test_the_number_of_images_is_the_config_s_or_what_there_is(tmp_path, digits, caplog):
    np.savez(tmp_path / "x.npz", images=digits[0])
    found = scored(tmp_path / "x.npz", count=60)["protocol"]
    assert found["num_samples"] == 60 and found["samples"]["used"] == 60 and found["samples"]["found"] == 120
    with caplog.at_level(logging.WARNING):
        found = scored(tmp_path / "x.npz", of=config(**{"evaluation.num_samples": 500}))
    assert found["protocol"]["num_samples"] == 120
    assert "120 images, fewer than config.evaluation.num_samples=500" in caplog.text


def test_labels_for_the_intra_class_distance_come_from_the_file_or_the_folders(tmp_path, digits):
    images, labels = digits
    given = {"metrics": ("frechet", "intra_class")}
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    expected = scored(tmp_path / "x.npz", **given)["samples"]["metrics"]
    folder = write_folder(tmp_path / "classes", images, [str(label) for label in labels])
    assert scored(folder, **given)["samples"]["metrics"] == pytest.approx(expected, rel=1e-6)
    np.savez(tmp_path / "y.npz", images=images, labels=(labels + 1) % 10)
    assert scored(tmp_path / "y.npz", **given)["samples"]["metrics"]["intra_fd_pixels"] > expected["intra_fd_pixels"]
    names = np.array(["zero", *"123456789"])
    np.savez(tmp_path / "z.npz", images=images, labels=labels, class_names=names)
    with pytest.raises(UserError, match="'zero' is no class of the data; expected: 0, 1, 2"):
        scored(tmp_path / "z.npz", **given)


def text(path):
    path.mkdir()
    (path / "a.txt").write_text("none")


def broken(path):
    write_folder(path, np.zeros((12, 8, 8, 1), np.uint8))
    (path / "005.png").write_bytes(b"\x89PNG none")


def deep(path):
    write_folder(path, np.zeros((12, 8, 8, 1), np.uint8))
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(path / "005.png")


@pytest.mark.parametrize(
    "name, make, given, line",
    [
        ("x", None, {}, "--samples='.*x' does not exist; expected: a folder, ZIP or NPZ file of images"),
        ("x.txt", lambda path: path.write_text("x"), {}, "--samples='.*x.txt' is not a folder or a ZIP file"),
        ("x.npz", lambda path: path.write_text("x"), {}, "--samples='.*x.npz' cannot be read as an NPZ file"),
        ("x.npz", lambda path: np.savez(path, images=np.zeros((20, 8, 8))), {}, "--samples=.* is float64 .*uint8"),
        ("x", text, {}, "--samples='.*x' contains no images"),
        ("x", broken, {}, "--samples: .*005.png cannot be read as an image"),
        ("x", deep, {}, "--samples: .*005.png cannot be read as an image: more than 8 bits"),
        ("x.npz", lambda path: np.savez(path, np.zeros((9, 8, 8), np.uint8)), {}, "has 9 images; expected: 10 or more"),
        ("x.npz", lambda path: np.savez(path, np.zeros((20, 8, 8), np.uint8)), {"count": 30}, "--num_samples=30"),
        ("x.npz", lambda path: np.savez(path, np.zeros((20, 8, 8), np.uint8)), {"metrics": ("fid",)},
         "--metrics: 'fid' is unknown; nearest: 'frechet'"),
        ("x.npz", lambda path: np.savez(path, np.zeros((20, 8, 8), np.uint8)), {"error_bars": 1},
         "--error_bars=1; expected: 2 or more, or 0"),
        ("x.npz", lambda path: np.savez(path, np.zeros((20, 8, 8), np.uint8)), {"metrics": ("intra_class",)},
         "'intra_class' needs the labels of --samples"),
        ("x.npz", lambda path: np.savez(path, np.zeros((20, 8, 8), np.uint8)), {"of": runs.config(
            **{"data.name": "ring8", "data.image_size": ()})}, "--samples are images, and the data 'ring8' are points"),
    ],
)  # fmt: skip
def test_samples_that_cannot_be_scored_are_one_line(tmp_path, name, make, given, line):
    if make is not None:
        make(tmp_path / name)
    with pytest.raises(UserError, match=line) as caught:
        scored(tmp_path / name, **given)
    assert "\n" not in str(caught.value) and "config.data.dir" not in str(caught.value)
    assert not (tmp_path / "found.json").exists()


def test_the_file_to_write_is_json(tmp_path):
    with pytest.raises(UserError, match="--out=.*x.txt must end in .json"):
        scoring.score(tmp_path / "x", config(), out=tmp_path / "x.txt")
