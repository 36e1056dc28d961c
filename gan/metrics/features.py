"""Feature extractors by name: what an evaluation looks at images through. Part of a leaf.

An extractor turns uint8 images into features; Frechet, kernel and neighbor metrics take nothing else. Figures taken
through two extractors compare only where their `identity` is equal.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from gan.config import specs
from gan.errors import UserError, lookup
from gan.metrics import classifier, inception
from gan.metrics import images as pixels
from gan.metrics.classifier import Classifier

BATCH = 256


class Extractor(NamedTuple):
    """How images become features."""

    name: str
    identity: str
    """A hash of all that decides the features: weights, resizing."""
    dimension: int
    features: Callable[[np.ndarray], np.ndarray]
    """uint8 [N, H, W, C] to float32 [N, dimension]."""
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None
    """Features [N, dimension] to the probabilities of classes [N, K]: the network is not run a second time."""


class Setting(NamedTuple):
    """What an extractor may ask about the data at hand."""

    image_shape: tuple[int, int, int]
    classifier: Callable[[], Classifier] | None = None
    """Gives the dataset's classifier, trained when first asked for; None: the dataset has no labels."""
    is_stacked: bool = False
    """Whether each channel is a grey image of its own, which the classifier knows: StackedMNIST."""


def of_inception(setting: Setting, resize: str = "tensorflow", path: str | None = None) -> Extractor:
    """The public Inception network, by `inception.load(path)`: for figures that compare with published ones."""
    lookup(inception.RESIZES, resize, "resize")
    network = inception.load(path)
    return Extractor(
        "inception" if resize == "tensorflow" else f"inception-{resize}",
        _hash(network.identity, resize),
        inception.FEATURES,
        functools.partial(inception.features, network, resize=resize),
        functools.partial(inception.probabilities, network),
    )


def of_classifier(setting: Setting) -> Extractor:
    """The classifier of the dataset at hand: offline, for figures that compare runs on that dataset."""
    if setting.classifier is None:
        raise UserError("extractor 'classifier' needs a dataset with labels; expected without: inception, pixels")
    trained = setting.classifier()
    if setting.is_stacked:
        return Extractor(
            "classifier",
            _hash("stacked", trained.identity),
            setting.image_shape[-1] * classifier.FEATURES,
            functools.partial(_features_of_channels, trained.variables),
            functools.partial(_probabilities_of_stacks, trained.variables),
        )
    return Extractor(
        "classifier",
        trained.identity,
        classifier.FEATURES,
        functools.partial(classifier.features, trained.variables),
        functools.partial(classifier.probabilities, trained.variables),
    )


def of_pixels(setting: Setting) -> Extractor:
    """The pixels themselves, in [0, 1]: for small images and for memorization, where nothing may be learned."""
    return Extractor("pixels", _hash("pixels", setting.image_shape), int(np.prod(setting.image_shape)), _flattened)


def custom(
    name: str, identity: str, function: Callable[[np.ndarray], np.ndarray], setting: Setting, batch_size: int = BATCH
) -> Extractor:
    """An extractor of your own: any `function` from uint8 [B, H, W, C] to [B, D], called with `batch_size` images.

    `identity` is to change whenever `function` gives other features. Its dimension D is found by trying it once.
    """

    def extracted(images):
        return np.asarray(pixels.in_batches(function, pixels.checked(images), batch_size), np.float32)

    trial = extracted(np.zeros((1, *setting.image_shape), np.uint8))
    if trial.ndim != 2:
        raise UserError(f"extractor {name!r} gives {list(trial.shape[1:])} an image, and not [D] features")
    return Extractor(name, _hash(name, identity), trial.shape[1], extracted)


EXTRACTORS: Mapping[str, Callable[..., Extractor]] = {
    "inception": of_inception,
    "classifier": of_classifier,
    "pixels": of_pixels,
}


def extractor(text: str, setting: Setting, field: str = "extractor") -> Extractor:
    """The extractor that a string such as "classifier" or "inception(resize='clean')" names; `field` is its config's.

    Raises `UserError` for an unknown name or argument, missing Inception weights, and a classifier without labels.
    """
    return specs.call({name: functools.partial(make, setting) for name, make in EXTRACTORS.items()}, text, field)


def _features_of_channels(variables, images):
    """[N, H, W, C] to [N, C * FEATURES]: the features of each channel behind one another."""
    channels = [classifier.features(variables, images[..., channel, None]) for channel in range(images.shape[-1])]
    return np.concatenate(channels, axis=-1)


def _probabilities_of_stacks(variables, features):
    """[N, C * FEATURES] to [N, K^C]: the classes of the channels, drawn apart, the first one's the highest digit."""
    joint = np.ones((len(features), 1), np.float32)
    for channel in np.split(features, features.shape[-1] // classifier.FEATURES, axis=-1):
        own = classifier.probabilities(variables, np.ascontiguousarray(channel))
        joint = (joint[:, :, None] * own[:, None, :]).reshape(len(features), -1)
    return joint


def _flattened(images):
    return pixels.checked(images).reshape(len(images), -1).astype(np.float32) / 255


def _hash(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
