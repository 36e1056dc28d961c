"""Feature extractors: Inception against PyTorch, safe reading of its file, resizing, and the trained classifier."""

import os
import pickle
import struct
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from gan.errors import UserError
from gan.metrics import classifier, features, inception
from gan.metrics import images as image_ops
from gan.metrics.torch_file import read_tensors

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


# ------------------------------------------------------------------------------------------------- files of PyTorch


def fragment(value):
    """The opcodes that push a plain value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def tensor(key, count, offset, shape, strides, storage="FloatStorage", legacy=False):
    """The opcodes that push a tensor, as torch.save writes them, in a zip or in a stream."""
    view = fragment(None) if legacy else b""
    pid = b"(" + fragment("storage") + f"ctorch\n{storage}\n".encode() + fragment(key) + fragment("cpu")
    pid += fragment(count) + view + b"tQ"
    arguments = fragment(offset) + fragment(shape) + fragment(strides) + fragment(False)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + arguments + b"ccollections\nOrderedDict\n)RtR"


def ordered(**values):
    """The opcodes of a state_dict: an OrderedDict with its `_metadata` set as an attribute."""
    items = b"".join(fragment(name) + value for name, value in values.items())
    body = b"ccollections\nOrderedDict\n)R(" + items + b"u"
    return b"\x80\x02" + body + b"}" + fragment("_metadata") + b"}sb."


NUMBERS = np.arange(12, dtype="<f4")
TENSORS = {"plain": ("0", 12, 0, (3, 4), (4, 1)), "turned": ("0", 12, 2, (2, 2), (1, 4))}
# Read off NUMBERS: offset 2, a step down is 1, a step right is 4.
TURNED = [[2, 6], [3, 7]]


def write_zip(path, opcodes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("any/data.pkl", opcodes)
        archive.writestr("any/data/0", NUMBERS.tobytes())
    return path


def write_stream(path, opcodes, count=12):
    parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    tail = pickle.dumps(["0"], protocol=2) + struct.pack("<q", count) + NUMBERS.tobytes()
    path.write_bytes(b"".join(parts) + opcodes + tail)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
def test_tensors_are_read_from_both_formats(tmp_path, legacy):
    opcodes = ordered(**{name: tensor(*what, legacy=legacy) for name, what in TENSORS.items()})
    read = read_tensors((write_stream if legacy else write_zip)(tmp_path / "weights.pth", opcodes))
    assert list(read) == ["plain", "turned"] and read["plain"].dtype == np.float32
    np.testing.assert_array_equal(read["plain"], NUMBERS.reshape(3, 4))
    np.testing.assert_array_equal(read["turned"], TURNED)


class Calls:
    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


HOSTILE = {
    "calls": lambda mark: pickle.dumps(Calls(os.system, f"touch {mark}"), protocol=2),
    "evaluates": lambda mark: pickle.dumps(Calls(eval, f"open({str(mark)!r}, 'w')"), protocol=2),
    "dots": lambda mark: b"\x80\x04\x8c\x0ctorch._utils\x8c\x1f_rebuild_tensor_v2.__globals__\x93.",
    "torch": lambda mark: b"\x80\x02ctorch\nload\n(" + fragment(str(mark)) + b"tR.",
    "old opcode": lambda mark: b"(" + fragment(f"touch {mark}") + b"ios\nsystem\n.",
    "beyond": lambda mark: ordered(a=tensor("0", 12, 1, (3, 4), (4, 1))),
    "before": lambda mark: ordered(a=tensor("0", 12, -1, (3, 4), (4, 1))),
    "backwards": lambda mark: ordered(a=tensor("0", 12, 11, (12,), (-1,))),
    "blown up": lambda mark: ordered(a=tensor("0", 12, 0, (5, 5), (0, 0))),
    "other count": lambda mark: ordered(a=tensor("0", 13, 0, (12,), (1,))),
    "other storage": lambda mark: ordered(a=tensor("1", 12, 0, (12,), (1,))),
    "no tensors": lambda mark: b"\x80\x02" + fragment({"a": 1}) + b".",
    "cut short": lambda mark: ordered(a=tensor("0", 12, 0, (12,), (1,)))[:-20],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_malicious_and_corrupted_files_are_rejected(tmp_path, name):
    mark = tmp_path / "mark"
    path = write_zip(tmp_path / "weights.pth", HOSTILE[name](mark))
    with pytest.raises(UserError, match="plain tensors") as caught:
        read_tensors(path)
    assert not mark.exists() and "\n" not in str(caught.value)


def test_the_same_opcodes_do_harm_where_they_are_obeyed(tmp_path):
    mark = tmp_path / "mark"
    pickle.loads(HOSTILE["calls"](mark))
    assert mark.exists()


def test_a_file_cannot_change_the_reader(tmp_path):
    # The BUILD opcode with a state of (None, attributes) sets attributes: here `array`, on the replacement of tensors.
    plain, state = tensor(*TENSORS["plain"]), fragment((None, {"array": "hacked"})) + b"b"
    with pytest.raises(UserError, match="plain tensors"):  # on the class
        read_tensors(write_zip(tmp_path / "weights.pth", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + state + b"."))
    read = read_tensors(write_zip(tmp_path / "weights.pth", ordered(a=plain + state)))  # on the tensor
    np.testing.assert_array_equal(read["a"], NUMBERS.reshape(3, 4))


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and no more", b"plain text\n"])
def test_other_files_are_rejected(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match="plain tensors"):
        read_tensors(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="cannot read"):
        read_tensors(tmp_path / "none.pth")


# -------------------------------------------------------------------------------------------------------- inception


def test_inception_has_the_published_number_of_parameters():
    params = inception.shapes()["params"]
    assert len(params) == 94  # convolutions
    # Inception V3 has 23,817,352 trainable parameters with 1,000 classes and with batch normalization that has no gamma
    # (Keras), 1,000 (2,048 + 1) of which are the last layer. Folded, a beta is a bias.
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 23_817_352 - 2_049_000


def test_inception_without_weights_reports_where_to_get_them(monkeypatch, tmp_path):
    monkeypatch.delenv("GAN_INCEPTION", raising=False)
    with pytest.raises(UserError, match="GAN_INCEPTION.*github.com/mseitzer/pytorch-fid/releases") as caught:
        inception.load()
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("GAN_INCEPTION", str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="no Inception weights at .*none.pth"):
        inception.load()
    other = write_zip(tmp_path / "other.pth", ordered(a=tensor(*TENSORS["plain"])))
    with pytest.raises(UserError, match="6726825d"):
        inception.load(other)
    with pytest.raises(UserError, match="Conv2d_1a_3x3.bn.weight is missing"):
        inception.load(other, verify=False)


def test_a_download_of_other_content_leaves_no_file(tmp_path):
    source, target = tmp_path / "source", tmp_path / "folder" / "weights.pth"
    source.write_bytes(b"something else")
    with pytest.raises(UserError, match="6726825d"):
        inception.download(target, source.as_uri())
    with pytest.raises(UserError, match="cannot fetch"):
        inception.download(target, (tmp_path / "none").as_uri())
    assert not list(target.parent.iterdir())


def test_a_download_of_the_expected_content_is_saved(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "folder" / "weights.pth"
    source.write_bytes(b"abc")
    monkeypatch.setattr(inception, "SHA256_START", "ba7816bf")  # SHA-256("abc"), FIPS 180-2, appendix B.1
    assert inception.download(target, source.as_uri()) == target
    assert target.read_bytes() == b"abc"


def torch_inception(torch):
    """An independent implementation of the network in PyTorch, with the names of the public file."""
    nn, F = torch.nn, torch.nn.functional

    class Conv(nn.Module):
        def __init__(self, inputs, outputs, kernel, stride=1, padding=0):
            super().__init__()
            self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
            self.bn = nn.BatchNorm2d(outputs, eps=0.001)

        def forward(self, x):
            return F.relu(self.bn(self.conv(x)))

    class Block(nn.Module):
        """Branches, each a sequence of convolutions; `pool` precedes the branch named branch_pool."""

        def __init__(self, inputs, pool, chains):
            super().__init__()
            self.pool, self.chains = pool, chains
            for chain in chains:
                width = inputs
                for name, outputs, kernel, *stride in chain:
                    if not hasattr(self, name):
                        padding = 0 if stride else (kernel[0] // 2, kernel[1] // 2)
                        setattr(self, name, Conv(width, outputs, kernel, *(stride or [1]), padding))
                    width = outputs

        def forward(self, x):
            outputs = []
            for chain in self.chains:
                y = self.pool(x) if not chain or chain[0][0] == "branch_pool" else x
                for name, *_ in chain:
                    y = getattr(self, name)(y)
                outputs.append(y)
            return torch.cat(outputs, 1)

    def mean(x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def half(x):
        return F.max_pool2d(x, 3, 2)

    one, three, across, down = (1, 1), (3, 3), (1, 7), (7, 1)
    triple = [("branch3x3dbl_1", 64, one), ("branch3x3dbl_2", 96, three)]

    def a(inputs, pooled):
        five = [("branch5x5_1", 48, one), ("branch5x5_2", 64, (5, 5))]
        chains = [[("branch1x1", 64, one)], five, [*triple, ("branch3x3dbl_3", 96, three)]]
        return Block(inputs, mean, [*chains, [("branch_pool", pooled, one)]])

    def c(w):
        seven = [("branch7x7_1", w, one), ("branch7x7_2", w, across), ("branch7x7_3", 192, down)]
        kernels = [(w, one), (w, down), (w, across), (w, down), (192, across)]
        double = [(f"branch7x7dbl_{i}", *what) for i, what in enumerate(kernels, 1)]
        return Block(768, mean, [[("branch1x1", 192, one)], seven, double, [("branch_pool", 192, one)]])

    def e(inputs, pool):
        single, double = ("branch3x3_1", 384, one), [("branch3x3dbl_1", 448, one), ("branch3x3dbl_2", 384, three)]
        chains = [[("branch1x1", 320, one)]]
        chains += [[single, ("branch3x3_2a", 384, (1, 3))], [single, ("branch3x3_2b", 384, (3, 1))]]
        chains += [[*double, ("branch3x3dbl_3a", 384, (1, 3))], [*double, ("branch3x3dbl_3b", 384, (3, 1))]]
        return Block(inputs, pool, [*chains, [("branch_pool", 192, one)]])

    last_single = [("branch3x3_1", 192, one), ("branch3x3_2", 320, three, 2)]
    last = [("branch7x7x3_1", 192, one), ("branch7x7x3_2", 192, across), ("branch7x7x3_3", 192, down)]
    stem = {
        "Conv2d_1a_3x3": Conv(3, 32, 3, 2),
        "Conv2d_2a_3x3": Conv(32, 32, 3),
        "Conv2d_2b_3x3": Conv(32, 64, 3, 1, 1),
    }
    layers = {
        "Conv2d_3b_1x1": Conv(64, 80, 1),
        "Conv2d_4a_3x3": Conv(80, 192, 3),
        "shrink": nn.MaxPool2d(3, 2),
        **{"Mixed_5b": a(192, 32), "Mixed_5c": a(256, 64), "Mixed_5d": a(288, 64)},
        "Mixed_6a": Block(288, half, [[("branch3x3", 384, three, 2)], [*triple, ("branch3x3dbl_3", 96, three, 2)], []]),
        **{"Mixed_6b": c(128), "Mixed_6c": c(160), "Mixed_6d": c(160), "Mixed_6e": c(192)},
        "Mixed_7a": Block(768, half, [last_single, [*last, ("branch7x7x3_4", 192, three, 2)], []]),
        "Mixed_7b": e(1280, mean),
        "Mixed_7c": e(2048, lambda x: F.max_pool2d(x, 3, 1, 1)),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "fc": nn.Linear(2048, 1008),
    }  # fmt: skip
    from collections import OrderedDict

    return nn.Sequential(OrderedDict(stem | {"shrink_first": nn.MaxPool2d(3, 2)} | layers)).eval()


def test_inception_equals_a_pytorch_implementation(tmp_path):
    """Random weights, saved by PyTorch and read here; 107 x 107 pixels, so that every block has borders."""
    torch = pytest.importorskip("torch", reason="PyTorch, for an independent implementation, is not installed")
    torch.manual_seed(0)
    theirs = torch_inception(torch)
    for module in theirs.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, torch.nn.BatchNorm2d):
            for numbers, low, high in (
                (module.weight, 0.5, 1.5), (module.bias, -0.2, 0.2),
                (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 1.5),
            ):  # fmt: skip
                numbers.data.uniform_(low, high)
    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path, _use_new_zipfile_serialization=False)
    ours = inception.load(path, verify=False)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 107, 107, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs[:-1](torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
        logits = expected @ theirs.fc.weight.numpy().T  # without the bias
    found = jax.jit(inception.Network().apply)(ours.variables, x)
    assert found.shape == (2, 2048) and np.ptp(expected) > 1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(inception.probabilities(ours, expected), softmax, atol=1e-5)


def test_torch_save_is_read_in_both_formats(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch, to write the files, is not installed")
    layer = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    layer[0].weight.data = layer[0].weight.data.to(memory_format=torch.channels_last)  # strides out of order
    for new in (True, False):
        torch.save(layer.state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=new)
        read = read_tensors(tmp_path / "a.pth")
        assert read.keys() == layer.state_dict().keys()
        for name, value in layer.state_dict().items():
            assert read[name].dtype == value.numpy().dtype  # num_batches_tracked is int64
            np.testing.assert_array_equal(read[name], value.numpy())


@pytest.mark.parametrize(("resize", "kernel"), [("tensorflow", None), ("clean", Image.Resampling.BICUBIC)])
def test_inception_receives_resized_and_scaled_images(monkeypatch, resize, kernel):
    """The network is replaced by the identity: gray becomes RGB, and x in 0..255 becomes (x - 128) / 128."""
    monkeypatch.setattr(inception.Network, "apply", lambda self, variables, x: x)
    monkeypatch.setattr(inception, "BATCH_SIZE", 2)
    image = np.random.default_rng(1).choice(np.array([0, 255], np.uint8), (1, 30, 30, 1))
    jax.clear_caches()
    seen = inception.features(inception.Inception({}, np.zeros(0), ""), image, resize)
    jax.clear_caches()
    assert seen.shape == (1, 299, 299, 3)
    np.testing.assert_array_equal(seen[..., 0], seen[..., 2])
    if kernel is None:
        # Row 1 is interpolated at 30 / 299 between rows 0 and 1.
        position = 30 / 299
        expected = ((1 - position) * image[0, 0, 0, 0] + position * image[0, 1, 0, 0] - 128) / 128
        np.testing.assert_allclose(seen[0, 1, 0, 0], expected, atol=1e-5)
    else:
        whole = Image.fromarray(image[0, :, :, 0].astype(np.float32)).resize((299, 299), kernel)
        assert np.ptp(np.asarray(whole)) > 260  # it overshoots, and must be clipped
        np.testing.assert_allclose(seen[0, :, :, 0], (np.clip(whole, 0, 255) - 128) / 128, atol=1e-5)


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


@pytest.mark.skipif(not os.environ.get("GAN_INCEPTION"), reason="GAN_INCEPTION is not set to a file of weights")
def test_the_public_weights_are_read():
    network = inception.load()
    assert Path(os.environ["GAN_INCEPTION"]).exists() and network.identity.startswith("6726825d")
    assert features.extractor("inception", features.DatasetInfo((8, 8, 1))).dimension == 2048
