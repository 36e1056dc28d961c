"""Convolutions as XLA's own operations alone, for a program that leaves this process.

The primitives of primitives.py and of layers/resample.py choose a lowering by the platform and by the batch size. A
program that is exported has one form for all platforms and batch sizes, and other converters do not know the
primitives.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

from gan.networks.conv.forms import Geometry, inputs_by_phases, native_groups

_is_plain = ContextVar("is_plain", default=False)


@contextlib.contextmanager
def without_primitives() -> Iterator[None]:
    """What is traced within it has no primitive of this package. Trace a new function: JAX does not trace one twice."""
    token = _is_plain.set(True)
    try:
        yield
    finally:
        _is_plain.reset(token)


def is_plain() -> bool:
    """Whether a convolution is now to be traced without primitives."""
    return _is_plain.get()


def plain(blank: str, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The form with an axis of groups in front, as a convolution without dilation, which is fast on every platform."""
    return inputs_by_phases(a, b, geometry) if blank == "x" else native_groups(blank, a, b, geometry)
