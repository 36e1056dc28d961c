"""Which rows of a batch a computation takes: all of them, or an even part. Below everything.

A part is chosen by place alone, so that a batch that is split evenly over devices keeps the same rows as on one.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class Rows:
    """Of each `every` runs of `run` consecutive rows the first: rows r with r modulo (every * run) below run."""

    every: int = 1
    """1: all rows."""
    run: int = 1
    """Rows that are kept together, as a discriminator's groups need it."""

    @property
    def period(self) -> int:
        """Rows after which the choice repeats: it must divide the rows of each microbatch on each device."""
        return 1 if self.every == 1 else self.every * self.run

    def of(self, leaf: Array) -> Array:
        """These rows of an array: [B, ...] to [B / every, ...]."""
        if self.every == 1:
            return leaf
        return leaf.reshape(-1, self.every, self.run, *leaf.shape[1:])[:, 0].reshape(-1, *leaf.shape[1:])

    def places(self, count: int) -> Array:
        """Where the first `count` of these rows stand in the batch, int32 [count]."""
        taken = jnp.arange(count)
        return taken if self.every == 1 else taken // self.run * self.period + taken % self.run


ALL = Rows()
"""Every row."""
