"""Compares convolutions, their derivatives and a step of each network on a GPU to the CPU.

Convolutions are compared to float64 on the CPU: in float32 without TF32 ("highest"), in float32 with JAX's default
precision, and in bfloat16 with the same rounded operands. An error is the largest difference divided by the largest
value of the reference. Steps are compared to float32 on the CPU, by the gradients of both players, the batch
statistics, and the metrics; an error is the norm of the difference divided by the norm of the reference.

On a GPU cuDNN's algorithms are chosen by heuristics, not by autotuning: autotuning several programs at once took more
time than the stage has. XLA itself compares the results of all algorithms that it tries.
"""

import concurrent.futures
import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmarks import systems
from experiments.on_gpu import parity_cases
from experiments.on_gpu.parity_cases import Case
from experiments.on_gpu.stage import Stage, StageFailed, failure_of
from gan import data, schedules, state, steps
from gan.build import make_game, make_schedules
from gan.game import Game
from gan.parallel import compilation

MIN_SECONDS = 5.0


class Mode(NamedTuple):
    """A dtype and a precision."""

    dtype: str
    precision: str
    """Of products and convolutions: a value of `jax.default_matmul_precision`, or "default" for JAX's default."""


MODES = (Mode("float32", "highest"), Mode("float32", "default"), Mode("bfloat16", "default"))

TOLERANCES: Mapping[Mode, Mapping[str, float]] = {
    # Another order of sums. Transform-based algorithms lose digits: 1.7e-4 for a 5x5 kernel's gradient on an H200.
    MODES[0]: {"value": 5e-5, "first derivatives": 5e-4, "second derivatives": 5e-4},
    # TF32 rounds each operand by a relative 2^-11 at most.
    MODES[1]: {"value": 2e-3, "first derivatives": 2e-3, "second derivatives": 1e-2},
    # bfloat16 rounds by 2^-8: a result once, or twice if it is a sum; second derivatives in every layer.
    MODES[2]: {"value": 2**-7, "first derivatives": 2**-7, "second derivatives": 2**-5},
}
"""The tolerances of convolutions."""

STEP_TOLERANCE = 1e-3
"""The tolerance of a step in float32 without TF32: another order of sums, and ReLUs whose inputs are almost zero.

In the other modes the tolerance is the difference between bfloat16 and float32 on the CPU, times three for bfloat16.
"""


def run(stage: Stage) -> None:
    """Runs all comparisons, several at once. Fails if an error exceeds its tolerance."""
    compilation.enable_compilation_cache(data.cache.cache_folder() / "programs")
    device, cpu = jax.devices()[0], jax.devices("cpu")[0]
    stage.note(device=device.device_kind, platform=device.platform, jax=jax.__version__, reference="cpu")
    cases = parity_cases.TINY_CASES if stage.tiny else parity_cases.CASES
    families = parity_cases.TINY_FAMILIES if stage.tiny else parity_cases.FAMILIES
    jobs = [(case.name, functools.partial(compare_case, case, device, cpu)) for case in cases]
    networks = {name: Network(family, device, cpu) for name, family in families.items()}
    for modes in ((MODES[0], MODES[2]), (MODES[1],)):  # the most informative modes first
        jobs += [
            (f"step of {name}, {describe_modes(modes)}", functools.partial(compare_step, name, network, modes))
            for name, network in networks.items()
        ]
    with concurrent.futures.ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as threads:
        list(threads.map(lambda job: _done(stage, *job), jobs))
    rows = stage.record["rows"]
    failed = [row for row in rows if not row["passed"]]
    nearest = max(
        (row for row in rows if "error" in row), key=lambda row: row["error"] / row["tolerance"], default=None
    )
    lines = [f"{len(rows) - len(failed)} of {len(rows)} comparisons within their tolerance"]
    stage.headline(*lines, *([f"closest to it: {describe(nearest)}"] if nearest and not failed else []))
    if failed:
        raise StageFailed(
            "; ".join(map(describe, failed[:5])) + (f"; and {len(failed) - 5} more" if failed[5:] else "")
        )


def _done(stage: Stage, name: str, job: Callable[[], list[dict[str, Any]]]) -> None:
    if stage.left() < MIN_SECONDS and not stage.tiny:
        stage.drop(name)
        return
    try:
        rows = job()
    except Exception as error:  # other comparisons are not affected
        rows = [{"what": name, "failure": failure_of(error), "passed": False}]
    for row in rows:
        stage.add(**row)


def describe(row: Mapping[str, Any]) -> str:
    """Describes a row in one line."""
    if "error" not in row:
        return f"{row['what']}: {row['failure']}"
    mode = f"{row['dtype']} {row['precision']}"
    return f"{row['what']}, {row['quantity']}, {mode}: {row['error']:.2g} of {row['tolerance']:.2g}"


def row_of(what: str, quantity: str, mode: Mode, error: float, tolerance: float) -> dict[str, Any]:
    """The record of a comparison. NaN never passes."""
    return {"what": what, "quantity": quantity, **mode._asdict(), "error": error, "tolerance": tolerance,
            "passed": bool(error <= tolerance)}  # fmt: skip


def compare_case(case: Case, device: jax.Device, cpu: jax.Device) -> list[dict[str, Any]]:
    """Compares a convolution and its derivatives up to the second order, in every mode."""
    rows, operands, references = [], {}, {}
    for dtype in {mode.dtype for mode in MODES}:
        operands[dtype] = [np.asarray(array).astype(dtype) for array in case.operands()]
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            widened = [operand.astype(np.float64) for operand in operands[dtype]]
            references[dtype] = compute(case.quantities, widened, cpu)
    for mode in MODES:
        expected = references[mode.dtype]
        found = with_precision(mode, functools.partial(compute, case.quantities, operands[mode.dtype], device))
        rows += [
            row_of(case.name, quantity, mode, largest_error(found[quantity], expected[quantity]), tolerance)
            for quantity, tolerance in TOLERANCES[mode].items()
        ]
    return rows


def compute(function: Callable, arguments: Any, device: jax.Device, **options: Any) -> Any:
    """Computes `function(*arguments)` on a device, compiled. Returns NumPy arrays."""
    placed = jax.device_put(tuple(arguments), device)
    if device.platform == "gpu":
        options["xla_gpu_autotune_level"] = 0
    compiled = jax.jit(function).lower(*placed).compile(compiler_options=options or None)
    return jax.tree.map(np.asarray, compiled(*placed))


def with_precision(mode: Mode, work: Callable[[], Any]) -> Any:
    """Calls `work` with products and convolutions in a mode's precision."""
    if mode.precision == "default":
        return work()
    with jax.default_matmul_precision(mode.precision):
        return work()


def largest_error(found: Any, expected: Any) -> float:
    """The largest over a tree's leaves of max |found - expected| / max |expected|; NaN if one is not finite."""
    errors = jax.tree.map(
        lambda a, b: np.max(np.abs(a.astype(np.float64) - b)) / np.max(np.abs(b)), found, expected
    )  # fmt: skip
    return float(np.max(jax.tree.leaves(errors)))


def norm_error(found: Any, expected: Any) -> float:
    """|found - expected| / |expected| over all leaves of a tree; |found| if `expected` is all zero."""
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True)]
    difference = np.sqrt(sum(np.sum(np.square(a - b)) for a, b in pairs))
    return float(difference / (np.sqrt(sum(np.sum(np.square(b)) for _, b in pairs)) or 1.0))


class Network:
    """A network, its device, and the results of its step on the CPU, which are computed on first use."""

    def __init__(self, family: tuple[str, ...], device: jax.Device, cpu: jax.Device):
        self._family, self._device, self._cpu = family, device, cpu
        self._lock = threading.Lock()
        self._kept: tuple[Any, dict[str, Any]] | None = None

    def references(self) -> tuple[Any, dict[str, Any]]:
        """Returns the arguments of the step, and its results on the CPU by dtype."""
        with self._lock:
            if self._kept is None:
                # Optimizations take most of the CPU's compile time, and do not affect the results.
                quick = {} if self._cpu == self._device else {"xla_backend_optimization_level": 0}
                arguments, found = initial(self._family, self._cpu), {}
                for dtype in {mode.dtype for mode in MODES}:
                    with jax.default_matmul_precision("highest"):
                        found[dtype] = compute(step_of(self._family, dtype), arguments, self._cpu, **quick)
                self._kept = arguments, found
            return self._kept

    def found(self, mode: Mode, arguments: Any) -> dict[str, Any]:
        """The results of the step on the device."""
        step = step_of(self._family, mode.dtype)
        return with_precision(mode, functools.partial(compute, step, arguments, self._device))


def compare_step(name: str, network: Network, modes: Sequence[Mode]) -> list[dict[str, Any]]:
    """Compares one step of a network with learning rates of 0: gradients, statistics and metrics, in some modes."""
    arguments, references = network.references()
    rows = []
    for mode in modes:
        found = network.found(mode, arguments)
        for quantity, expected in references["float32"].items():
            tolerance = STEP_TOLERANCE
            if mode != MODES[0]:
                of_bfloat16 = norm_error(references["bfloat16"][quantity], expected)
                tolerance = max(tolerance, of_bfloat16 * (3.0 if mode.dtype == "bfloat16" else 1.0))
            rows.append(row_of(f"step of {name}", quantity, mode, norm_error(found[quantity], expected), tolerance))
    return rows


def describe_modes(modes: Sequence[Mode]) -> str:
    """The names of modes."""
    return ", ".join(" ".join(mode) for mode in modes)


def built(family: tuple[str, ...], dtype: str = "float32") -> tuple[ConfigDict, Game, schedules.Schedules]:
    """Builds a network's config, game and schedules.

    The optimizers are SGD with momentum and a learning rate of 0: after one step their state is the gradient, and the
    parameters are unchanged.
    """
    path, *changes = family
    config = systems.load(path, [*changes, *parity_cases.WITHOUT_UPDATES, f"compute_dtype={dtype}"])
    shape = (*config.data.image_size, config.data.channels)
    game = make_game(config, image_shape=shape, num_classes=parity_cases.CLASSES)
    return config, game, make_schedules(config)


def initial(family: tuple[str, ...], cpu: jax.Device) -> tuple[state.TrainState, dict[str, np.ndarray]]:
    """Creates a state and the batches of a step, always on the CPU."""
    config, game, schedule = built(family)
    rng = np.random.default_rng(0)
    size = (game.discriminator.steps, config.batch_size)
    batches = {
        "image": rng.uniform(*game.output.image_range, (*size, *game.image_shape)).astype(np.float32),
        "label": rng.integers(0, parity_cases.CLASSES, size, np.int32),
        "row": np.broadcast_to(np.arange(config.batch_size, dtype=np.int32), size),
    }
    with jax.default_device(cpu):
        return jax.jit(functools.partial(state.create, game, schedule(0)))(0), batches


def step_of(family: tuple[str, ...], dtype: str) -> Callable:
    """A function from the arrays of `initial` to the quantities that are compared after one step."""
    _, game, schedule = built(family, dtype)

    def step(before: state.TrainState, batches: dict) -> dict[str, Any]:
        after, metrics = steps.train_step(before, batches, schedule(before.images), game=game)
        return {
            "gradients of D": _floats(after.discriminator.opt_state),
            "gradients of G": _floats(after.generator.opt_state),
            "batch statistics": (after.discriminator.batch_stats, after.generator.batch_stats),
            "metrics": metrics,
        }

    return step


def _floats(tree: Any) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
