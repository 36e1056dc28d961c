"""Which rows of a batch a computation uses: all of them, or an evenly spaced part.

A part is chosen by position only, so a batch that is split evenly over devices gives the same rows as on one device.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows r with r modulo (every * run) < run: of each `every` runs of `run` consecutive rows, the first."""

    every: int = 1
    """1: all rows."""
    run: int = 1
    """Consecutive rows that are kept together, such as a group of the discriminator's."""

    @property
    def period(self) -> int:
        """Rows after which the choice repeats. It must divide the rows of each microbatch on each device."""
        return 1 if self.every == 1 else self.every * self.run

    def of(self, leaf: Array) -> Array:
        """These rows of an array: [B, ...] to [B / every, ...]."""
        if self.every == 1:
            return leaf
        return leaf.reshape(-1, self.every, self.run, *leaf.shape[1:])[:, 0].reshape(-1, *leaf.shape[1:])

    def places(self, count: int) -> Array:
        """The positions of the first `count` of these rows in the batch, int32 [count]."""
        index = jnp.arange(count)
        return index if self.every == 1 else index // self.run * self.period + index % self.run


ALL = Rows()
"""Every row."""
