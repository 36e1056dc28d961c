"""gan.networks.conv: the lowerings for CPU, GPU and TPU against XLA's own convolutions, and their shards."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import CASES, arrays, case_id, close, draw, functions, geometry_of, value_and_pullback
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from gan.networks.conv import cpu, forms, grouped, primitives, tiles


@pytest.mark.parametrize("case", [case for case in CASES if case[-1] == 1], ids=case_id)
def test_all_programs_for_cpu_agree(case):
    # The sizes of these small cases would always choose the same program.
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


@pytest.mark.parametrize(
    "case, parts",
    [*((case, 1) for case in TILED[::2]), *(pytest.param(case, 1, marks=pytest.mark.slow) for case in TILED[1::2]),
     (TILED[2], 2)],
    ids=str,
)  # fmt: skip
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
    """Arrays, a convolution of them for which tiles are used, and XLA's convolution."""
    case = ((size, size), (taps, taps), stride, "SAME", 32, 32, 1)
    batch = 256 // (size // stride // 2) ** 2 + 1
    return *arrays(case, batch), *functions(case)


@pytest.mark.parametrize("stride, taps, size", [(2, 4, 16), (1, 3, 16)])
def test_wide_convolutions_use_tiles_in_every_derivative(stride, taps, size):
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
def test_a_sharded_batch_is_not_gathered(by):
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
    monkeypatch.setattr(primitives, "lower_cpu", grouped.grouped)
    yield
    jax.clear_caches()


def derivatives(function, x, w):
    """The value, both gradients and the weights' gradient of a gradient penalty, of a smooth critic of `function`."""

    def critic(x, w):
        return jnp.sum(jnp.tanh(function(x, w)))

    def penalty(w):
        return jnp.sum(jnp.square(jax.grad(critic)(x, w)))

    return function(x, w), jax.grad(critic, (0, 1))(x, w), jax.grad(penalty)(w)


# 16 bits of bfloat16 keep 8 digits: a relative error of 2^-9 for each rounding. A derivative has a few roundings.
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 2e-5), (jnp.bfloat16, 2**-6)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", [*CASES[3:6], *CASES[7:13], *CASES[-3:]], ids=case_id)
def test_lowering_for_accelerators_is_exact(case, dtype, tolerance, as_on_accelerators):
    ours, reference = functions(case)
    x, w = (0.3 * array for array in arrays(case, dtype=dtype))
    actual = jax.jit(partial(derivatives, ours))(x, w)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(array, np.float64)) for array in (x, w)]
        expected = jax.device_get(jax.jit(partial(derivatives, reference))(*wide))
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {jnp.dtype(dtype)}
    close(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), actual), expected, tolerance)


@pytest.mark.parametrize("channels, is_split", [(1, True), (3, True), (5, False)])
def test_images_of_few_channels_are_split_into_phases_on_gpus(channels, is_split):
    case = ((8, 6), (4, 4), 2, "SAME", channels, 16, 1)
    ours, _ = functions(case)
    x, w = arrays(case)
    traced = jax.jit(partial(value_and_pullback, ours)).trace(x, w)
    programs = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cuda", "tpu")}
    for platform, text in programs.items():
        calls = re.findall(r"stablehlo.convolution.*", text)
        strided = [call for call in calls if re.search(r"(stride|_dilate) = \[2, 2\]", call)]
        assert len(calls) == 3 and len(strided) == (0 if is_split and platform == "cuda" else 3)
    widths = {1: 8, 3: 16}  # four phases of the channels, with zeros to an even number
    assert not is_split or f"x{widths[channels]}x16xf32>" in programs["cuda"]


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
def test_devices_keep_their_shard_of_a_convolution_in_groups(axis, as_on_accelerators):
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
