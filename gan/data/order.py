"""The order of examples: for every epoch a pseudo-random permutation of range(n), evaluated pointwise.

And which of them are mirrored.

No permutation is stored and no iterator has to be saved. The same code runs on NumPy arrays (streamed data) and inside
a compiled function (data on the device), with equal bits.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MIRROR_KEY = 0x6D697272
"""Tells the hash of `is_mirrored` apart from that of the order."""
ROUNDS = 12
"""Half rounds. With 12 the 120 orders of n = 5 are equally frequent, with 8 they are not (see tests/test_order.py)."""


def example_order(positions: np.ndarray | Array, *, seed: int | Array, n: int) -> np.ndarray | Array:
    """Index of the example at each position of an endless sequence of shuffled epochs.

    Position p is the p-th example of the run. Its epoch is e = p // n, its position in the epoch is p % n, and its
    index is pi_(seed, e)(p % n), where pi is a pseudo-random bijection of range(n): a Feistel network over
    range(a) x range(b) with a * b >= n. With x = left * b + right, the half rounds alternate between

        left <- (left + F(right)) mod a,    right <- (right + F(left)) mod b,

    with a = ceil(sqrt(n)) and b = ceil(n / a), so that a * b exceeds n by less than a. The network is applied again to
    a value outside range(n) until it is inside (cycle walking), which makes the map a bijection of range(n).

    Args:
      positions: uint32, any shape; NumPy or JAX (may be traced).
      seed: int, or a traced integer scalar; taken modulo 2^32.
      n: number of examples, 1 <= n < 2^31. Static.

    Returns:
      int32 indices in range(n), with the shape of `positions`; NumPy or JAX as they are.

    Reference: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains" (cycle walking, generalized Feistel).
    This is a shuffle, not a cipher: F is a hash, and nothing here is secret.
    """
    if not 1 <= n < 2**31:
        raise ValueError(f"n={n} is outside 1 <= n < 2^31")
    xp, shape = _module(positions, seed), positions.shape
    positions, seeds = _words(positions.reshape(-1), seed, xp)
    keys = _hash(_hash(seeds) ^ (positions // np.uint32(n)))
    left_size = math.isqrt(n - 1) + 1
    right_size = -(-n // left_size)

    def permute(x):
        return _feistel(x, keys, np.uint32(left_size), np.uint32(right_size))

    def walk(x):
        return xp.where(x < n, x, permute(x))

    x = permute(positions % np.uint32(n))
    if xp is jnp:
        x = jax.lax.while_loop(lambda x: jnp.any(x >= n), walk, x)
    else:
        while np.any(x >= n):
            x = walk(x)
    return x.astype(xp.int32).reshape(shape)


def is_mirrored(positions: np.ndarray | Array, *, seed: int | Array) -> np.ndarray | Array:
    """Whether the image at each position is mirrored: bool, half of them, a function of the seed and the position.

    The lowest bit of hash(hash(position) xor hash(seed xor MIRROR_KEY)). An image that is seen again, in another epoch,
    has another position, and so the other half of the times it is not mirrored.

    Args:
      positions, seed: as for `example_order`.
    """
    xp = _module(positions, seed)
    positions, seeds = _words(positions, seed, xp)
    return _hash(_hash(positions) ^ _hash(seeds ^ np.uint32(MIRROR_KEY))) % np.uint32(2) == 1


def _module(positions, seed):
    return jnp if isinstance(positions, jax.Array) or isinstance(seed, jax.Array) else np


def _words(positions, seed, xp):
    """The positions, and the seed for each of them, as 32-bit words.

    NumPy wraps uint32 arrays silently but warns about scalars, so every operand is an array of one shape.
    """
    positions = positions.astype(xp.uint32)
    word = np.uint32(seed % 2**32) if isinstance(seed, int) else seed.astype(xp.uint32)
    return positions, xp.full_like(positions, word)


def _feistel(x, keys, left_size, right_size):
    """One pass of the network over uint32 [k], with one key per element."""
    left, right = x // right_size, x % right_size
    for number in range(ROUNDS):
        round_keys = _hash(keys + np.uint32(number * 0x9E3779B9 % 2**32))
        if number % 2 == 0:
            left = (left + _hash(right ^ round_keys) % left_size) % left_size
        else:
            right = (right + _hash(left ^ round_keys) % right_size) % right_size
    return left * right_size + right


def _hash(x):
    """A bijection of 32-bit words in which every output bit depends on every input bit.

    Source: the finalizer of MurmurHash3 (Appleby 2011, public domain).
    """
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """min(count, total) indices, evenly spaced in range(total): int64."""
    count = min(count, total)
    return np.arange(count, dtype=np.int64) * total // count
