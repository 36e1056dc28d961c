"""Generative adversarial networks in JAX and Flax: pure steps, named parts, exact runs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers alone, which do not evaluate __getattr__
    from gan.inference.model import Model as Model
    from gan.inference.model import load as load

__version__ = "0.1.0"


def __getattr__(name: str):
    """`gan.load` and `gan.Model`, imported when they are first used: they load JAX."""
    if name not in ("load", "Model"):
        raise AttributeError(f"module 'gan' has no attribute {name!r}")
    from gan.inference import model

    return getattr(model, name)
