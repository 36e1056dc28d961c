"""Data: datasets by name, one order of examples, and batches that are on the device or streamed.

Names and numbers in; uint8 images [N, H, W, C] and int32 labels [N] out (2-D points: float32). Training sees the images
scaled by `to_range`.
"""

from gan.data import cache, stacked
from gan.data.batches import Decoded, gather, positions, stream, to_range, to_uint8
from gan.data.datasets import AnyDataset, load, open_dataset
from gan.data.order import example_order, is_mirrored
from gan.data.records import Dataset
from gan.data.toys import MIXTURES, is_point

__all__ = [
    "MIXTURES",
    "AnyDataset",
    "Dataset",
    "Decoded",
    "cache",
    "example_order",
    "gather",
    "is_mirrored",
    "is_point",
    "load",
    "open_dataset",
    "positions",
    "stacked",
    "stream",
    "to_range",
    "to_uint8",
]
