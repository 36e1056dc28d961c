"""gan.data.order: every epoch is a permutation, uniform and independent, equal on the host and on the device."""

import collections
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan import data

SIZES = (1, 2, 3, 10, 1797, 60000)


def epoch(number, *, seed, n):
    return data.example_order(np.arange(number * n, (number + 1) * n, dtype=np.uint32), seed=seed, n=n)


def chi_square_per_freedom(counts):
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum() / (counts.size - 1)


@pytest.mark.parametrize("n", SIZES)
def test_every_epoch_is_a_bijection(n):
    for seed, number in itertools.product((0, 1, 2**32 - 1), (0, 1, 17)):
        assert np.array_equal(np.sort(epoch(number, seed=seed, n=n)), np.arange(n))


def test_order_at_the_largest_size():
    positions = np.arange(10_000, dtype=np.uint32) + np.uint32(2**31 - 5_000)  # over the end of epoch 0
    indices = data.example_order(positions, seed=5, n=2**31 - 1)
    assert indices.dtype == np.int32 and indices.min() >= 0
    assert len(np.unique(indices[:4_999])) == 4_999
    assert abs(indices.mean() / 2**30 - 1) < 0.05  # spread over the whole range


@pytest.mark.parametrize("n", [0, -1, 2**31])
def test_order_rejects_sizes_out_of_range(n):
    with pytest.raises(ValueError, match="n="):
        data.example_order(np.zeros(1, np.uint32), seed=0, n=n)


@pytest.mark.parametrize("n", [*SIZES, 2**31 - 1])
def test_order_on_the_device_equals_the_host_bitwise(n):
    positions = np.concatenate([np.arange(500), 2**32 - 1 - np.arange(500)]).astype(np.uint32).reshape(10, 100)
    on_host = data.example_order(positions, seed=7, n=n)
    on_device = jax.jit(lambda p: data.example_order(p, seed=7, n=n))(positions)
    assert on_device.dtype == on_host.dtype == np.int32
    assert np.array_equal(on_device, on_host)


def test_order_with_traced_seeds_equals_that_of_each_seed():
    positions = jnp.arange(64, dtype=jnp.uint32)
    of_seed = jax.vmap(lambda seed: data.example_order(positions, seed=seed, n=10))
    orders = of_seed(jnp.arange(3))
    for seed in range(3):
        assert np.array_equal(orders[seed], data.example_order(np.asarray(positions), seed=seed, n=10))


def test_epochs_and_seeds_have_their_own_orders():
    orders = {tuple(epoch(number, seed=seed, n=1797)) for seed in range(10) for number in range(10)}
    assert len(orders) == 100


def test_all_orders_of_few_examples_come_equally_often():
    # 24,000 epochs of 5 examples: 200 for each of the 120 orders. The statistic has mean 1 and spread 0.13.
    orders = data.example_order(np.arange(5 * 24_000, dtype=np.uint32), seed=0, n=5).reshape(-1, 5)
    counts = np.array(list(collections.Counter(map(tuple, orders)).values()))
    assert len(counts) == math.factorial(5)
    assert chi_square_per_freedom(counts) < 1.5


@pytest.mark.parametrize("n", [10, 100])
def test_positions_and_differences_are_uniform_within_and_across_epochs(n):
    epochs = 20_000
    orders = data.example_order(np.arange(epochs * n, dtype=np.uint32), seed=1, n=n).reshape(epochs, n).astype(int)
    limit = 1 + 5 * math.sqrt(2 / (n - 2))  # five standard deviations
    for place in (0, 1, n - 1):
        assert chi_square_per_freedom(np.bincount(orders[:, place], minlength=n)) < limit
    steps = (orders[:, 1] - orders[:, 0]) % n
    assert chi_square_per_freedom(np.bincount(steps, minlength=n)[1:]) < limit
    moves = (orders[1:, 0] - orders[:-1, 0]) % n
    assert chi_square_per_freedom(np.bincount(moves, minlength=n)) < limit


def test_mirroring_on_the_device_equals_the_host_bitwise():
    positions = np.concatenate([np.arange(500), 2**32 - 1 - np.arange(500)]).astype(np.uint32).reshape(10, 100)
    on_device = jax.jit(lambda p, seed: data.is_mirrored(p, seed=seed))(positions, 7)
    assert np.array_equal(on_device, data.is_mirrored(positions, seed=7))


def test_mirroring_is_half_and_independent_of_the_neighbor_the_seed_and_the_order():
    n = 60_000
    positions = np.arange(n, dtype=np.uint32)
    mirrored = data.is_mirrored(positions, seed=3)
    others = [np.roll(mirrored, 1), data.is_mirrored(positions, seed=4), data.is_mirrored(positions + n, seed=3)]
    others += [data.example_order(positions, seed=3, n=n) < n // 2, positions % 2 == 0]
    assert abs(mirrored.mean() - 0.5) < 5 / math.sqrt(4 * n)
    for other in others:
        assert abs((mirrored == other).mean() - 0.5) < 5 / math.sqrt(4 * n)


def test_consecutive_epochs_and_seeds_are_uncorrelated():
    n = 60_000
    orders = [epoch(0, seed=3, n=n), epoch(1, seed=3, n=n), epoch(2, seed=3, n=n), epoch(0, seed=4, n=n), np.arange(n)]
    for first, second in itertools.combinations(orders, 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(n)
        assert np.mean(first == second) < 10 / n  # one in n is expected
