"""Batch normalization against Flax's, with sums in one stage and in two."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gan.networks.layers import row_sums
from gan.networks.layers.normalization import BatchNorm

SHAPES = [(16, 4, 3, 6), (8, 2, 2, 6), (16, 6)]
"""Two stages, and one stage: too few rows of an example, and no axis but the batch."""


def draw(shape, dtype="float32", seed=0):
    return jnp.asarray(1.0 + 2.0 * np.random.default_rng(seed).normal(size=shape), dtype)


def outcome(apply, params, x):
    """The value, the running statistics, and first and second derivatives by the parameters and x."""

    def loss(params, x):
        return jnp.sum(jnp.tanh(apply(params, x)[0].astype(jnp.float32)) ** 3)

    def penalty(params, x):
        return jnp.sum(jnp.square(jax.grad(loss, 1)(params, x).astype(jnp.float32)))

    return apply(params, x), jax.grad(loss, (0, 1))(params, x), jax.grad(penalty, (0, 1))(params, x)


def both(shape, dtype, train=True):
    """Ours and Flax's as functions of parameters and x, and their arguments."""
    flax = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
    stats = {"mean": draw(shape[-1:], seed=1), "var": jnp.exp(draw(shape[-1:], seed=2))}
    params = {name: draw(shape[-1:], dtype, seed) for name, seed in (("scale", 3), ("bias", 4))}

    def ours(params, x):
        variables = {"params": {"BatchNorm_0": params}, "batch_stats": {"BatchNorm_0": stats}}
        y, updated = BatchNorm().apply(variables, x, train, mutable=["batch_stats"])
        return y, updated["batch_stats"]["BatchNorm_0"]

    def theirs(params, x):
        y, updated = flax.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
        return y, updated["batch_stats"]

    return ours, theirs, params, draw(shape, dtype)


def close(actual, expected, tolerance):
    def compare(a, b):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(a - b).max() <= tolerance * (1e-6 + np.abs(b).max())

    jax.tree.map(compare, actual, expected)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("bfloat16", 2**-6)])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_derivatives_are_those_of_flax(shape, dtype, tolerance, train):
    ours, theirs, params, x = both(shape, dtype, train)
    close(jax.jit(functools.partial(outcome, ours))(params, x), jax.jit(functools.partial(outcome, theirs))(params, x),
          tolerance)  # fmt: skip


def test_forward_mode_and_vmap_are_those_of_flax():
    ours, theirs, params, x = both(SHAPES[0], "float32")

    def tangents(apply):
        along = jnp.stack([draw(x.shape, seed=5), draw(x.shape, seed=6)])
        return jax.vmap(lambda t: jax.jvp(lambda x: apply(params, x)[0], (x,), (t,)))(along)

    close(tangents(ours), tangents(theirs), 2e-5)


def test_initial_variables_are_those_of_flax():
    x = draw(SHAPES[0])
    ours = BatchNorm(scale_init=nn.initializers.normal()).init(jax.random.key(0), x, True)

    class Theirs(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False, scale_init=nn.initializers.normal())(x)

    jax.tree.map(np.testing.assert_array_equal, ours, Theirs().init(jax.random.key(0), x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [*SHAPES, (16, 32, 32, 6)])
def test_sums_are_in_two_stages_on_gpus_alone(shape, dtype):
    ours, _, params, x = both(shape, dtype)

    def loss(params, x):
        return jnp.sum(ours(params, x)[0].astype(jnp.float32) ** 3)

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(params, x)
    text = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda", "tpu")}
    barriers = {platform: found.count("optimization_barrier") for platform, found in text.items()}
    # Two sums of the statistics, and the gradients of the mean, of the factor and of the offset.
    assert barriers == {"cpu": 0, "cuda": 5 if shape == SHAPES[0] else 0, "tpu": 0}
    # The sums of examples are not rounded to bfloat16 before they are added.
    assert not re.findall(r"stablehlo.reduce.*-> tensor<[x0-9]*bf16>", text["cuda"])


def test_evaluation_has_no_primitive_of_the_package():
    ours, _, params, x = both(SHAPES[0], "float32", train=False)
    assert "stage_boundary" not in str(jax.make_jaxpr(ours)(params, x))
    assert "stage_boundary" in str(jax.make_jaxpr(both(SHAPES[0], "float32")[0])(params, x))


def test_sums_and_their_transpose():
    x = draw((16, 4, 3, 6))
    first, second = row_sums.row_sums(x, x * x)
    np.testing.assert_allclose(first, np.asarray(x).sum((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(second, np.square(x).sum((0, 1, 2)), rtol=1e-5)
    ones = jnp.ones(6)
    np.testing.assert_allclose(jax.grad(lambda v: jnp.sum(row_sums.spread(v, x) * x))(ones), first, rtol=1e-5)
