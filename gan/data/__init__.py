"""Data: datasets by name through TFDS, one order of examples, and batches that are resident or streamed.

A leaf of the house: plain names and numbers in, uint8 arrays out (of points: float32); `steps` sees only what
`to_range` makes of them.
"""

from gan.data import cache, stacked
from gan.data.batches import Decoded, gather, positions, stream, to_range, to_uint8
from gan.data.order import example_order
from gan.data.source import Dataset, load, open_dataset
from gan.data.toys import MIXTURES, is_point

__all__ = [
    "MIXTURES",
    "Dataset",
    "Decoded",
    "cache",
    "example_order",
    "gather",
    "is_point",
    "load",
    "open_dataset",
    "positions",
    "stacked",
    "stream",
    "to_range",
    "to_uint8",
]
