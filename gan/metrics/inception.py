"""The Inception network of the published Frechet Inception distances (FID) and Inception scores.

It is Inception V3 (Szegedy et al. 2015, arXiv:1512.00567) as Google released it on 2015-12-05 and as Heusel et al. 2017
(arXiv:1706.08500) used it: with 1,008 outputs, and with other pooling in the branches (see `Network`). The weights are
not distributed with this project. `load` reads the public file of pytorch-fid and torch-fidelity, whose SHA-256 starts
with 6726825d.
"""

import dataclasses
import errno
import functools
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.errors import UserError, lookup
from gan.io.atomic import replacing
from gan.metrics import images as image_ops
from gan.metrics.torch_file import read_tensors

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
SHA256_START = "6726825d"
"""The prefix of the hash that is part of the public file's name."""
MAX_BYTES = 2**28
"""The largest download; the public file has 95 MB."""
ENVIRONMENT_VARIABLE = "GAN_INCEPTION"
SIZE = 299
FEATURES = 2048
BATCH_SIZE = 32
EPSILON = 1e-3
"""Of the batch normalization."""

PRECISION = jax.lax.Precision.HIGHEST
"""Full float32: the reduced precision of GPUs (TF32) and TPUs (bfloat16) would change the Frechet distance."""


class Network(nn.Module):
    """float32 [N, H, W, 3] in [-1, 1], H and W >= 75, to the 2,048 features before the classes.

    Convolutions have the names of the public file; batch normalization is folded into them (`variables_of`). Where the
    paper has average pooling in a branch, this network does not count the padding, and its last block, Mixed_7c, has
    max pooling instead.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = _conv(x, "Conv2d_1a_3x3", 32, (3, 3), 2, "VALID")
        x = _conv(x, "Conv2d_2a_3x3", 32, (3, 3), 1, "VALID")
        x = _downsample(_conv(x, "Conv2d_2b_3x3", 64, (3, 3)))
        x = _conv(x, "Conv2d_3b_1x1", 80, (1, 1))
        x = _downsample(_conv(x, "Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"))
        for block, pool_channels in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = _block_a(x, block, pool_channels)
        x = _block_b(x, "Mixed_6a")
        for block, channels in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = _block_c(x, block, channels)
        x = _block_d(x, "Mixed_7a")
        x = _block_e(x, "Mixed_7b", _average_pool)
        x = _block_e(x, "Mixed_7c", _max_pool)
        return jnp.mean(x, axis=(1, 2))


# The functions below are called inside `Network.__call__`, so that their layers belong to that module.


def _conv(x, name, channels, kernel, stride=1, padding="SAME"):
    zeros = nn.initializers.zeros_init()  # the weights are always read from a file
    layer = nn.Conv(channels, kernel, stride, padding, precision=PRECISION, kernel_init=zeros, name=name)
    return nn.relu(layer(x))


def _branch(x, block, *layers):
    """A sequence of convolutions (name, channels, kernel); a fourth entry is a stride of 2, without padding."""
    for name, channels, kernel, *stride in layers:
        x = _conv(x, f"{block}.branch{name}", channels, kernel, *(stride and (2, "VALID")))
    return x


def _block_a(x, block, pool_channels):
    return _concatenate(
        _branch(x, block, ("1x1", 64, (1, 1))),
        _branch(x, block, ("5x5_1", 48, (1, 1)), ("5x5_2", 64, (5, 5))),
        _branch(x, block, ("3x3dbl_1", 64, (1, 1)), ("3x3dbl_2", 96, (3, 3)), ("3x3dbl_3", 96, (3, 3))),
        _branch(_average_pool(x), block, ("_pool", pool_channels, (1, 1))),
    )


def _block_b(x, block):
    return _concatenate(
        _branch(x, block, ("3x3", 384, (3, 3), 2)),
        _branch(x, block, ("3x3dbl_1", 64, (1, 1)), ("3x3dbl_2", 96, (3, 3)), ("3x3dbl_3", 96, (3, 3), 2)),
        _downsample(x),
    )


def _block_c(x, block, channels):
    row, column = (1, 7), (7, 1)
    double = [("7x7dbl_1", channels, (1, 1))]
    double += [(f"7x7dbl_{i}", channels, kernel) for i, kernel in enumerate((column, row, column), start=2)]
    return _concatenate(
        _branch(x, block, ("1x1", 192, (1, 1))),
        _branch(x, block, ("7x7_1", channels, (1, 1)), ("7x7_2", channels, row), ("7x7_3", 192, column)),
        _branch(x, block, *double, ("7x7dbl_5", 192, row)),
        _branch(_average_pool(x), block, ("_pool", 192, (1, 1))),
    )


def _block_d(x, block):
    row_column = ("7x7x3_2", 192, (1, 7)), ("7x7x3_3", 192, (7, 1))
    return _concatenate(
        _branch(x, block, ("3x3_1", 192, (1, 1)), ("3x3_2", 320, (3, 3), 2)),
        _branch(x, block, ("7x7x3_1", 192, (1, 1)), *row_column, ("7x7x3_4", 192, (3, 3), 2)),
        _downsample(x),
    )


def _block_e(x, block, pool):
    single = _branch(x, block, ("3x3_1", 384, (1, 1)))
    double = _branch(x, block, ("3x3dbl_1", 448, (1, 1)), ("3x3dbl_2", 384, (3, 3)))
    return _concatenate(
        _branch(x, block, ("1x1", 320, (1, 1))),
        _branch(single, block, ("3x3_2a", 384, (1, 3))),
        _branch(single, block, ("3x3_2b", 384, (3, 1))),
        _branch(double, block, ("3x3dbl_3a", 384, (1, 3))),
        _branch(double, block, ("3x3dbl_3b", 384, (3, 1))),
        _branch(pool(x), block, ("_pool", 192, (1, 1))),
    )


def _downsample(x):
    return nn.max_pool(x, (3, 3), (2, 2))


def _average_pool(x):
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _max_pool(x):
    return nn.max_pool(x, (3, 3), padding="SAME")


def _concatenate(*branches):
    return jnp.concatenate(branches, axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Inception:
    """The network's weights, the argument of `features` and `probabilities`."""

    variables: Mapping[str, Any]
    classes: np.ndarray
    """float32 [2048, 1008]: the last layer, without its bias."""
    identity: str
    """The first 16 hexadecimal digits of the SHA-256 of the file."""


def load(path: str | os.PathLike | None = None, *, verify: bool = True) -> Inception:
    """The weights in the file `path`, by default the path in the environment variable GAN_INCEPTION.

    Args:
      verify: whether a file with another SHA-256 than the public one is rejected. With other weights, metrics are not
        comparable with published ones.

    Raises:
      UserError: no path, no file, or a file with another content.
    """
    path = path or os.environ.get(ENVIRONMENT_VARIABLE)
    if not path:
        raise UserError(
            f"no Inception weights: set {ENVIRONMENT_VARIABLE} to a copy of {URL} "
            "(gan.metrics.inception.download(path) downloads it)"
        )
    path = Path(os.path.expanduser(path))  # which leaves the ~NAME of an unknown user
    identity = _checked_hash(path, verify)
    return Inception(*variables_of(read_tensors(path), path), identity)


def download(path: str | os.PathLike, url: str = URL) -> Path:
    """Downloads the public weights (95 MB) to `path`, to which GAN_INCEPTION can then be set.

    Nothing in this project calls it. The file is created only when it is complete.

    Raises:
      UserError: the download failed, or its SHA-256 is not the public one.
    """
    path = Path(os.path.expanduser(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=30) as source, replacing(path) as tmp:
            with open(tmp, "wb") as file:
                while (block := source.read(1 << 20)) and file.tell() < MAX_BYTES:
                    file.write(block)
            _checked_hash(tmp, verify=True, name=url)
        return path
    except (OSError, urllib.error.URLError) as error:
        raise UserError(f"cannot fetch {url} to {path}: {error}") from error


def features(inception: Inception, images: np.ndarray, resize: str = "tensorflow") -> np.ndarray:
    """float32 [N, 2048] from uint8 images [N, H, W, 1 or 3]: the spatial mean of the last block's output.

    Args:
      resize: how images are resized to 299x299, a key of `RESIZES`. "tensorflow" is that of the published FID.
    """
    size = image_ops.checked(images).shape[1:3]
    return image_ops.in_batches(forward(inception, size, resize), images, BATCH_SIZE)


def forward(inception: Inception, size: tuple[int, int], resize: str = "tensorflow") -> Callable[[Array], Array]:
    """`features` of a batch of images of this (height, width) and of any type, as a function that JAX transforms."""
    matrix, clip = lookup(RESIZES, resize, "resize")
    rows, columns = (matrix(length, SIZE) for length in size)
    return functools.partial(_forward, inception.variables, rows=rows, columns=columns, clip=clip)


def probabilities(inception: Inception, features: np.ndarray) -> np.ndarray:
    """float32 [N, 1008]: softmax(features [N, 2048] @ classes [2048, 1008]), for the Inception score.

    The bias of the last layer is omitted, as in the code of Salimans et al. 2016 (arXiv:1606.03498) and in
    torch-fidelity (`logits_unbiased`): the published scores are computed without it.
    """
    return image_ops.in_batches(functools.partial(_probabilities, inception.classes), features, 1024)


RESIZES = {
    "tensorflow": (image_ops.bilinear_2015, False),
    "clean": (image_ops.bicubic, True),
}
"""name: (function that returns the matrix of the resizing, whether to clip to 0..255 since bicubic filters overshoot).

"clean" is antialiased: Parmar, Zhang and Zhu 2022, arXiv:2104.11222 (clean-FID). It is not comparable with the
published FID.
"""


def variables_of(tensors: Mapping[str, np.ndarray], source: Any = "weights") -> tuple[dict, np.ndarray]:
    """(variables of `Network`, `Inception.classes`) from tensors named as in the public file.

    Batch normalization is folded into the convolutions: with s = gamma / sqrt(variance + 0.001),
    s (W * x - mean) + beta = (s W) * x + (beta - s mean).

    Args:
      source: the name of the file, for messages.

    Raises:
      UserError: a tensor that is missing or has another shape.
    """

    def tensor(name, shape):
        found = tensors[name].shape if name in tensors else "missing"
        if found != shape:
            raise UserError(f"{source}: tensor {name} is {found}; expected: {shape}")
        return np.asarray(tensors[name], np.float64)

    def fold(name, expected):
        height, width, inputs, outputs = expected["kernel"].shape
        gamma, beta, mean, variance = (
            tensor(f"{name}.bn.{part}", (outputs,)) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + EPSILON)
        kernel = tensor(f"{name}.conv.weight", (outputs, inputs, height, width)).transpose(2, 3, 1, 0) * scale
        return {"kernel": kernel.astype(np.float32), "bias": (beta - scale * mean).astype(np.float32)}

    params = {name: fold(name, expected) for name, expected in shapes()["params"].items()}
    classes = tensor("fc.weight", (1008, FEATURES)).T.astype(np.float32)
    return jax.device_put({"params": params}), classes


@functools.cache
def shapes() -> dict:
    """The shapes of `Network`'s variables."""
    return jax.eval_shape(Network().init, jax.random.key(0), jnp.zeros((1, 75, 75, 3)))


@functools.partial(jax.jit, static_argnames="clip")
def _forward(variables, images, *, rows, columns, clip):
    x = image_ops.resized(images, rows, columns)
    if clip:
        x = jnp.clip(x, 0, 255)
    x = jnp.broadcast_to(x, (*x.shape[:3], 3))  # gray to RGB
    return Network().apply(variables, (x - 128) / 128)


@jax.jit
def _probabilities(classes, features):
    return jax.nn.softmax(jnp.matmul(features, classes, precision=PRECISION))


def _checked_hash(path: Path, verify: bool, name: str | None = None) -> str:
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "not a regular file")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"no Inception weights at {path} ({error.strerror}): set {ENVIRONMENT_VARIABLE} to a copy of {URL}"
        ) from error
    if verify and not digest.startswith(SHA256_START):
        raise UserError(f"{name or path} has the SHA-256 {digest[:8]}...; expected: {SHA256_START}..., that of {URL}")
    return digest[:16]
