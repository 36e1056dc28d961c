"""gan.metrics.inception: equal to an independent PyTorch implementation, loading, downloading and resizing."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from test_torch_file import TENSORS, ordered, tensor, write_zip

from gan.errors import UserError
from gan.metrics import features, inception


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
    for path in (tmp_path / "none.pth", "~nobody_of_this_name/none.pth"):
        monkeypatch.setenv("GAN_INCEPTION", str(path))
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


@pytest.mark.skipif(not os.environ.get("GAN_INCEPTION"), reason="GAN_INCEPTION is not set to a file of weights")
def test_the_public_weights_are_read():
    network = inception.load()
    assert Path(os.environ["GAN_INCEPTION"]).exists() and network.identity.startswith("6726825d")
    assert features.extractor("inception", features.DatasetInfo((8, 8, 1))).dimension == 2048
