"""gan/networks/layers/resample.py: both lowerings against dense matrices, adjoints, derivatives of two orders, vmap."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan.networks.conv.forms import Axis
from gan.networks.layers import resample

LOWERINGS = [resample.by_matrices, resample.by_shifts]
# Axes of the four functions, and one of stride 3, for an image of 6 x 4.
GEOMETRIES = {
    "downsample": (tuple(Axis(size, 4, size // 2, 1, 2) for size in (6, 4)), 1.0, False),
    "upsample": (tuple(Axis(2 * size, 4, size, 1, 2) for size in (6, 4)), 2.0, True),
    "blur_before": (tuple(Axis(size + 1, 4, size, 1, 1) for size in (6, 4)), 1.0, True),
    "blur_after": (tuple(Axis(size, 4, size - 1, 1, 1) for size in (6, 4)), 2.0, False),
    "stride 3": ((Axis(7, 4, 2, 0, 3), Axis(9, 4, 3, 2, 3)), 1.0, False),
    "stride 3, adjoint": ((Axis(17, 4, 6, 1, 3), Axis(10, 4, 4, 2, 3)), 1.0, True),
}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def dense(axis, gain):
    """[outputs, inputs], tap by tap."""
    matrix = np.zeros((axis.outputs, axis.inputs))
    for p in range(axis.outputs):
        for k, tap in enumerate((1, 3, 3, 1)):
            if 0 <= axis.stride * p + k - axis.before < axis.inputs:
                matrix[p, axis.stride * p + k - axis.before] = gain * tap / 8
    return matrix


@pytest.mark.parametrize("lowering", LOWERINGS, ids=lambda lowering: lowering.__name__)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_lowerings_are_dense_matrices(name, lowering):
    geometry, gain, is_adjoint = GEOMETRIES[name]
    rows, columns = (dense(axis, gain) for axis in geometry)
    x = draw(2, *(axis.outputs if is_adjoint else axis.inputs for axis in geometry), 3)
    expected = np.einsum("bpqc,ph,qw->bhwc" if is_adjoint else "bhwc,ph,qw->bpqc", x, rows, columns)
    made = jax.jit(partial(lowering, geometry=geometry, gain=gain, is_adjoint=is_adjoint))(x)
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-6)
    half = jax.jit(partial(lowering, geometry=geometry, gain=gain, is_adjoint=is_adjoint))(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    # Inputs and results are rounded to 2^-9, the matrices' product once more between the axes.
    np.testing.assert_allclose(half.astype(jnp.float32), expected, rtol=0, atol=2**-7 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["downsample", "upsample", "blur_before", "blur_after"])
def test_derivatives_are_those_of_the_matrices(name):
    function = getattr(resample, name)
    geometry, gain, is_adjoint = GEOMETRIES[name]
    rows, columns = (jnp.asarray(dense(axis, gain), jnp.float32) for axis in geometry)
    x = draw(2, 6, 4, 3)

    def matrices(x):
        return jnp.einsum("bpqc,ph,qw->bhwc" if is_adjoint else "bhwc,ph,qw->bpqc", x, rows, columns)

    def penalty(function, x):
        """The gradient of |grad of a smooth critic|^2: the filter, its adjoint, and the filter again."""
        gradient = jax.grad(lambda x: jnp.sum(jnp.tanh(function(x))))
        return jax.grad(lambda x: jnp.sum(jnp.square(gradient(x))))(x)

    np.testing.assert_allclose(function(x), matrices(x), rtol=0, atol=1e-6)
    np.testing.assert_allclose(penalty(function, x), penalty(matrices, x), rtol=0, atol=1e-5)
    tangents = jax.jvp(function, (x,), (x,))[1]
    np.testing.assert_allclose(tangents, matrices(x), rtol=0, atol=1e-6)
    mapped = jax.vmap(function, 3, 3)(jnp.stack([x, -x], 3))
    np.testing.assert_allclose(mapped, jnp.stack([function(x), -function(x)], 3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_use_no_matrix_product(platform):
    traced = jax.jit(jax.grad(lambda x: jnp.sum(jnp.tanh(resample.downsample(resample.upsample(x)))))).trace(
        draw(2, 4, 4, 3)
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "dot_general" not in text and "transpose" not in text
