"""Feature extractors by name. An extractor maps uint8 images to the features from which metrics are computed.

The Frechet distance, the kernel distance and the nearest-neighbor metrics need only features. Values that were computed
with two extractors are comparable only if the extractors have the same `identity`.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax import Array

from gan.config import specs
from gan.errors import UserError, lookup
from gan.metrics import classifier, dinov2, inception
from gan.metrics import images as image_ops
from gan.metrics.classifier import Classifier

BATCH_SIZE = 256


class Extractor(NamedTuple):
    """A feature extractor."""

    name: str
    identity: str
    """A hash of everything that determines the features: the weights and the resizing."""
    dimension: int
    features: Callable[[np.ndarray], np.ndarray]
    """uint8 [N, H, W, C] to float32 [N, dimension]."""
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None
    """Features [N, dimension] to class probabilities [N, K], without running the network again."""
    differentiable: Callable[[Array], Array] | None = None
    """The features of float images [N, H, W, C] in 0..255, to be transformed by JAX, where they are such a function."""
    is_cheap: bool = False
    """Whether features are computed faster than they are read from a cache."""
    protocol: str = ""
    """What determines the features, in a sentence for the record of an evaluation; "": the name says it."""


class DatasetInfo(NamedTuple):
    """What an extractor may need to know about the dataset."""

    image_shape: tuple[int, int, int]
    classifier: Callable[[], Classifier] | None = None
    """Returns the dataset's classifier, which is trained at the first call; None: the dataset has no labels."""
    is_stacked: bool = False
    """Whether each channel is a gray image of its own for the classifier: StackedMNIST."""


def inception_extractor(info: DatasetInfo, resize: str = "tensorflow", path: str | None = None) -> Extractor:
    """The public Inception network with the weights of `inception.load(path)`: comparable with published values.

    Args:
      resize: one of `inception.RESIZES`. Only "tensorflow" gives the published FID.
    """
    lookup(inception.RESIZES, resize, "resize")
    network = inception.load(path)
    return Extractor(
        "inception" if resize == "tensorflow" else f"inception-{resize}",
        _hash(network.identity, resize),
        inception.FEATURES,
        functools.partial(inception.features, network, resize=resize),
        functools.partial(inception.probabilities, network),
        inception.forward(network, info.image_shape[:2], resize),
    )


def dinov2_extractor(name: str, info: DatasetInfo, path: str = "") -> Extractor:
    """A DINOv2 network with the weights of `dinov2.load(name, path)`, for FD-DINOv2."""
    network = dinov2.load(name, path)
    return Extractor(
        name,
        _hash(name, network.identity),
        dinov2.VARIANTS[name].width,
        functools.partial(dinov2.features, network),
        differentiable=dinov2.forward(network, info.image_shape[:2]),
        protocol=network.protocol,
    )


def classifier_extractor(info: DatasetInfo) -> Extractor:
    """The dataset's own classifier: needs no download, and is comparable between runs on that dataset only."""
    if info.classifier is None:
        raise UserError(
            "extractor 'classifier' needs a dataset with labels; expected for one without: inception, pixels"
        )
    trained = info.classifier()
    if info.is_stacked:
        return Extractor(
            "classifier",
            _hash("stacked", trained.identity),
            info.image_shape[-1] * classifier.FEATURES,
            functools.partial(_features_of_channels, trained.variables),
            functools.partial(_probabilities_of_stacks, trained.variables),
        )
    return Extractor(
        "classifier",
        trained.identity,
        classifier.FEATURES,
        functools.partial(classifier.features, trained.variables),
        functools.partial(classifier.probabilities, trained.variables),
        functools.partial(classifier.forward, trained.variables),
    )


def pixel_extractor(info: DatasetInfo) -> Extractor:
    """The pixels scaled to [0, 1]: for small images, and for memorization, where learned features would hide copies."""
    dimension = int(np.prod(info.image_shape))
    return Extractor(
        "pixels",
        _hash("pixels", info.image_shape),
        dimension,
        _flat_pixels,
        differentiable=lambda images: images.reshape(len(images), -1) / 255,
        is_cheap=True,
    )


def custom(
    name: str,
    identity: str,
    function: Callable[[np.ndarray], np.ndarray],
    info: DatasetInfo,
    batch_size: int = BATCH_SIZE,
) -> Extractor:
    """An extractor from any `function` that maps uint8 [batch_size, H, W, C] to [batch_size, D].

    Args:
      identity: change it whenever `function` returns other features.

    Raises:
      UserError: `function` does not return one vector per image. D is determined by one trial call.
    """

    def features(images):
        return np.asarray(image_ops.in_batches(function, image_ops.checked(images), batch_size), np.float32)

    trial = features(np.zeros((1, *info.image_shape), np.uint8))
    if trial.ndim != 2:
        raise UserError(f"extractor {name!r} returns {list(trial.shape[1:])} per image; expected: [D] features")
    return Extractor(name, _hash(name, identity), trial.shape[1], features)


EXTRACTORS: dict[str, Callable[..., Extractor]] = {
    "inception": inception_extractor,
    "classifier": classifier_extractor,
    "pixels": pixel_extractor,
    **{name: functools.partial(dinov2_extractor, name) for name in dinov2.VARIANTS},
}


def extractor(text: str, info: DatasetInfo, field: str = "extractor") -> Extractor:
    """The extractor for a string such as "classifier" or "inception(resize='clean')" in the config field `field`.

    Raises:
      UserError: an unknown name or argument, missing weights, or a classifier for data without labels.
    """
    return specs.call({name: functools.partial(make, info) for name, make in EXTRACTORS.items()}, text, field)


def _features_of_channels(variables, images):
    """[N, H, W, C] to [N, C * FEATURES]: the features of the channels, concatenated."""
    channels = [classifier.features(variables, images[..., channel, None]) for channel in range(images.shape[-1])]
    return np.concatenate(channels, axis=-1)


def _probabilities_of_stacks(variables, features):
    """[N, C * FEATURES] to [N, K^C]: the channels' classes are independent; the first is the most significant digit."""
    joint = np.ones((len(features), 1), np.float32)
    for channel in np.split(features, features.shape[-1] // classifier.FEATURES, axis=-1):
        probabilities = classifier.probabilities(variables, np.ascontiguousarray(channel))
        joint = (joint[:, :, None] * probabilities[:, None, :]).reshape(len(features), -1)
    return joint


def _flat_pixels(images):
    return image_ops.checked(images).reshape(len(images), -1).astype(np.float32) / 255


def _hash(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
