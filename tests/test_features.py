"""gan.metrics.features: operations on images, the trained classifier, and extractors by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from gan.errors import UserError
from gan.metrics import classifier, features
from gan.metrics import images as image_ops

# ---------------------------------------------------------------------------------------------- batches and resizing


def test_batches_have_a_fixed_size_and_no_row_is_dropped():
    sizes = []

    def doubled(batch):
        sizes.append(len(batch))
        return {"twice": 2 * batch, "sum": batch.sum(axis=1)}

    rows = np.arange(14).reshape(7, 2)
    joined = image_ops.in_batches(doubled, rows, 3)
    assert sizes == [3, 3, 3]
    np.testing.assert_array_equal(joined["twice"], 2 * rows)
    np.testing.assert_array_equal(joined["sum"], [1, 5, 9, 13, 17, 21, 25])


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 2), np.uint8),
     np.zeros((0, 8, 8, 3), np.uint8)],
    ids=["float", "no channels", "two channels", "none"],
)  # fmt: skip
def test_invalid_images_are_rejected(images):
    with pytest.raises(UserError, match="uint8"):
        image_ops.checked(images)


@pytest.mark.parametrize("size", [(40, 23), (299, 310), (8, 8)])
def test_bicubic_is_pillows(size):
    image = np.random.default_rng(0).integers(0, 256, (2, 29, 31, 3), np.uint8)
    ours = image_ops.resized(image, image_ops.bicubic(29, size[0]), image_ops.bicubic(31, size[1]))
    for n in range(2):
        for c in range(3):
            channel = Image.fromarray(image[n, :, :, c].astype(np.float32))
            theirs = channel.resize(size[::-1], Image.Resampling.BICUBIC)
            np.testing.assert_allclose(ours[n, :, :, c], np.asarray(theirs), atol=1e-3)  # of 255


def test_bilinear_of_2015_in_numbers():
    # 2 to 4: positions 0, 0.5, 1, 1.5, the last without a right neighbor. Aligned centers would give 0, 2.5, 7.5, 10.
    np.testing.assert_allclose(image_ops.bilinear_2015(2, 4) @ [0, 10], [0, 5, 10, 10])
    # 4 to 2: places 0 and 2: the others are not seen at all (it aliases).
    np.testing.assert_array_equal(image_ops.bilinear_2015(4, 2), [[1, 0, 0, 0], [0, 0, 1, 0]])
    # 3 to 2: places 0 and 1.5.
    np.testing.assert_allclose(image_ops.bilinear_2015(3, 2), [[1, 0, 0], [0, 0.5, 0.5]])


@pytest.mark.parametrize("matrix", [image_ops.bilinear_2015, image_ops.bicubic])
def test_resizing_keeps_a_flat_image_and_an_image_of_the_right_size(matrix):
    np.testing.assert_allclose(matrix(17, 299).sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(matrix(9, 9), np.eye(9))


# ------------------------------------------------------------------------------------------------------- classifier


def digits():
    """(images, labels) of the bundled digits, uint8 [1797, 8, 8, 1]."""
    data = load_digits()
    return np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None], data.target


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, the arguments of `load_or_train`, its result) on the digits, the last 397 of them held out."""
    images, labels = digits()
    folder = tmp_path_factory.mktemp("classifier")
    arguments = ("digits", images[:1400], labels[:1400], 10, images[1400:], labels[1400:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "STEPS", (100, 100))  # a quarter of the default, and enough for the tests
        return folder, arguments, classifier.load_or_train(folder, *arguments)


def test_the_classifier_learns_the_digits(trained):
    _, (_, _, _, _, images, labels), result = trained
    assert result.test_accuracy > 0.9
    assert result.test_accuracy == classifier.accuracy(result.variables, images, labels)
    # Negative control: the labels of other images.
    assert classifier.accuracy(result.variables, images, np.roll(labels, 1)) < 0.3


def test_the_classifier_is_saved_and_a_corrupted_file_is_not_used(trained, monkeypatch):
    folder, arguments, result = trained
    monkeypatch.setattr(classifier, "train", lambda *_: pytest.fail("trained again"))
    again = classifier.load_or_train(folder, *arguments)
    assert again.identity == result.identity and again.test_accuracy == result.test_accuracy
    images = arguments[1][:5]
    np.testing.assert_array_equal(
        classifier.features(again.variables, images), classifier.features(result.variables, images)
    )

    worse = jax.tree.map(jnp.zeros_like, result.variables)
    monkeypatch.setattr(classifier, "train", lambda *_: worse)
    assert classifier.load_or_train(folder, "other digits", *arguments[1:]).identity != result.identity
    shapes = {name: leaf.shape for name, leaf in classifier._flat(result.variables).items()}
    (kept,) = [path for path in folder.iterdir() if classifier._read(path, shapes).identity == result.identity]
    whole = kept.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:1000], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        kept.write_bytes(damaged)
        assert classifier.load_or_train(folder, *arguments).identity != result.identity
    kept.write_bytes(whole)
    assert not list(folder.glob(".partial*"))


def test_a_folder_that_cannot_be_written_causes_a_warning(trained, monkeypatch, tmp_path, caplog):
    _, arguments, result = trained
    monkeypatch.setattr(classifier, "train", lambda *_: result.variables)
    (tmp_path / "file").write_text("")
    trained_now = classifier.load_or_train(tmp_path / "file", *arguments)
    assert trained_now.identity == result.identity and "could not be saved" in caplog.text


def test_features_do_not_depend_on_the_number_of_images(trained):
    _, (_, images, *_), result = trained
    all_at_once = classifier.features(result.variables, images[:300])
    assert all_at_once.shape == (300, 128) and all_at_once.dtype == np.float32
    np.testing.assert_array_equal(all_at_once[290:293], classifier.features(result.variables, images[290:293]))
    chances = classifier.probabilities(result.variables, all_at_once)
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)


def test_training_is_a_function_of_its_seed(monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", (3, 3))
    images, labels = digits()
    first, again, other = (classifier.train(images, labels, 10, seed) for seed in (0, 0, 1))
    assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(again)))
    kernels = [leaf for leaf in jax.tree.leaves(first) if leaf.ndim > 1]
    assert len(kernels) == 5
    others = [leaf for leaf in jax.tree.leaves(other) if leaf.ndim > 1]
    assert not any(map(np.array_equal, kernels, others))


def test_large_images_are_downsampled():
    downsampled = classifier._preprocess(np.full((1, 70, 90, 3), 255, np.uint8))  # 64 / 70 of 90 is 82.3
    assert downsampled.shape == (1, 64, 82, 3)
    np.testing.assert_allclose(downsampled, 1, atol=1e-5)


def test_shifted_images_have_edge_padding():
    image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    shifted = classifier._shifted(np.repeat(image, 2, axis=0), np.array([[0, 0], [1, -1]]))
    np.testing.assert_array_equal(shifted[0, :, :, 0], [[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    np.testing.assert_array_equal(shifted[1, :, :, 0], [[1, 2, 2], [1, 2, 2], [4, 5, 5]])  # down, left


def test_stacked_classes_combine_three_digits(trained):
    _, (_, _, _, _, images, _), result = trained
    three = np.concatenate([images[:50], images[50:100], images[100:150]], axis=-1)
    single = classifier.classes(result.variables, images)
    expected = [
        int(f"{red}{green}{blue}") for red, green, blue in zip(single, single[50:], single[100:150], strict=False)
    ]
    stacked = features.extractor("classifier", features.DatasetInfo(three.shape[1:], lambda: result, is_stacked=True))
    seen = stacked.features(three)
    assert seen.shape == (50, stacked.dimension) == (50, 3 * classifier.FEATURES)
    joint = stacked.probabilities(seen)
    np.testing.assert_allclose(joint.sum(axis=-1), np.ones(50), rtol=1e-4)
    np.testing.assert_array_equal(np.argmax(joint, axis=-1), expected)
    assert len(set(expected)) > 30


@pytest.mark.parametrize(
    ("size", "labels", "num_classes", "word"),
    [(7, [0, 1], 2, "8x8"), (8, [0, 0], 1, "two classes"), (8, [0, 2], 2, "0..1"), (8, [0], 2, "0..1")],
)
def test_invalid_training_data_are_rejected(size, labels, num_classes, word):
    with pytest.raises(UserError, match=word):
        classifier.train(np.zeros((2, size, size, 1), np.uint8), np.array(labels), num_classes)


# ------------------------------------------------------------------------------------------------------- extractors


def test_extractors_by_name(trained, monkeypatch):
    _, (_, images, *_), result = trained
    info = features.DatasetInfo((8, 8, 1), lambda: result)
    images = images[:3]
    pixel_extractor = features.extractor("pixels", info)
    assert pixel_extractor.dimension == 64 and pixel_extractor.probabilities is None
    np.testing.assert_allclose(pixel_extractor.features(images)[1], images[1].reshape(64) / 255.0, rtol=1e-6)
    classifier_extractor = features.extractor("classifier", info)
    seen = classifier_extractor.features(images)
    assert seen.shape == (3, classifier_extractor.dimension) and classifier_extractor.identity == result.identity
    np.testing.assert_array_equal(
        classifier_extractor.probabilities(seen).argmax(axis=1), classifier.classes(result.variables, images)
    )
    mean = features.custom("mean", "1", lambda batch: batch.mean(axis=(1, 2)), info)
    assert mean.dimension == 1 and mean.features(images).dtype == np.float32
    np.testing.assert_allclose(mean.features(images)[:, 0], images.mean(axis=(1, 2, 3)))
    assert len({pixel_extractor.identity, classifier_extractor.identity, mean.identity}) == 3
    assert features.custom("mean", "2", lambda batch: batch.mean(axis=(1, 2)), info).identity != mean.identity


def test_invalid_extractors_are_rejected(monkeypatch):
    info = features.DatasetInfo((8, 8, 1))
    monkeypatch.delenv("GAN_INCEPTION", raising=False)
    for text, words in {
        "inceptoin": "nearest: 'inception'",
        "inception": "GAN_INCEPTION",
        "inception(resize='cleen')": "nearest: 'clean'",
        "inception(size=3)": "expected",
        "classifier": "labels",
    }.items():
        with pytest.raises(UserError, match=words):
            features.extractor(text, info, "evaluation.extractor")
    with pytest.raises(UserError, match=r"\[D\]"):
        features.custom("whole", "1", lambda batch: batch, info)
