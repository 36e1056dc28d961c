"""The Inception network behind the published Frechet distances and Inception scores. Part of a leaf.

It is Inception V3 (Szegedy et al. 2015, arXiv:1512.00567) as Google released it on 2015-12-05 and as Heusel et al. 2017
(arXiv:1706.08500) used it: with 1,008 outputs, and with pooling of its own in the branches (see `Network`). Its weights
are not ours to give; `load` reads the public file of pytorch-fid and torch-fidelity, whose SHA-256 starts 6726825d.
"""

import dataclasses
import errno
import functools
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.errors import UserError, lookup
from gan.io.atomic import replacing
from gan.metrics import images as pixels
from gan.metrics.torch_file import read_tensors

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
SHA256_START = "6726825d"
"""What the name of the public file says of its content."""
MOST_BYTES = 2**28
"""That are fetched: the public file has 95 MB."""
VARIABLE = "GAN_INCEPTION"
SIZE = 299
FEATURES = 2048
BATCH = 32
EPSILON = 1e-3  # of the batch normalization

# Float32 throughout: the shorter formats of GPUs and TPUs would move a Frechet distance.
PRECISION = jax.lax.Precision.HIGHEST


class Network(nn.Module):
    """float32 [N, H, W, 3] in [-1, 1], H and W >= 75, to the 2,048 features before the classes.

    Convolutions carry the names of the public file; batch normalization is folded into them (`variables_of`). Where
    the paper averages in a branch, this network averages over the pixels that are there (padding is not counted) in
    all blocks but the last, Mixed_7c, which takes the maximum.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def conv(x, name, width, kernel, stride=1, padding="SAME"):
            zeros = nn.initializers.zeros_init()  # weights are always read
            layer = nn.Conv(width, kernel, stride, padding, precision=PRECISION, kernel_init=zeros, name=name)
            return nn.relu(layer(x))

        def shrunk(x):
            return nn.max_pool(x, (3, 3), (2, 2))

        def average(x):
            return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)

        def maximum(x):
            return nn.max_pool(x, (3, 3), padding="SAME")

        def branch(x, block, *layers):
            """Layers (name, width, kernel) in a row; one with a stride of 2 as a fourth entry has no padding."""
            for name, width, kernel, *stride in layers:
                x = conv(x, f"{block}.branch{name}", width, kernel, *(stride and (2, "VALID")))
            return x

        def block_a(x, block, pooled):
            return _joined(
                branch(x, block, ("1x1", 64, (1, 1))),
                branch(x, block, ("5x5_1", 48, (1, 1)), ("5x5_2", 64, (5, 5))),
                branch(x, block, ("3x3dbl_1", 64, (1, 1)), ("3x3dbl_2", 96, (3, 3)), ("3x3dbl_3", 96, (3, 3))),
                branch(average(x), block, ("_pool", pooled, (1, 1))),
            )

        def block_b(x, block):
            return _joined(
                branch(x, block, ("3x3", 384, (3, 3), 2)),
                branch(x, block, ("3x3dbl_1", 64, (1, 1)), ("3x3dbl_2", 96, (3, 3)), ("3x3dbl_3", 96, (3, 3), 2)),
                shrunk(x),
            )

        def block_c(x, block, width):
            across, down = (1, 7), (7, 1)
            double = [("7x7dbl_1", width, (1, 1))]
            double += [(f"7x7dbl_{i}", width, kernel) for i, kernel in enumerate((down, across, down), start=2)]
            return _joined(
                branch(x, block, ("1x1", 192, (1, 1))),
                branch(x, block, ("7x7_1", width, (1, 1)), ("7x7_2", width, across), ("7x7_3", 192, down)),
                branch(x, block, *double, ("7x7dbl_5", 192, across)),
                branch(average(x), block, ("_pool", 192, (1, 1))),
            )

        def block_d(x, block):
            across_down = ("7x7x3_2", 192, (1, 7)), ("7x7x3_3", 192, (7, 1))
            return _joined(
                branch(x, block, ("3x3_1", 192, (1, 1)), ("3x3_2", 320, (3, 3), 2)),
                branch(x, block, ("7x7x3_1", 192, (1, 1)), *across_down, ("7x7x3_4", 192, (3, 3), 2)),
                shrunk(x),
            )

        def block_e(x, block, pool):
            single = branch(x, block, ("3x3_1", 384, (1, 1)))
            double = branch(x, block, ("3x3dbl_1", 448, (1, 1)), ("3x3dbl_2", 384, (3, 3)))
            return _joined(
                branch(x, block, ("1x1", 320, (1, 1))),
                branch(single, block, ("3x3_2a", 384, (1, 3))),
                branch(single, block, ("3x3_2b", 384, (3, 1))),
                branch(double, block, ("3x3dbl_3a", 384, (1, 3))),
                branch(double, block, ("3x3dbl_3b", 384, (3, 1))),
                branch(pool(x), block, ("_pool", 192, (1, 1))),
            )

        x = conv(x, "Conv2d_1a_3x3", 32, (3, 3), 2, "VALID")
        x = conv(x, "Conv2d_2a_3x3", 32, (3, 3), 1, "VALID")
        x = shrunk(conv(x, "Conv2d_2b_3x3", 64, (3, 3)))
        x = conv(x, "Conv2d_3b_1x1", 80, (1, 1))
        x = shrunk(conv(x, "Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"))
        for block, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = block_a(x, block, pooled)
        x = block_b(x, "Mixed_6a")
        for block, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = block_c(x, block, width)
        x = block_d(x, "Mixed_7a")
        x = block_e(x, "Mixed_7b", average)
        x = block_e(x, "Mixed_7c", maximum)
        return jnp.mean(x, axis=(1, 2))


@dataclasses.dataclass(frozen=True, eq=False)
class Inception:
    """The network with its weights: what `features` and `probabilities` take."""

    variables: Mapping[str, Any]
    classes: np.ndarray
    """float32 [2048, 1008]: the last layer, without its bias."""
    identity: str
    """The first 16 hexadecimal digits of the SHA-256 of the file."""


def load(path: str | os.PathLike | None = None, *, verify: bool = True) -> Inception:
    """The network with the weights at `path`, else at the environment variable GAN_INCEPTION.

    Args:
      verify: whether a file with another SHA-256 than the public one is refused; figures of other weights compare
        with nothing that is published.

    Raises `UserError` where there is no path, no file, or another file.
    """
    path = path or os.environ.get(VARIABLE)
    if not path:
        raise UserError(
            f"no Inception weights: set {VARIABLE} to a copy of {URL} (gan.metrics.inception.download(path) fetches it)"
        )
    path = Path(path).expanduser()
    identity = _checked_hash(path, verify)
    return Inception(*variables_of(read_tensors(path), path), identity)


def download(path: str | os.PathLike, url: str = URL) -> Path:
    """Fetches the public weights (95 MB) to `path`, which `GAN_INCEPTION` may then name. Nothing else ever does.

    The file appears when it is whole and its SHA-256 is the public one's; else a `UserError` tells why.
    """
    path = Path(path).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=30) as source, replacing(path) as tmp:
            with open(tmp, "wb") as file:
                while (block := source.read(1 << 20)) and file.tell() < MOST_BYTES:
                    file.write(block)
            _checked_hash(tmp, verify=True, name=url)
        return path
    except (OSError, urllib.error.URLError) as error:
        raise UserError(f"cannot fetch {url} to {path}: {error}") from error


def features(inception: Inception, images: np.ndarray, resize: str = "tensorflow") -> np.ndarray:
    """float32 [N, 2048] of uint8 images [N, H, W, 1 or 3]: the mean over places of the last block.

    Args:
      resize: how images reach 299x299: one of `RESIZES`. "tensorflow" is that of the published figures.
    """
    matrix, clipped = lookup(RESIZES, resize, "resize")
    height, width = pixels.checked(images).shape[1:3]
    forward = functools.partial(
        _forward, inception.variables, rows=matrix(height, SIZE), columns=matrix(width, SIZE), clipped=clipped
    )
    return pixels.in_batches(forward, images, BATCH)


def probabilities(inception: Inception, features: np.ndarray) -> np.ndarray:
    """float32 [N, 1008]: the softmax of features [N, 2048] times the last layer, for the Inception score.

    The bias is left out, as in the code of Salimans et al. 2016 (arXiv:1606.03498) and in torch-fidelity
    (`logits_unbiased`): the published scores are without it.
    """
    return pixels.in_batches(functools.partial(_probabilities, inception.classes), features, 1024)


RESIZES = {
    "tensorflow": (pixels.bilinear_2015, False),
    "clean": (pixels.bicubic, True),
}
"""name: (matrix of the resizing, whether to clip to 0..255 after it, since a cubic overshoots).

"clean" is antialiased: Parmar, Zhang and Zhu 2022, arXiv:2104.11222. Its Frechet distances are "clean" ones; they do
not compare with the others.
"""


def variables_of(tensors: Mapping[str, np.ndarray], source: Any = "weights") -> tuple[dict, np.ndarray]:
    """(variables of `Network`, its classes) from tensors named as in the public file, batch normalization folded in.

    With scale s = gamma / sqrt(variance + 0.001): relu(s (W * x - mean) + beta) = relu((s W) * x + (beta - s mean)).
    `source` is what a `UserError` about a missing or misshapen tensor names.
    """

    def tensor(name, shape):
        found = tensors[name].shape if name in tensors else "missing"
        if found != shape:
            raise UserError(f"{source}: tensor {name} is {found}, and should be {shape}")
        return np.asarray(tensors[name], np.float64)

    def folded(name, expected):
        height, width, inputs, outputs = expected["kernel"].shape
        gamma, beta, mean, variance = (
            tensor(f"{name}.bn.{part}", (outputs,)) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + EPSILON)
        kernel = tensor(f"{name}.conv.weight", (outputs, inputs, height, width)).transpose(2, 3, 1, 0) * scale
        return {"kernel": kernel.astype(np.float32), "bias": (beta - scale * mean).astype(np.float32)}

    params = {name: folded(name, expected) for name, expected in shapes()["params"].items()}
    classes = tensor("fc.weight", (1008, FEATURES)).T.astype(np.float32)
    return jax.device_put({"params": params}), classes


@functools.cache
def shapes() -> dict:
    """The shapes of `Network`'s variables; nothing is computed."""
    return jax.eval_shape(Network().init, jax.random.key(0), jnp.zeros((1, 75, 75, 3)))


@functools.partial(jax.jit, static_argnames="clipped")
def _forward(variables, images, *, rows, columns, clipped):
    x = pixels.resized(images, rows, columns)
    if clipped:
        x = jnp.clip(x, 0, 255)
    x = jnp.broadcast_to(x, (*x.shape[:3], 3))  # grey to equal red, green and blue
    return Network().apply(variables, (x - 128) / 128)


@jax.jit
def _probabilities(classes, features):
    return jax.nn.softmax(jnp.matmul(features, classes, precision=PRECISION))


def _joined(*branches):
    return jnp.concatenate(branches, axis=-1)


def _checked_hash(path: Path, verify: bool, name: str | None = None) -> str:
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "no regular file")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"no Inception weights at {path} ({error.strerror}): set {VARIABLE} to a copy of {URL}"
        ) from error
    if verify and not digest.startswith(SHA256_START):
        raise UserError(
            f"{name or path} has the SHA-256 {digest[:8]}..., and the Inception weights of {URL} have {SHA256_START}..."
        )
    return digest[:16]
