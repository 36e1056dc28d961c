"""How many devices does a test's run have? The process has eight virtual ones, of which runs use four unless told."""

import contextlib
from unittest import mock

import jax

from gan import sharding

MESH = sharding.device_mesh


def first(devices):
    """The mesh of the first so many devices."""
    return MESH(jax.devices()[:devices])


@contextlib.contextmanager
def on(devices):
    """Within it, runs of this process are on the first so many devices."""
    with mock.patch.object(sharding, "device_mesh", lambda: first(devices)):
        yield
