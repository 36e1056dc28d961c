"""The DINOv2 networks in whose features FD-DINOv2 is computed: ViT-S/14, ViT-B/14 and ViT-L/14 without registers.

Oquab et al. 2023 (arXiv:2304.07193) trained them without labels; Stein et al. 2023 (arXiv:2306.04675) found that
Frechet distances in their features agree better with people than those of Inception. The features are the class token
after the last normalization, of images of 224x224 pixels, in float32, as in the code of both papers
(facebookresearch/dinov2 and layer6ai-labs/dgm-eval). The weights are not distributed with this project: `load` reads
the public files, or a safetensors file.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.errors import UserError, lookup
from gan.io import weights
from gan.metrics import images as image_ops
from gan.metrics.torch_file import read_tensors

URL = "https://dl.fbaipublicfiles.com/dinov2/{0}/{0}_pretrain.pth"
"""Of the public file of a variant."""
ENVIRONMENT_VARIABLE = "GAN_DINOV2"
SIZE = 224
PATCH = 14
SIDE = SIZE // PATCH
"""Patches in a row of an image."""
TRAINED_SIDE = 37
"""Patches in a row of the images of 518x518 pixels for which the positions were trained."""
OFFSET = 0.1
"""Added to the side to which the public code interpolates the positions (`interpolate_offset`)."""
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 1, 1, 3)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 1, 1, 3)
"""Both of ImageNet's pixels in [0, 1]: red, green and blue."""
BATCH_SIZE = 32
EPSILON = 1e-6
"""Of the layer normalization."""

PRECISION = jax.lax.Precision.HIGHEST
"""Full float32, also on GPUs (instead of TF32) and TPUs (bfloat16), as for Inception."""


class Variant(NamedTuple):
    """The size of a network, and the SHA-256 of its public file."""

    width: int
    depth: int
    heads: int
    sha256: str


VARIANTS = {
    "dinov2_vits14": Variant(384, 12, 6, "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"),
    "dinov2_vitb14": Variant(768, 12, 12, "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"),
    "dinov2_vitl14": Variant(1024, 24, 16, "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"),
}
"""By the names of the public code."""

HUGGING_FACE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "blocks.": "encoder.layer.",
    "attn.proj": "attention.output.dense",
    "attn.": "attention.attention.",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "norm.": "layernorm.",
}
"""Parts of the names in the public file, and in `model.safetensors` of facebook/dinov2-small, -base and -large."""


class Network(nn.Module):
    """float32 [N, 224, 224, 3], normalized, to the class token after the last normalization [N, width].

    A vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) with a learned scale of every branch (Touvron et
    al. 2021, arXiv:2103.17239). Layers have the names of the public file.
    """

    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        sides = (PATCH, PATCH)
        patches = nn.Conv(self.width, sides, sides, "VALID", precision=PRECISION, name="patch_embed.proj")
        x = patches(x).reshape(len(x), SIDE * SIDE, self.width)
        first = self.param("cls_token", nn.initializers.zeros, (1, 1, self.width))
        places = self.param("pos_embed", nn.initializers.zeros, (1, 1 + TRAINED_SIDE**2, self.width))
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, self.width)), x], axis=1) + _interpolated(places)
        for i in range(self.depth):
            scales = [
                self.param(f"blocks.{i}.{ls}.gamma", nn.initializers.ones, (self.width,)) for ls in ("ls1", "ls2")
            ]
            x += scales[0][None, None] * _attention(_norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn", self.heads)
            hidden = nn.gelu(_dense(_norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1", 4 * self.width), False)
            x += scales[1][None, None] * _dense(hidden, f"blocks.{i}.mlp.fc2", self.width)
        return _norm(x[:, 0], "norm")


# The functions below are called inside `Network.__call__`, so that their layers belong to that module.


def _dense(x, name, width):
    return nn.Dense(width, precision=PRECISION, name=name)(x)


def _norm(x, name):
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, name=name)(x)


def _attention(x, name, heads):
    count, tokens, width = x.shape
    joint = _dense(x, f"{name}.qkv", 3 * width).reshape(count, tokens, 3, heads, width // heads)
    query, key, value = jnp.moveaxis(joint, 2, 0)
    scores = jnp.einsum("nqhd,nkhd->nhqk", query / np.sqrt(width // heads), key, precision=PRECISION)
    mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), value, precision=PRECISION)
    return _dense(mixed.reshape(x.shape), f"{name}.proj", width)


def _interpolated(places):
    """[1, 1 + 37^2, width], the class token's place first, to [1, 1 + 16^2, width]."""
    grid = places[0, 1:].reshape(TRAINED_SIDE, TRAINED_SIDE, -1)
    grid = jnp.einsum("ai,ijd,bj->abd", interpolation(), grid, interpolation(), precision=PRECISION)
    return jnp.concatenate([places[:, :1], grid.reshape(1, SIDE * SIDE, -1)], axis=1)


def interpolation() -> np.ndarray:
    """float32 [16, 37]: the matrix by which the public code interpolates a row or column of positions.

    Output i is interpolated at (i + 1/2) 37 / 16.1 - 1/2 from four neighbors with Keys' cubic kernel, a = -3/4, without
    antialiasing; outside, the border is repeated. It is PyTorch's `interpolate` with the scale factor 16.1 / 37.
    """
    position = (np.arange(SIDE) + 0.5) * (TRAINED_SIDE / (SIDE + OFFSET)) - 0.5
    lower = np.floor(position).astype(int)
    matrix = np.zeros((SIDE, TRAINED_SIDE))
    for neighbor in (lower - 1, lower, lower + 1, lower + 2):
        distance = np.abs(position - neighbor)
        near = (1.25 * distance - 2.25) * distance**2 + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        matrix[np.arange(SIDE), np.clip(neighbor, 0, TRAINED_SIDE - 1)] += np.where(distance < 1, near, far)
    return matrix.astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class DINOv2:
    """A network's weights, the argument of `features`."""

    name: str
    """A key of `VARIANTS`."""
    variables: Mapping[str, Any]
    identity: str
    """16 hexadecimal digits of a SHA-256 of the weights. The same weights have it in every kind of file."""
    protocol: str
    """What determines the features, in a sentence."""


def load(name: str, path: str | os.PathLike = "", *, verify: bool = True) -> DINOv2:
    """The weights of a variant in the file `path`, by default the path in the environment variable GAN_DINOV2.

    A file whose name ends with `.safetensors` has the tensors of the public file, under its names or those of
    `HUGGING_FACE`, and is not compared with it. Any other file is one of PyTorch's.

    Args:
      name: a key of `VARIANTS`.
      verify: whether a PyTorch file with another SHA-256 than the public one is rejected.

    Raises:
      UserError: an unknown name, no path, no file, or a file with another content.
    """
    lookup(VARIANTS, name, "DINOv2 variant")
    path = path or os.environ.get(ENVIRONMENT_VARIABLE, "")
    if not path:
        raise UserError(f"no DINOv2 weights: {_remedy(name)}")
    path = Path(os.path.expanduser(path))  # which leaves the ~NAME of an unknown user
    if not path.is_file():
        reason = "not a regular file" if path.exists() else "no such file"
        raise UserError(f"no DINOv2 weights at {path} ({reason}): {_remedy(name)}")
    if path.suffix == ".safetensors":
        is_public, tensors = False, weights.read(path)
    else:
        is_public, tensors = _is_public(path, name, verify), read_tensors(path)
    variables = variables_of(tensors, name, path)
    origin = "the public file" if is_public else f"{path.name}, not compared with the public file"
    protocol = (
        f"{name} in float32, weights of {origin}; images resized to {SIZE}x{SIZE} as PIL does (bicubic, antialiased, 8 "
        f"bits) and normalized with ImageNet's mean and deviation; class token after the last normalization"
    )
    return DINOv2(name, jax.device_put(variables), _digest(variables), protocol)


def _remedy(name):
    return f"set {ENVIRONMENT_VARIABLE} to a copy of {URL.format(name)}, or to a safetensors file of these weights"


def _is_public(path: Path, name: str, verify: bool) -> bool:
    """Whether a file is the public one. Raises `UserError` where it is not and `verify` is set."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    expected = VARIANTS[name].sha256
    if verify and digest != expected:
        other = next((f" (that of {other})" for other, variant in VARIANTS.items() if variant.sha256 == digest), "")
        raise UserError(
            f"{path} has the SHA-256 {digest[:8]}...{other}; expected: {expected[:8]}..., that of {URL.format(name)}"
        )
    return digest == expected


def features(network: DINOv2, images: np.ndarray) -> np.ndarray:
    """float32 [N, width] from uint8 images [N, H, W, 1 or 3]: the class token after the last normalization."""
    size = image_ops.checked(images).shape[1:3]
    return image_ops.in_batches(forward(network, size), images, BATCH_SIZE)


def forward(network: DINOv2, size: tuple[int, int]) -> Callable[[Array], Array]:
    """`features` of a batch of images of this (height, width) and of any type, as a function that JAX transforms."""
    rows, columns = (image_ops.bicubic(length, SIZE) for length in size)
    return functools.partial(_forward, network.variables, name=network.name, rows=rows, columns=columns)


def prepared(images: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """The network's input float32 [N, 224, 224, 3] from images [N, H, W, 1 or 3] in 0..255, of any type.

    Args:
      rows: `images.bicubic(H, 224)`.
      columns: `images.bicubic(W, 224)`.

    PIL changes the width first, and rounds to 8 bits after each direction. Its weights are multiples of 2^-22, so two
    values in 10,000, or fewer, are rounded to the neighboring level here. The gradient is that without rounding.
    """
    x = jnp.asarray(images, jnp.float32)
    x = _to_8_bits(jnp.einsum("nijc,wj->niwc", x, columns, precision=PRECISION))
    x = _to_8_bits(jnp.einsum("hi,niwc->nhwc", rows, x, precision=PRECISION))
    return (x / 255 - MEAN) / DEVIATION  # gray to RGB


def variables_of(tensors: Mapping[str, np.ndarray], name: str, source: Any = "weights") -> dict:
    """The variables of `Network`, in NumPy, from tensors named as in the public file or as in `HUGGING_FACE`.

    Args:
      name: a key of `VARIANTS`.
      source: the name of the file, for messages.

    Raises:
      UserError: a tensor that is missing, has another shape or is not of this variant, such as those of registers.
    """
    is_renamed = HUGGING_FACE["cls_token"] in tensors
    width = tensors.get(HUGGING_FACE["cls_token"] if is_renamed else "cls_token", np.zeros(0)).shape[-1]
    fits = next((other for other, variant in VARIANTS.items() if variant.width == width), name)
    if fits != name:
        raise UserError(f"{source} has the weights of {fits}; expected: those of {name}")
    unused = {key for key in tensors if not key.endswith("mask_token")}  # which is for training alone

    def tensor(public_name, shape):
        names = _hugging_face_names(public_name) if is_renamed else [public_name]
        shape = (shape[0] // len(names), *shape[1:])
        for stored in names:
            found = tensors[stored].shape if stored in tensors else "missing"
            if found != shape:
                raise UserError(f"{source}: tensor {stored} is {found}; expected: {shape}, for {name}")
        unused.difference_update(names)
        return np.concatenate([np.asarray(tensors[stored], np.float32) for stored in names])

    def variable(path, shape):
        layer, _, leaf = path.partition("/")
        if leaf != "kernel":  # a bias, a scale, or a parameter without a layer
            return tensor(layer + {"": "", "bias": ".bias", "scale": ".weight"}[leaf], shape)
        *window, inputs, outputs = shape
        weight = tensor(f"{layer}.weight", (outputs, inputs, *window))
        return np.ascontiguousarray(weight.transpose(*range(2, weight.ndim), 1, 0))

    expected = shapes(name)
    leaves = [variable(path, leaf.shape) for path, leaf in weights.flat(expected["params"]).items()]
    if unused:
        raise UserError(f"{source}: tensor {min(unused)} is not of {name}")
    return jax.tree.unflatten(jax.tree.structure(expected), leaves)


def _hugging_face_names(name):
    """The names of a tensor there; queries, keys and values are three tensors."""
    for public, renamed in HUGGING_FACE.items():
        name = name.replace(public, renamed)
    return [name.replace("qkv", part) for part in ("query", "key", "value")] if "qkv" in name else [name]


def shapes(name: str) -> dict:
    """The shapes of a variant's variables."""
    return jax.eval_shape(_network(name).init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))


def _network(name):
    width, depth, heads, _ = VARIANTS[name]
    return Network(width, depth, heads)


@functools.partial(jax.jit, static_argnames="name")
def _forward(variables, images, *, name, rows, columns):
    return _network(name).apply(variables, prepared(images, rows, columns))


def _to_8_bits(x):
    rounded = jnp.clip(jnp.floor(x + 0.5), 0, 255)
    return jax.lax.stop_gradient(rounded) + (x - jax.lax.stop_gradient(x))


def _digest(variables):
    digest = hashlib.sha256()
    for path, leaf in weights.flat(variables).items():
        digest.update(path.encode())
        digest.update(leaf.data)
    return digest.hexdigest()[:16]
