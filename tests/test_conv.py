"""gan/networks/conv*.py against XLA's own convolutions: value, derivatives of two orders, vmap, scan, devices."""

import math
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from gan.networks.conv import cpu, forms, grouped, tiles
from gan.networks.conv import primitives as family
from gan.networks.conv.primitives import Conv, ConvTranspose, conv, conv_transpose

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
        family.forward_axis(n, k, stride, edges)
        for n, k, edges in zip(size, kernel, family.edges_of(padding), strict=True)
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
        # tanh makes the mixed derivatives depend on everything; the form alone is only bilinear.
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


@pytest.mark.parametrize("case", [case for case in CASES if case[-1] == 1], ids=case_id)
def test_programs_for_cpu_agree_whatever_is_chosen(case):
    # Which of them runs depends on sizes that these small cases do not reach, or reach always.
    size, kernel, stride, padding, *_ = case
    x, w = arrays(case)
    geometry = geometry_of(case)
    y = draw(*forms.native("y", x, w, geometry).shape, seed=3)

    def inputs_by_phases(w, y, geometry):
        return forms.inputs_by_phases(w[None], y[None], geometry)[0]

    programs = {
        "y": (cpu.outputs_by_phases, cpu.outputs_by_one_product),
        "x": (inputs_by_phases, cpu.inputs_by_one_product),
        "w": (cpu.weights_by_phases, cpu.weights_by_one_product),
    }
    operands = {"y": (x, w), "x": (w, y), "w": (x, y)}
    made = jax.jit(
        lambda operands: {
            blank: [program(*operands[blank], geometry) for program in choice] for blank, choice in programs.items()
        }
    )(operands)
    close(made, {blank: [forms.native(blank, *pair, geometry)] * 2 for blank, pair in operands.items()})


@pytest.mark.parametrize("taps", tiles.FACTORS)
def test_a_tile_has_one_product_more_than_taps(taps):
    factors = {name: np.array(matrix) for name, matrix in tiles.FACTORS[taps].items()}
    assert {len(matrix) for matrix in factors.values()} == {taps + 1}
    form = np.einsum("kr,km,kn->rmn", factors["x"], factors["w"], factors["y"])
    r, m, n = np.indices(form.shape)
    np.testing.assert_allclose(form, r == n + m, rtol=0, atol=1e-15)  # the coefficient of x[r] w[m] y[n]


# image size, kernel size, stride, padding: cells of 2, 3 or 5 taps; even and odd outputs; inputs that are never read
TILED = [
    ((8, 6), (4, 4), 2, "SAME"),
    ((7, 9), (4, 4), 2, ((1, 1), (1, 1))),
    ((9, 6), (5, 5), 2, "SAME"),
    ((7, 6), (3, 3), 2, "VALID"),
    ((6, 5), (3, 3), 1, "SAME"),
    ((5, 7), (2, 3), 1, "VALID"),
    ((10, 8), (7, 5), 3, "VALID"),
    ((6, 7), (5, 5), 1, "SAME"),
    ((9, 12), (5, 9), 2, "VALID"),
]


@pytest.mark.parametrize("case, parts", [*((case, 1) for case in TILED), (TILED[2], 2)], ids=str)
def test_tiles_are_convolutions(case, parts, monkeypatch):
    monkeypatch.setattr(tiles, "EXAMPLES_AT_ONCE", 4 // parts)
    monkeypatch.setattr(tiles, "TILES_AT_ONCE", 1)
    size, kernel, stride, padding = case
    geometry = geometry_of(case)
    x, w = draw(4, *size, 3, seed=1), draw(*kernel, 3, 2, seed=2)
    arrays = {"x": x, "w": w, "y": draw(*forms.native("y", x, w, geometry).shape, seed=3)}
    for blank, names in forms.OPERANDS.items():
        a, b = (arrays[name] for name in names)
        made = jax.jit(partial(tiles.tiled, blank, geometry=geometry))(a, b)
        close(made, forms.native(blank, a, b, geometry))


def wide(stride, taps, size):
    """Arrays, and a convolution of them, that tiles are taken for; and XLA's."""
    case = ((size, size), (taps, taps), stride, "SAME", 32, 32, 1)
    batch = 256 // (size // stride // 2) ** 2 + 1
    return *arrays(case, batch), *functions(case)


@pytest.mark.parametrize("stride, taps, size", [(2, 4, 16), (1, 3, 16)])
def test_wide_convolutions_go_by_tiles_in_every_derivative(stride, taps, size):
    x, w, ours, reference = wide(stride, taps, size)

    def penalty_gradient(function):
        def critic(x, w):
            return jnp.sum(jnp.tanh(0.1 * function(x, w)))

        return jax.jit(jax.grad(lambda w: jnp.sum(jnp.square(jax.grad(critic)(x, w)))))

    compiled = penalty_gradient(ours).lower(w).compile().as_text()
    assert " convolution(" not in compiled
    close(penalty_gradient(ours)(w), penalty_gradient(reference)(w), 1e-4)
    actual, expected = (jax.jit(lambda x, w, f=f: value_and_pullback(f, x, w))(x, w) for f in (ours, reference))
    close(actual, expected)


@pytest.mark.parametrize("by", ["tiles", "convolutions of sixteen examples"])
def test_parts_of_a_sharded_batch_stay_where_they_are(by):
    if by == "tiles":
        x, w, ours, reference = wide(2, 4, 32)
        x = jnp.concatenate([x] * 8)[:32]  # of 64 tiles: two parts
    else:
        case = ((6, 5), (3, 3), 1, "SAME", 8, 8, 1)
        x, w, (ours, reference) = *arrays(case, 32), functions(case)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    pullback = jax.jit(lambda x, w: value_and_pullback(ours, x, w))
    expected = jax.jit(lambda x, w: value_and_pullback(reference, x, w))(x, w)
    x, w = jax.device_put(x, NamedSharding(mesh, P("data"))), jax.device_put(w, NamedSharding(mesh, P()))
    program = pullback.lower(x, w).compile().as_text()
    exchanges = set(re.findall(r"all-(?:gather|to-all|reduce)|collective-permute", program))
    assert "while" in program and exchanges == {"all-reduce"}  # of the weights' gradient
    close(jax.device_get(pullback(x, w)), jax.device_get(expected))


@pytest.fixture
def as_on_accelerators(monkeypatch):
    """Convolutions are lowered as for GPU and TPU, and run on CPU."""
    jax.clear_caches()
    monkeypatch.setattr(family, "lower_cpu", grouped.grouped)
    yield
    jax.clear_caches()


def derivatives(function, x, w):
    """The value, both gradients and the weights' gradient of a gradient penalty, of a smooth critic of `function`."""

    def critic(x, w):
        return jnp.sum(jnp.tanh(function(x, w)))

    def penalty(w):
        return jnp.sum(jnp.square(jax.grad(critic)(x, w)))

    return function(x, w), jax.grad(critic, (0, 1))(x, w), jax.grad(penalty)(w)


# 16 bits of bfloat16 keep 8 digits: a relative error of 2^-9 for each rounding, of which a derivative takes a few.
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 2e-5), (jnp.bfloat16, 2**-6)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", [*CASES[3:6], *CASES[9:12], *CASES[-3:]], ids=case_id)
def test_lowering_for_accelerators_is_exact(case, dtype, tolerance, as_on_accelerators):
    ours, reference = functions(case)
    x, w = (0.3 * array for array in arrays(case, dtype=dtype))
    actual = jax.jit(partial(derivatives, ours))(x, w)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(array, np.float64)) for array in (x, w)]
        expected = jax.device_get(jax.jit(partial(derivatives, reference))(*wide))
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {jnp.dtype(dtype)}
    close(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), actual), expected, tolerance)


@pytest.mark.parametrize("case", CASES[-6:], ids=case_id)
def test_products_are_convolutions(case):
    groups = case[-1]
    x, w = arrays(case)
    y, (x_blank, w_blank) = jax.jit(partial(value_and_pullback, functions(case)[1]))(x, w)

    @jax.jit
    def products(arrays):
        arrays = {name: forms.split(array, groups) for name, array in arrays.items()}
        return {
            blank: forms.join(forms.products(blank, *map(arrays.get, names), geometry_of(case)))
            for blank, names in forms.OPERANDS.items()
        }

    close(products({"x": x, "w": w, "y": draw(*y.shape, seed=3)}), {"x": x_blank, "w": w_blank, "y": y})


@pytest.mark.parametrize("axis", ["examples", "groups"])
def test_devices_keep_their_part_of_a_convolution_in_groups(axis, as_on_accelerators):
    """XLA's own partitioner gathers the batch of a convolution in groups."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    place = {"examples": (P("data"), P()), "groups": (P(None, None, None, "data"), P(None, None, None, "data"))}[axis]
    for stride in (1, 2):
        case = ((6, 8), (3, 3), stride, "SAME", 8, 8, 4)
        ours, reference = functions(case)
        x, w = arrays(case, batch=8)
        expected = jax.jit(partial(derivatives, reference))(x, w)
        given = [jax.device_put(array, NamedSharding(mesh, spec)) for array, spec in zip((x, w), place, strict=True)]
        compiled = jax.jit(partial(derivatives, ours)).lower(*given).compile()
        exchanges = set(re.findall(r"all-(?:gather|to-all|reduce)|collective-permute", compiled.as_text()))
        assert exchanges <= {"all-reduce"} if axis == "examples" else not exchanges
        close(jax.device_get(compiled(*given)), jax.device_get(expected))


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
    """On accelerators members are groups of XLA's convolution, none of them of a dilated image; on CPU a loop."""
    x, w = draw(2, 8, 8, 3), draw(5, 4, 4, 3, 4)

    def step(x, w):
        return jax.value_and_grad(lambda x, w: jnp.sum(jnp.square(conv(x, w, stride=2))), (0, 1))(x, w)

    for in_axes, xs in (((None, 0), x), ((0, 0), jnp.stack([x] * 5))):
        traced = jax.jit(jax.vmap(step, in_axes)).trace(xs, w)
        for platform in ("cpu", "cuda", "tpu"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            convolutions = re.findall(r"stablehlo.convolution.*", text)
            groups = {group for line in convolutions for group in re.findall(r"_group_count = (\d+)", line)}
            # Weights alone widen the channels of one convolution, until the gradient of their images.
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
        slope = jax.grad(lambda x: jnp.sum(critic(params, x)))(x)
        return jnp.mean(jnp.tanh(critic(params, x))) + jnp.mean(jnp.sum(jnp.square(slope), axis=(1, 2, 3)))

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


def test_module_is_flax_own_convolution():
    x = draw(2, 7, 6, 4)
    ours, theirs = Conv(6, (3, 3), stride=2, groups=2), nn.Conv(6, (3, 3), strides=2, feature_group_count=2)
    variables = ours.init(jax.random.key(0), x)
    variables["params"]["bias"] = draw(6)
    close(variables["params"]["kernel"], theirs.init(jax.random.key(0), x)["params"]["kernel"], 0)
    close(ours.apply(variables, x), theirs.apply(variables, x))


def test_transposed_module_is_flax_own_with_transposed_kernel():
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
def test_illegal_output_size_names_the_legal_ones(size):
    with pytest.raises(ValueError, match=r"valid heights are 3\.\.4, valid widths 3\.\.4"):
        conv_transpose(draw(1, 2, 2, 2), draw(3, 3, 1, 2), stride=2, output_size=size)


@pytest.mark.parametrize("padding", ["same", ((1, 1),), (1, 1), ((1, 1), (1, -1)), ((1, 1, 1), (1, 1, 1)), 1, None])
def test_illegal_padding(padding):
    with pytest.raises(ValueError, match="padding"):
        conv(draw(1, 6, 6, 1), draw(3, 3, 1, 1), padding=padding)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="does not fit"):
        conv(draw(1, 2, 6, 1), draw(3, 3, 1, 1), padding="VALID")
    with pytest.raises(ValueError, match="must have 4 channels"):
        conv(draw(1, 6, 6, 3), draw(3, 3, 2, 4), groups=2)
    with pytest.raises(ValueError, match="must have 5 channels"):
        conv_transpose(draw(1, 6, 6, 3), draw(3, 3, 2, 5))
    with pytest.raises(ValueError, match="stride=0"):
        conv(draw(1, 6, 6, 3), draw(3, 3, 3, 4), stride=0)
    with pytest.raises(ValueError, match="are needed"):
        conv(draw(6, 6, 3), draw(3, 3, 3, 4))
    with pytest.raises(TypeError, match="convert"):
        conv(draw(1, 6, 6, 3), draw(3, 3, 3, 4, dtype=jnp.bfloat16))
