"""Labels counted by class."""

from collections.abc import Sequence

import numpy as np


def count_labels(labels: np.ndarray, class_names: Sequence[str]) -> tuple[int, ...]:
    """The number of labels of each class; () without classes."""
    return tuple(np.bincount(labels, minlength=len(class_names)).tolist()) if class_names else ()
