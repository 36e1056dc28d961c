"""gan.networks.conv against XLA: values, derivatives of two orders, vmap, scan, devices, and the Flax modules."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import CASES, arrays, case_id, cases, close, draw, few, functions, value_and_pullback
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from gan.networks.conv.primitives import Conv, ConvTranspose, conv, conv_transpose


@cases
def test_value_and_first_derivatives_are_those_of_xla(case):
    ours, reference = (jax.jit(lambda x, w, f=f: value_and_pullback(f, x, w)) for f in functions(case))
    close(ours(*arrays(case)), reference(*arrays(case)))


@few
def test_forward_mode_is_that_of_xla(case):
    primals = arrays(case)
    tangents = tuple(draw(*a.shape, seed=4 + i) for i, a in enumerate(primals))
    ours, reference = (jax.jit(lambda f=f: jax.jvp(f, primals, tangents)) for f in functions(case))
    close(ours(), reference())


@pytest.mark.parametrize("case", [CASES[4]], ids=case_id)
def test_second_derivatives_against_finite_differences(case):
    ours, _ = functions(case)
    with jax.enable_x64(True):
        # tanh makes the mixed derivatives depend on both arguments; the convolution itself is bilinear.
        smooth = jax.jit(lambda x, w: jnp.tanh(ours(x, w)))
        check_grads(smooth, arrays(case, batch=1, dtype=jnp.float64), 2, ("fwd", "rev"), 1e-5, 1e-5)


@pytest.mark.parametrize("case", CASES[1::2], ids=case_id)
def test_gradient_penalty_is_that_of_xla(case):
    """grad over w of |grad over x of sum D(x)|^2, with D's two layers the convolution and a smooth head."""
    x, w = arrays(case)

    def penalty_gradient(function):
        def critic(x, w):
            return jnp.sum(jnp.tanh(function(x, w)))

        return jax.jit(jax.grad(lambda w: jnp.sum(jnp.square(jax.grad(critic)(x, w)))))(w)

    ours, reference = functions(case)
    close(penalty_gradient(ours), penalty_gradient(reference), 1e-4)


@cases
def test_transpose_is_the_adjoint(case):
    size, _, stride, padding, _, _, groups = case
    ours, _ = functions(case)
    x, w = arrays(case)

    @jax.jit
    def both_sides(x, w):
        image = ours(x, w)
        y = jnp.cos(jnp.arange(image.size, dtype=x.dtype)).reshape(image.shape)
        back = conv_transpose(y, w, stride=stride, padding=padding, groups=groups, output_size=size)
        assert back.shape == x.shape
        return jnp.vdot(image, y), jnp.vdot(x, back)

    left, right = both_sides(x, w)
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride, padding", [(1, "SAME"), (2, "SAME"), (2, "VALID"), (2, ((1, 1), (1, 1)))])
def test_gradients_of_a_transpose_are_those_of_xla(stride, padding):
    y, w = draw(2, 4, 3, 3, seed=1), draw(4, 4, 2, 3, seed=2)
    x_shape = conv_transpose(y, w, stride=stride, padding=padding).shape

    def reference(y, w):
        def forward(x):
            return lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

        return jax.linear_transpose(forward, jax.ShapeDtypeStruct(x_shape, y.dtype))(y)[0]

    def ours(y, w):
        return conv_transpose(y, w, stride=stride, padding=padding)

    close(value_and_pullback(ours, y, w), value_and_pullback(reference, y, w))


@few
def test_bfloat16_keeps_its_type_and_sums_in_float32(case):
    ours, _ = functions(case)
    x, w = arrays(case, dtype=jnp.bfloat16)
    actual = jax.jit(lambda x, w: value_and_pullback(ours, x, w))(x, w)
    wide = jax.jit(lambda x, w: value_and_pullback(ours, x, w))(x.astype(jnp.float32), w.astype(jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {jnp.dtype(jnp.bfloat16)}
    # The cotangent is rounded to bfloat16 too: 2^-8 relative for it and 2^-9 for the result.
    close(jax.tree.map(lambda a: a.astype(jnp.float32), actual), wide, 2**-7)


@few
@pytest.mark.parametrize("over", ["x", "w", "xw", "nested"])
def test_vmap_is_a_loop(case, over):
    ours, _ = functions(case)
    x, w = arrays(case)
    xs, ws = draw(3, *x.shape, seed=6), draw(3, *w.shape, seed=7)
    both = jax.jit(lambda x, w: value_and_pullback(ours, x, w))
    if over == "nested":
        w_pairs = jnp.stack([ws, -ws], 1)
        actual = jax.jit(jax.vmap(jax.vmap(both, (None, 0)), (0, 0)))(xs, w_pairs)
        expected = [[both(xs[i], w_pairs[i, j]) for j in range(2)] for i in range(3)]
        expected = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *row) for row in expected]
    elif over == "x":  # from the last axis
        actual = jax.jit(jax.vmap(both, (4, None)))(jnp.moveaxis(xs, 0, 4), w)
        expected = [both(xs[i], w) for i in range(3)]
    else:
        in_axes = (0 if "x" in over else None, 0)
        actual = jax.jit(jax.vmap(both, in_axes))(xs if "x" in over else x, ws)
        expected = [both(xs[i] if "x" in over else x, ws[i]) for i in range(3)]
    close(actual, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected))


def test_per_example_gradients_are_a_loop():
    x, w = draw(3, 6, 6, 2), draw(4, 4, 2, 3)

    def gradient(x, w):
        return jax.grad(lambda w: jnp.sum(jnp.tanh(conv(x[None], w, stride=2))))(w)

    expected = jnp.stack([gradient(x[i], w) for i in range(3)])
    close(jax.vmap(gradient, (0, None))(x, w), expected)


def test_vmap_over_weights_on_each_platform():
    """On accelerators the members are groups of one convolution without dilation of the image; on CPU a loop."""
    x, w = draw(2, 8, 8, 3), draw(5, 4, 4, 3, 4)

    def step(x, w):
        return jax.value_and_grad(lambda x, w: jnp.sum(jnp.square(conv(x, w, stride=2))), (0, 1))(x, w)

    for in_axes, xs in (((None, 0), x), ((0, 0), jnp.stack([x] * 5))):
        traced = jax.jit(jax.vmap(step, in_axes)).trace(xs, w)
        for platform in ("cpu", "cuda", "tpu"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            convolutions = re.findall(r"stablehlo.convolution.*", text)
            groups = {group for line in convolutions for group in re.findall(r"_group_count = (\d+)", line)}
            # Mapped weights are more channels of one convolution, except in the gradient of their images.
            assert groups <= {"1"} if platform == "cpu" else groups == {"1", "5"}
            dilated = [line for line in convolutions if re.search(r"lhs_dilate = \[2, 2\]", line)]
            assert not any("_group_count = 5" in line for line in dilated)


@few
def test_inside_scan_is_outside(case):
    ours, _ = functions(case)
    x, w = arrays(case)
    xs = draw(3, *x.shape, seed=6)
    _, inside = jax.jit(lambda xs, w: lax.scan(lambda _, x: (None, value_and_pullback(ours, x, w)), None, xs))(xs, w)
    close(inside, jax.tree.map(lambda *leaves: jnp.stack(leaves), *(value_and_pullback(ours, x, w) for x in xs)))


def learning_step(params, x):
    """A critic with strided, grouped and transposed layers, its loss with R1, and the gradient."""

    def critic(params, x):
        h = jnp.tanh(conv(x, params["down"], stride=2))
        h = jnp.tanh(conv(h, params["grouped"], groups=2))
        return jnp.sum(conv_transpose(h, params["up"], stride=2), axis=(1, 2, 3))

    def loss(params):
        gradient = jax.grad(lambda x: jnp.sum(critic(params, x)))(x)
        return jnp.mean(jnp.tanh(critic(params, x))) + jnp.mean(jnp.sum(jnp.square(gradient), axis=(1, 2, 3)))

    return jax.value_and_grad(loss)(params)


@pytest.fixture(scope="module")
def problem():
    params = {"down": draw(4, 4, 3, 4, seed=1), "grouped": draw(3, 3, 2, 4, seed=2), "up": draw(4, 4, 3, 4, seed=3)}
    params = jax.tree.map(lambda a: 0.2 * a, params)
    x = draw(8, 8, 8, 3, seed=4)
    return params, x, jax.jit(learning_step)(params, x)


def test_four_devices_are_one(problem):
    params, x, expected = problem
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params = jax.device_put(params, NamedSharding(mesh, P()))
    x = jax.device_put(x, NamedSharding(mesh, P("data")))
    close(jax.device_get(jax.jit(learning_step)(params, x)), jax.device_get(expected))


@pytest.mark.parametrize("wrap", ["pmap", "shard_map"])
def test_device_means_are_the_whole(problem, wrap):
    params, x, expected = problem

    def step(params, x):
        return lax.pmean(learning_step(params, x), "data")

    if wrap == "pmap":
        actual = jax.pmap(step, "data", in_axes=(None, 0), out_axes=None)(params, x.reshape(4, 2, 8, 8, 3))
    else:
        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        mapped = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=False)
        actual = jax.jit(mapped)(params, x)
    close(jax.device_get(actual), jax.device_get(expected))


@pytest.mark.parametrize(
    "stride, padding, size, expected",
    [
        (2, "SAME", (4, 5), (8, 10)),
        (1, "SAME", (4, 5), (4, 5)),
        (2, "VALID", (4, 5), (10, 12)),
        (1, "VALID", (1, 1), (4, 4)),
        (2, ((1, 1), (1, 1)), (4, 5), (8, 10)),
    ],
)
def test_default_output_size(stride, padding, size, expected):
    y, w = draw(1, *size, 2), draw(4, 4, 3, 2)
    assert conv_transpose(y, w, stride=stride, padding=padding).shape == (1, *expected, 3)


def test_chosen_output_size():
    y, w = draw(1, 2, 2, 2), draw(3, 3, 1, 2)
    for size in [(3, 3), (3, 4), (4, 4)]:
        x = conv_transpose(y, w, stride=2, output_size=size)
        assert x.shape[1:3] == size and conv(x, w, stride=2).shape == y.shape


@pytest.mark.parametrize(
    "module, expected",
    [
        (Conv(10, (4, 3), groups=2), {"kernel": (4, 3, 3, 10), "bias": (10,)}),
        (ConvTranspose(10, (4, 3)), {"kernel": (4, 3, 10, 6), "bias": (10,)}),
        (ConvTranspose(10, (5, 5), use_bias=False), {"kernel": (5, 5, 10, 6)}),
    ],
)
def test_parameters_of_the_modules(module, expected):
    variables = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 8, 8, 6), jnp.float32))
    assert jax.tree.map(jnp.shape, variables) == {"params": expected}


def test_the_module_is_flax_s_convolution():
    x = draw(2, 7, 6, 4)
    ours, theirs = Conv(6, (3, 3), stride=2, groups=2), nn.Conv(6, (3, 3), strides=2, feature_group_count=2)
    variables = ours.init(jax.random.key(0), x)
    variables["params"]["bias"] = draw(6)
    close(variables["params"]["kernel"], theirs.init(jax.random.key(0), x)["params"]["kernel"], 0)
    close(ours.apply(variables, x), theirs.apply(variables, x))


def test_the_transposed_module_is_flax_s_with_transposed_kernel():
    x = draw(2, 3, 4, 4)
    ours = ConvTranspose(5, (4, 4), stride=2)
    theirs = nn.ConvTranspose(5, (4, 4), strides=(2, 2), transpose_kernel=True)
    variables = ours.init(jax.random.key(0), x)
    assert variables["params"]["kernel"].shape == theirs.init(jax.random.key(0), x)["params"]["kernel"].shape
    close(ours.apply(variables, x), theirs.apply(variables, x))


def test_initializer_sees_fan_in_of_the_transposed_convolution():
    kernel = ConvTranspose(256, (4, 4)).init(jax.random.key(0), draw(1, 2, 2, 8))["params"]["kernel"]
    # LeCun: standard deviation 1 / sqrt(fan-in), 4 * 4 * 8 = 128 inputs; 32,768 draws give it to 0.4 % each way
    assert math.isclose(float(jnp.std(kernel)), 1 / math.sqrt(128), rel_tol=0.02)


def test_module_types():
    x = draw(2, 6, 6, 3)
    for module in (Conv(4, dtype=jnp.bfloat16), ConvTranspose(4, dtype=jnp.bfloat16)):
        y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
        assert y.dtype == jnp.bfloat16
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_output_size_in_the_module():
    x = draw(1, 4, 4, 3)
    module = ConvTranspose(2, (4, 4), stride=2, output_size=(7, 7))
    assert jax.eval_shape(module.init_with_output, jax.random.key(0), x)[0].shape == (1, 7, 7, 2)


@pytest.mark.parametrize("size", [(2, 4), (5, 4), (4,), (4, 4, 4)])
def test_an_invalid_output_size_is_reported_with_the_valid_ones(size):
    with pytest.raises(ValueError, match=r"valid heights are 3\.\.4, valid widths 3\.\.4"):
        conv_transpose(draw(1, 2, 2, 2), draw(3, 3, 1, 2), stride=2, output_size=size)


@pytest.mark.parametrize("padding", ["same", ((1, 1),), (1, 1), ((1, 1), (1, -1)), ((1, 1, 1), (1, 1, 1)), 1, None])
def test_invalid_padding_is_rejected(padding):
    with pytest.raises(ValueError, match="padding"):
        conv(draw(1, 6, 6, 1), draw(3, 3, 1, 1), padding=padding)


def test_shapes_that_do_not_fit_are_rejected():
    with pytest.raises(ValueError, match="does not fit"):
        conv(draw(1, 2, 6, 1), draw(3, 3, 1, 1), padding="VALID")
    with pytest.raises(ValueError, match="must have 4 channels"):
        conv(draw(1, 6, 6, 3), draw(3, 3, 2, 4), groups=2)
    with pytest.raises(ValueError, match="must have 5 channels"):
        conv_transpose(draw(1, 6, 6, 3), draw(3, 3, 2, 5))
    with pytest.raises(ValueError, match="stride=0"):
        conv(draw(1, 6, 6, 3), draw(3, 3, 3, 4), stride=0)
    with pytest.raises(ValueError, match=r"expected: \[B, H, W, C\]"):
        conv(draw(6, 6, 3), draw(3, 3, 3, 4))
    with pytest.raises(TypeError, match="convert"):
        conv(draw(1, 6, 6, 3), draw(3, 3, 3, 4, dtype=jnp.bfloat16))
