"""Convolutions of many shapes, ours and XLA's, and comparisons of the two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gan.networks.conv import primitives
from gan.networks.conv.primitives import conv

# image size, kernel size, stride, padding, input channels, output channels, groups
CASES = [
    ((5, 4), (1, 1), 1, "SAME", 2, 3, 1),  # a matrix product
    ((5, 4), (1, 1), 2, "SAME", 2, 3, 1),
    ((5, 7), (2, 2), 1, "SAME", 2, 3, 1),
    ((6, 5), (3, 3), 1, "SAME", 2, 3, 1),
    ((7, 6), (3, 3), 2, "VALID", 2, 3, 1),
    ((8, 6), (4, 4), 2, "SAME", 3, 2, 1),
    ((7, 6), (5, 5), 1, "VALID", 1, 3, 1),
    ((9, 6), (5, 5), 2, "SAME", 3, 1, 1),
    ((8, 7), (3, 4), 3, "SAME", 2, 2, 1),
    ((6, 7), (3, 2), 2, ((0, 2), (1, 0)), 2, 3, 1),
    ((5, 5), (2, 2), 1, ((3, 0), (0, 4)), 2, 3, 1),  # rows and columns of outputs that read padding alone
    ((7, 9), (4, 4), 2, ((1, 1), (1, 1)), 2, 3, 1),
    ((5, 4), (3, 2), 2, "SAME", 64, 64, 1),  # wide enough for the weight gradient tap by tap
    ((7, 6), (3, 2), 1, "SAME", 8, 3, 1),  # few outputs: mirrored
    ((6, 5), (3, 3), 1, "SAME", 3, 16, 1),  # few inputs for many outputs
    ((6, 5), (3, 3), 1, "SAME", 4, 6, 2),
    ((5, 6), (3, 3), 1, "SAME", 3, 6, 3),  # depthwise, two outputs per input
    ((6, 5), (3, 3), 2, ((1, 1), (0, 1)), 3, 3, 3),  # depthwise
]


def case_id(case):
    size, kernel, stride, padding, channels, features, groups = case
    return f"{size[0]}x{size[1]}-k{kernel[0]}x{kernel[1]}-s{stride}-{padding}-{channels}to{features}-g{groups}"


cases = pytest.mark.parametrize("case", CASES, ids=case_id)
few = pytest.mark.parametrize("case", [CASES[-4], CASES[-3], CASES[-1]], ids=case_id)


def geometry_of(case):
    size, kernel, stride, padding, *_ = case
    return tuple(
        primitives.forward_axis(n, k, stride, edges)
        for n, k, edges in zip(size, kernel, primitives.edges_of(padding), strict=True)
    )


def draw(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def arrays(case, batch=2, dtype=jnp.float32):
    size, kernel, _, _, channels, features, groups = case
    x = draw(batch, *size, channels, seed=1, dtype=dtype)
    return x, draw(*kernel, channels // groups, features, seed=2, dtype=dtype)


def functions(case):
    """Ours and XLA's, as functions of (x, w)."""
    _, _, stride, padding, _, _, groups = case

    def ours(x, w):
        return conv(x, w, stride=stride, padding=padding, groups=groups)

    def reference(x, w):
        return lax.conv_general_dilated(
            x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    return ours, reference


def close(actual, expected, tolerance=2e-5):
    def compare(a, b):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))

    jax.tree.map(compare, actual, expected)


def value_and_pullback(function, x, w):
    y, pullback = jax.vjp(function, x, w)
    return y, pullback(draw(*y.shape, seed=3, dtype=y.dtype))
