"""One order of examples: a keyed bijection of range(n) for every epoch, evaluated only where it is asked.

No permutation is ever stored and no iterator has to be saved. The same lines run on NumPy arrays (streamed data) and
inside a compiled program (resident data), with equal bits.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# The 120 orders of n = 5 then come out equally often; with eight half rounds they do not (see tests/test_data.py).
ROUNDS = 12


def example_order(positions: np.ndarray | Array, *, seed: int | Array, n: int) -> np.ndarray | Array:
    """Index of the example that stands at each position of an endless sequence of shuffled epochs.

    Position p is the p-th example ever shown. Its epoch is e = p // n, its place in the epoch p % n, and its index is
    pi_(seed, e)(p % n) with pi a pseudo-random bijection of range(n). It is a Feistel network over range(a) x range(b)
    with a * b >= n: x = left * b + right, and the half rounds are in turn

        left <- (left + F(right)) mod a,    right <- (right + F(left)) mod b,

    with a = ceil(sqrt(n)) and b = ceil(n / a), so that a * b exceeds n by less than a. A value outside range(n) walks
    on along its cycle until it is inside, which keeps the map a bijection of range(n).

    Args:
      positions: uint32, any shape; NumPy or JAX (also traced).
      seed: int, or a traced integer scalar; taken modulo 2^32.
      n: number of examples, 1 <= n < 2^31. Static.

    Returns:
      int32 indices in range(n), of the shape and the kind of `positions`.

    Reference: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains" (cycle walking, generalised Feistel).
    It is a shuffle, not a cipher: F is a hash, and nothing here is secret.
    """
    if not 1 <= n < 2**31:
        raise ValueError(f"n={n} is outside 1 <= n < 2^31")
    traced = isinstance(positions, jax.Array) or isinstance(seed, jax.Array)
    xp = jnp if traced else np
    # NumPy wraps uint32 arrays silently but warns about scalars, so every operand is an array, and of one shape.
    shape = positions.shape
    positions = positions.reshape(-1).astype(xp.uint32)
    seeds = xp.full_like(positions, np.uint32(seed % 2**32) if isinstance(seed, int) else seed.astype(xp.uint32))
    keys = _mixed(_mixed(seeds) ^ (positions // np.uint32(n)))
    left_size = math.isqrt(n - 1) + 1
    right_size = -(-n // left_size)

    def permuted(x):
        return _feistel(x, keys, np.uint32(left_size), np.uint32(right_size))

    def walked(x):
        return xp.where(x < n, x, permuted(x))

    x = permuted(positions % np.uint32(n))
    if traced:
        x = jax.lax.while_loop(lambda x: jnp.any(x >= n), walked, x)
    else:
        while np.any(x >= n):
            x = walked(x)
    return x.astype(xp.int32).reshape(shape)


def _feistel(x, keys, left_size, right_size):
    """One pass of the network over uint32 [k], with one key for every element."""
    left, right = x // right_size, x % right_size
    for number in range(ROUNDS):
        round_keys = _mixed(keys + np.uint32(number * 0x9E3779B9 % 2**32))
        if number % 2 == 0:
            left = (left + _mixed(right ^ round_keys) % left_size) % left_size
        else:
            right = (right + _mixed(left ^ round_keys) % right_size) % right_size
    return left * right_size + right


def _mixed(x):
    """A bijection of the 32-bit words whose every output bit depends on every input bit.

    The finalizer of MurmurHash3 (Appleby 2011, public domain).
    """
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
