"""The devices of a test's run: the process has eight virtual ones, of which a run uses four by default."""

import contextlib
from unittest import mock

import jax

from gan.parallel import sharding

MESH = sharding.device_mesh


def first(devices):
    """The mesh of the first so many devices."""
    return MESH(jax.devices()[:devices])


@contextlib.contextmanager
def on(devices):
    """Within it, runs of this process are on the first so many devices."""
    mesh = {name: lambda: first(devices) for name in ("device_mesh", "local_mesh")}
    with mock.patch.multiple(sharding, **mesh):
        yield
