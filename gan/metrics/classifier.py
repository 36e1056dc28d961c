"""A small classifier that is trained on the run's own dataset: features for evaluation without a download.

Its Frechet distances are comparable between runs on the same dataset, but not with published values. It is trained once
on the training split, in about a minute on two CPU cores, and saved on disk. It also counts the modes of StackedMNIST.
"""

import dataclasses
import functools
import hashlib
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from gan.errors import UserError
from gan.io.atomic import replacing
from gan.io.progress import progress
from gan.metrics import images as image_ops

logger = logging.getLogger(__name__)

VERSION = 1
"""Part of the file name and of the identity. Increase it with every change of the network or of its training."""
FEATURES = 128
MIN_SIDE, MAX_SIDE = 8, 64
"""Pixels of the shorter side: smaller images are rejected, larger ones are downsampled, which bounds the cost."""
BATCH_SIZE = 256
TRAINING_BATCH_SIZE = 64
EPOCHS, STEPS = 3, (800, 2500)
"""The number of passes over the training split; the smallest and largest number of steps."""
OPTIMIZER = optax.scale_by_adam()
LEARNING_RATE = 3e-3
MAX_SHIFT = 2
"""Pixels by which a training image is shifted at most, in each direction; at most 1/8 of the side of a small image."""

PRECISION = jax.lax.Precision.HIGHEST
"""The same features on every platform, up to float32 rounding."""


class Network(nn.Module):
    """float32 [N, H, W, C] in [-1, 1] to (features [N, 128], logits [N, num_classes])."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        for width in (32, 64, 128):
            stride = 2 if min(x.shape[1:3]) > 4 else 1  # 8x8 images keep some resolution
            x = nn.relu(nn.Conv(width, (3, 3), stride, precision=PRECISION)(x))
        # All positions, not their mean: 99.0% against 97.3% on MNIST after 1,500 steps (the latter with layer norm).
        features = nn.relu(nn.Dense(FEATURES, precision=PRECISION)(x.reshape(len(x), -1)))
        return features, nn.Dense(self.num_classes, precision=PRECISION, name="classes")(features)


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network and its accuracy."""

    variables: Mapping[str, Any]
    test_accuracy: float
    """The share of the test images that are classified correctly; 0..1."""

    @functools.cached_property
    def identity(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the weights. Features are comparable only if they are equal."""
        digest = hashlib.sha256(str(VERSION).encode())
        for name, leaf in sorted(_flat(self.variables).items()):
            digest.update(name.encode() + np.asarray(leaf).tobytes())
        return digest.hexdigest()[:16]


def load_or_train(
    cache_dir: str | os.PathLike, fingerprint: str, images: np.ndarray, labels: np.ndarray, num_classes: int,
    test_images: np.ndarray, test_labels: np.ndarray, seed: int = 0
) -> Classifier:  # fmt: skip
    """The classifier of a dataset, from `cache_dir` if it was trained before; otherwise it is trained and saved there.

    Args:
      cache_dir: a folder; created if missing. If it cannot be written, a warning is logged.
      fingerprint: identifies the dataset. The file name is a hash of it, the image shape, the seed and VERSION.
      images, labels, num_classes, seed: see `train`.
      test_images, test_labels: for `test_accuracy`.
    """
    identity = (fingerprint, VERSION, images.shape[1:], num_classes, seed)
    path = Path(cache_dir) / f"classifier-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}.npz"
    shapes = {name: leaf.shape for name, leaf in _flat(_shapes(images.shape[1:], num_classes)).items()}
    saved = _read(path, shapes)
    if saved is not None:
        return saved
    variables = train(images, labels, num_classes, seed)
    classifier = Classifier(variables, accuracy(variables, test_images, test_labels))
    logger.info("The classifier has a test accuracy of %.2f%%.", 100 * classifier.test_accuracy)
    _write(path, classifier)
    return classifier


def train(images: np.ndarray, labels: np.ndarray, num_classes: int, seed: int = 0) -> dict:
    """Trains a `Network` on uint8 images [N, H, W, 1 or 3] with labels [N] in 0..num_classes-1; returns its variables.

    Cross-entropy is minimized with Adam; the learning rate warms up and then decays as a cosine. Images are shifted by
    a few pixels, with edge padding. All randomness comes from `seed`. Images may be memory-mapped: they are read batch
    by batch.

    Raises:
      UserError: fewer than two classes, a label out of range, or images smaller than 8x8.
    """
    _check(images, labels, num_classes)
    rng = np.random.default_rng(seed)
    steps = int(np.clip(EPOCHS * len(images) // TRAINING_BATCH_SIZE, *STEPS))
    passes = -(-steps * TRAINING_BATCH_SIZE // len(images))
    order = np.concatenate([rng.permutation(len(images)) for _ in range(passes)])
    max_shift = min(MAX_SHIFT, min(images.shape[1:3]) // 8)
    variables = _initial_variables(rng, images.shape[1:], num_classes)
    opt_state = jax.jit(OPTIMIZER.init)(variables)
    logger.info("Training a classifier on %s images, only once: features for the evaluation.", f"{len(images):,}")
    for step in progress(range(steps), total=steps, what="Training the classifier"):
        rows = order[step * TRAINING_BATCH_SIZE : (step + 1) * TRAINING_BATCH_SIZE]
        shift = rng.integers(-max_shift, max_shift, (len(rows), 2), endpoint=True)
        share = (step + 1) / steps
        rate = np.float32(LEARNING_RATE * min(10 * share, (1 + math.cos(math.pi * share)) / 2))
        variables, opt_state = _step(variables, opt_state, images[rows], labels[rows], shift, rate)
    return variables


def accuracy(variables: Mapping, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of uint8 images [N, H, W, C] whose most probable class equals their label [N]; 0..1."""
    return float(np.mean(classes(variables, images) == labels))


def features(variables: Mapping, images: np.ndarray) -> np.ndarray:
    """float32 [N, 128] from uint8 images [N, H, W, C]: the output of the layer before the classes."""
    return image_ops.in_batches(functools.partial(forward, variables), image_ops.checked(images), BATCH_SIZE)


def probabilities(variables: Mapping, features: np.ndarray) -> np.ndarray:
    """float32 [N, num_classes] from features [N, 128]: the softmax over the classes."""
    return image_ops.in_batches(
        functools.partial(_probabilities, variables["params"]["classes"]), features, 4 * BATCH_SIZE
    )


def classes(variables: Mapping, images: np.ndarray) -> np.ndarray:
    """int [N]: the most probable class of uint8 images [N, H, W, C]."""
    return np.argmax(probabilities(variables, features(variables, images)), axis=-1)


def _check(images, labels, num_classes):
    image_ops.checked(images)
    if min(images.shape[1:3]) < MIN_SIDE:
        raise UserError(
            f"images of {images.shape[1]}x{images.shape[2]} are too small for the classifier; expected: at least 8x8"
        )
    if num_classes < 2:
        raise UserError(f"num_classes={num_classes}: a classifier needs at least two classes")
    if labels.shape != images.shape[:1] or labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(f"labels {list(labels.shape)} of {len(images)} images are not all in 0..{num_classes - 1}")


def _preprocess(batch):
    """float32 in [-1, 1], downsampled if the shorter side is larger than `MAX_SIDE`."""
    height, width = batch.shape[1:3]
    scale = MAX_SIDE / min(height, width)
    if scale < 1:
        rows, columns = (image_ops.bicubic(size, round(scale * size)) for size in (height, width))
        batch = image_ops.resized(batch, rows, columns)
    return jnp.asarray(batch, jnp.float32) / 127.5 - 1


def _shifted(batch, shift):
    """Images [B, H, W, C] shifted by shift [B, 2] pixels down and right, with edge padding."""
    count, height, width, _ = batch.shape
    rows = jnp.clip(jnp.arange(height)[None] - shift[:, :1], 0, height - 1)
    columns = jnp.clip(jnp.arange(width)[None] - shift[:, 1:], 0, width - 1)
    return batch[jnp.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _initial_variables(rng, image_shape, num_classes):
    """Kernels uniform in [-b, b], b = sqrt(6 / fan_in), biases 0 (He et al. 2015, arXiv:1502.01852).

    NumPy draws them: compiling the initialization would take as long as training on the digits.
    """

    def draw(shape):
        limit = math.sqrt(6 / math.prod(shape[:-1])) if len(shape) > 1 else 0.0
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    return jax.tree.map(lambda expected: draw(expected.shape), _shapes(image_shape, num_classes))


def _shapes(image_shape, num_classes):
    """The shapes of the variables of a network for these images."""
    image = jax.ShapeDtypeStruct((1, *image_shape), np.uint8)
    return jax.eval_shape(lambda image: Network(num_classes).init(jax.random.key(0), _preprocess(image)), image)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _step(variables, opt_state, images, labels, shift, rate):
    def loss(variables):
        _, logits = _apply(variables, _shifted(images, shift))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    updates, opt_state = OPTIMIZER.update(jax.grad(loss)(variables), opt_state)
    return jax.tree.map(lambda weight, update: weight - rate * update, variables, updates), opt_state


def _apply(variables, batch):
    return Network(variables["params"]["classes"]["bias"].size).apply(variables, _preprocess(batch))


@jax.jit
def forward(variables: Mapping, batch: Array) -> Array:
    """`features` of a batch of any type in 0..255, as a function that JAX transforms."""
    return _apply(variables, batch)[0]


@jax.jit
def _probabilities(layer, features):
    return jax.nn.softmax(jnp.matmul(features, layer["kernel"], precision=PRECISION) + layer["bias"][None])


def _flat(variables):
    return flax.traverse_util.flatten_dict(variables, sep="/")


def _read(path, shapes):
    """The classifier in a file, or None if it is missing or corrupted (zip checks a CRC-32 of every array).

    Args:
      shapes: {name: shape} of its variables.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            saved = dict(arrays)
        test_accuracy = float(saved.pop("test_accuracy"))
        if {name: array.shape for name, array in saved.items()} != shapes:
            raise ValueError("unexpected arrays")
        return Classifier(jax.device_put(flax.traverse_util.unflatten_dict(saved, sep="/")), test_accuracy)
    except FileNotFoundError:
        return None
    except Exception as error:  # NumPy and zipfile raise many types for a corrupted file
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning("The classifier in %s is damaged (%s) and is trained again.", path, reason[:200])
        return None


def _write(path, classifier):
    """Writes the file atomically; logs a warning if the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as tmp, open(tmp, "wb") as file:
            np.savez(file, test_accuracy=classifier.test_accuracy, **_flat(classifier.variables))
    except OSError as error:
        logger.warning("The classifier could not be saved in %s (%s): it is trained again next time.", path, error)
