"""A small classifier, trained here on the data at hand: features for evaluation without a download. Part of a leaf.

Its Frechet distances compare runs on one dataset with one another, and with nothing published. It learns the training
split once, in about a minute on two CPU cores, and is kept on disk; it also counts the modes of StackedMNIST.
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
from gan.metrics import images as pixels

logger = logging.getLogger(__name__)

# Raised by one with every change of the network or of its training, so that no old file is taken for a new one.
RECIPE = 1
FEATURES = 128
SMALLEST, LARGEST = 8, 64
"""Pixels a side: smaller images are refused, and larger ones are shrunk first, so that cost has a bound."""
BATCH = 256
TRAINING_BATCH = 64
EPOCHS, STEPS = 3, (800, 2500)
"""About so many passes over the training split, within so many steps."""
OPTIMIZER = optax.scale_by_adam()
LEARNING_RATE = 3e-3
SHIFT = 2
"""The most pixels by which a training image is moved, each way; an eighth of a small image's side if that is less."""

# The same features on every platform, to float32's rounding.
PRECISION = jax.lax.Precision.HIGHEST


class Network(nn.Module):
    """float32 [N, H, W, C] in [-1, 1] to (features [N, 128], logits [N, num_classes])."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        for width in (32, 64, 128):
            stride = 2 if min(x.shape[1:3]) > 4 else 1  # 8x8 images keep some places
            x = nn.relu(nn.Conv(width, (3, 3), stride, precision=PRECISION)(x))
        # All places, not their mean: MNIST, 1,500 steps: 99.0% against 97.3% (which had layer normalization, too).
        features = nn.relu(nn.Dense(FEATURES, precision=PRECISION)(x.reshape(len(x), -1)))
        return features, nn.Dense(self.num_classes, precision=PRECISION, name="classes")(features)


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network and how good it is."""

    variables: Mapping[str, Any]
    test_accuracy: float
    """The share of the test images that it labels rightly; 0..1."""

    @functools.cached_property
    def identity(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the weights: features compare only where these are equal."""
        digest = hashlib.sha256(str(RECIPE).encode())
        for name, leaf in sorted(_flat(self.variables).items()):
            digest.update(name.encode() + np.asarray(leaf).tobytes())
        return digest.hexdigest()[:16]


def load_or_train(
    cache_dir: str | os.PathLike, fingerprint: str, images: np.ndarray, labels: np.ndarray, num_classes: int,
    test_images: np.ndarray, test_labels: np.ndarray, seed: int = 0
) -> Classifier:  # fmt: skip
    """The classifier of a dataset: from `cache_dir` where it was trained before, else trained now and kept there.

    Args:
      cache_dir: a folder; made where it is missing. If it cannot be written, that costs a warning.
      fingerprint: of the dataset. The file's name holds it with the image's shape, the seed and this code's version.
      images, labels, num_classes, seed: see `train`.
      test_images, test_labels: what `test_accuracy` is measured on.
    """
    what = (fingerprint, RECIPE, images.shape[1:], num_classes, seed)
    path = Path(cache_dir) / f"classifier-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}.npz"
    shapes = {name: leaf.shape for name, leaf in _flat(_shapes(images.shape[1:], num_classes)).items()}
    kept = _read(path, shapes)
    if kept is not None:
        return kept
    variables = train(images, labels, num_classes, seed)
    classifier = Classifier(variables, accuracy(variables, test_images, test_labels))
    logger.info("The classifier labels %.2f%% of the test images rightly.", 100 * classifier.test_accuracy)
    _write(path, classifier)
    return classifier


def train(images: np.ndarray, labels: np.ndarray, num_classes: int, seed: int = 0) -> dict:
    """The variables of a `Network` that has learned uint8 images [N, H, W, 1 or 3] with labels [N] in 0..num_classes-1.

    Cross-entropy by Adam, the rate rising through the first steps and falling as a cosine; images are moved by a few
    pixels, their edges repeated. All is drawn from `seed`. Images may be memory-mapped: they are read batch by batch.

    Raises `UserError` for a single class, a label outside, or images smaller than 8x8.
    """
    _check(images, labels, num_classes)
    draws = np.random.default_rng(seed)
    steps = int(np.clip(EPOCHS * len(images) // TRAINING_BATCH, *STEPS))
    passes = -(-steps * TRAINING_BATCH // len(images))
    order = np.concatenate([draws.permutation(len(images)) for _ in range(passes)])
    largest_shift = min(SHIFT, min(images.shape[1:3]) // 8)
    variables = _drawn(draws, images.shape[1:], num_classes)
    opt_state = jax.jit(OPTIMIZER.init)(variables)
    for number in range(steps):
        rows = order[number * TRAINING_BATCH : (number + 1) * TRAINING_BATCH]
        shift = draws.integers(-largest_shift, largest_shift, (len(rows), 2), endpoint=True)
        done = (number + 1) / steps
        rate = np.float32(LEARNING_RATE * min(10 * done, (1 + math.cos(math.pi * done)) / 2))
        variables, opt_state = _step(variables, opt_state, images[rows], labels[rows], shift, rate)
    return variables


def accuracy(variables: Mapping, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of uint8 images [N, H, W, C] whose most probable class is their label [N]; 0..1."""
    return float(np.mean(classes(variables, images) == labels))


def features(variables: Mapping, images: np.ndarray) -> np.ndarray:
    """float32 [N, 128] of uint8 images [N, H, W, C]: the layer before the classes."""
    return pixels.in_batches(functools.partial(_features, variables), pixels.checked(images), BATCH)


def probabilities(variables: Mapping, features: np.ndarray) -> np.ndarray:
    """float32 [N, num_classes] of features [N, 128]: what a softmax over the classes gives."""
    return pixels.in_batches(functools.partial(_probabilities, variables["params"]["classes"]), features, 4 * BATCH)


def classes(variables: Mapping, images: np.ndarray) -> np.ndarray:
    """int [N]: the most probable class of uint8 images [N, H, W, C]."""
    return np.argmax(probabilities(variables, features(variables, images)), axis=-1)


def _check(images, labels, num_classes):
    pixels.checked(images)
    if min(images.shape[1:3]) < SMALLEST:
        raise UserError(f"images of {images.shape[1]}x{images.shape[2]} are too small for the classifier: 8x8 at least")
    if num_classes < 2:
        raise UserError(f"num_classes={num_classes}: a classifier needs a dataset with two classes at least")
    if labels.shape != images.shape[:1] or labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(f"labels {list(labels.shape)} of {len(images)} images are not all in 0..{num_classes - 1}")


def _scaled(batch):
    """float32 in [-1, 1], shrunk where the shorter side is above `LARGEST`."""
    height, width = batch.shape[1:3]
    shrink = LARGEST / min(height, width)
    if shrink < 1:
        rows, columns = (pixels.bicubic(size, round(shrink * size)) for size in (height, width))
        batch = pixels.resized(batch, rows, columns)
    return jnp.asarray(batch, jnp.float32) / 127.5 - 1


def _moved(batch, shift):
    """Images [B, H, W, C] moved by shift [B, 2] pixels down and right, their edges repeated."""
    count, height, width, _ = batch.shape
    rows = jnp.clip(jnp.arange(height)[None] - shift[:, :1], 0, height - 1)
    columns = jnp.clip(jnp.arange(width)[None] - shift[:, 1:], 0, width - 1)
    return batch[jnp.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _drawn(draws, image_shape, num_classes):
    """Initial variables: kernels uniform within sqrt(6 / fan in), biases 0. He et al. 2015, arXiv:1502.01852.

    Drawn in numpy: compiling the draws would take as long as learning the digits.
    """

    def leaf(shape):
        limit = math.sqrt(6 / math.prod(shape[:-1])) if len(shape) > 1 else 0.0
        return draws.uniform(-limit, limit, shape).astype(np.float32)

    return jax.tree.map(lambda expected: leaf(expected.shape), _shapes(image_shape, num_classes))


def _shapes(image_shape, num_classes):
    """The variables of a network for these images, as shapes."""
    image = jax.ShapeDtypeStruct((1, *image_shape), np.uint8)
    return jax.eval_shape(lambda image: Network(num_classes).init(jax.random.key(0), _scaled(image)), image)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _step(variables, opt_state, images, labels, shift, rate):
    def loss(variables):
        _, logits = _apply(variables, _moved(images, shift))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    updates, opt_state = OPTIMIZER.update(jax.grad(loss)(variables), opt_state)
    return jax.tree.map(lambda weight, update: weight - rate * update, variables, updates), opt_state


def _apply(variables, batch):
    return Network(variables["params"]["classes"]["bias"].size).apply(variables, _scaled(batch))


@jax.jit
def _features(variables, batch):
    return _apply(variables, batch)[0]


@jax.jit
def _probabilities(layer, features):
    return jax.nn.softmax(jnp.matmul(features, layer["kernel"], precision=PRECISION) + layer["bias"][None])


def _flat(variables):
    return flax.traverse_util.flatten_dict(variables, sep="/")


def _read(path, shapes):
    """The classifier in a file, or None if there is none or anything is amiss (zip checks a CRC-32 of every array).

    `shapes` are those of its variables, {name: shape}.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            kept = dict(arrays)
        test_accuracy = float(kept.pop("test_accuracy"))
        if {name: array.shape for name, array in kept.items()} != shapes:
            raise ValueError("other arrays than it should have")
        return Classifier(jax.device_put(flax.traverse_util.unflatten_dict(kept, sep="/")), test_accuracy)
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning("The classifier in %s is damaged (%s) and is trained again.", path, reason[:200])
        return None


def _write(path, classifier):
    """Writes all or nothing; a folder that cannot be written costs a warning."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as tmp, open(tmp, "wb") as file:
            np.savez(file, test_accuracy=classifier.test_accuracy, **_flat(classifier.variables))
    except OSError as error:
        logger.warning("The classifier could not be kept in %s (%s): it is trained again next time.", path, error)
