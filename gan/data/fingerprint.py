"""Fingerprints: a digest of what a split of a dataset contains, to detect that a run continues on other data."""

import hashlib
from collections.abc import Sequence
from typing import Any

from gan.data import pixels
from gan.data.records import undecoded_image

MAX_IMAGES = 1024
MAX_BYTES = 4 << 20
"""A sample of at most this size is hashed, fewer images where they are large: about 0.1 s for any dataset."""


def fingerprint(identity: Sequence[str], records: Any, features: Any) -> tuple[str, list[tuple[int, int]]]:
    """The fingerprint, and the sizes (width, height) of the images of the sample that it is made of.

    It consists of 32 hexadecimal digits of SHA-256 over the identity, the length, and an evenly spaced sample.

    The decoded pixels are hashed, not the stored bytes: those depend on the PNG encoder and on the order of the fields
    in a protocol buffer, and so on the machine that prepared them.

    Args:
      identity: the dataset's name and version (for a folder, a digest of its contents), and the split.
      records: the serialized examples, a sequence that reads many at once by `__getitems__`.
      features: TFDS features with an "image" and possibly a "label".
    """
    digest = hashlib.sha256(repr((*identity, len(records))).encode())
    sizes = []
    count = min(len(records), MAX_IMAGES, max(4, MAX_BYTES // len(records[0])))
    for record in records.__getitems__([index * len(records) // count for index in range(count)]):
        example = features.deserialize_example_np(record, decoders=undecoded_image())
        image = pixels.to_gray_or_rgb(pixels.open_image(example["image"]))
        digest.update(repr((image.size, image.mode, int(example.get("label", 0)))).encode() + image.tobytes())
        sizes.append(image.size)
    return digest.hexdigest()[:32], sizes
