"""Rematerialization: activations are computed again for the gradient instead of being stored."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from flax import linen as nn

B = TypeVar("B", bound=Callable)


def rematerialized(block: B, is_on: bool, static: tuple[str, ...] = ("train",)) -> B:
    """The block itself, or where `is_on` one that stores only its inputs and is computed again for the gradient.

    Sums over the batch (statistics) are also stored: computing them again would repeat the communication between
    devices. Parameters, their paths, their initial values and random draws are bitwise the same. Outputs and gradients
    of every order are the same up to rounding.

    Args:
      block: a class of modules, or a function whose first argument is the module that calls it.
      is_on: whether to compute the block again.
      static: names of those of its arguments that are not arrays.

    Reference: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
    """
    if not is_on:
        return block
    arguments = inspect.signature(block.__call__ if isinstance(block, type) else block).parameters
    positions = tuple(position for position, name in enumerate(arguments) if name in static)
    remat_block = nn.remat(block, static_argnums=positions, policy=_is_sum_over_batch)
    remat_block.__name__ = block.__name__  # Flax names the parameters of a class by it
    return remat_block


def _is_sum_over_batch(primitive: Any, *_: Any, **params: Any) -> bool:
    return primitive.name == "reduce_sum" and 0 in params["axes"]
