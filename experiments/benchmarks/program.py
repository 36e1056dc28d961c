"""The training step of a config as a run with resident data compiles it: to time, and to count its operations."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from experiments.benchmarks import operations, timing
from gan import build as setups
from gan import data
from gan.game import parameter_count
from gan.parallel import sharding
from gan.train import loop, sources


class Program(NamedTuple):
    """The training step of a config."""

    compile: Callable[[], timing.StepTimer]
    """Compiles the step and trains once, which is not timed."""
    operations: Callable[[], int]
    """Counts the floating point operations of a step."""
    images: int
    """Real images of a step."""
    parameters: tuple[int, int]
    """Of G and of D."""


def build(config: ConfigDict) -> Program:
    """Builds the program of a config from the run's own step and arrays, not from copies of them."""
    mesh = sharding.device_mesh()
    dataset = data.open_dataset(config.data)
    setup = setup_of(config, dataset)
    source = sources.Resident(dataset, setup.options, mesh)
    arrays, _ = source.take()

    def compiled() -> timing.StepTimer:
        layout = sharding.state_sharding(setup.shapes, mesh, sharded=setup.options.shard_state)
        return step_timer(loop.compile_setup(setup, setup.shapes, source, mesh), setup.initial_state(layout), arrays)

    def count() -> int:
        rows = jax.ShapeDtypeStruct((config.batch_size,), "int32")
        step = functools.partial(
            loop.run_step, game=setup.game, schedules=setup.schedules, batch_of=source.batch_of, axis_name=None
        )
        return operations.count(step, setup.shapes, arrays, rows, setup.base_hyperparams)

    return Program(
        compile=compiled,
        operations=count,
        images=config.batch_size * setup.game.discriminator.steps,
        parameters=tuple(
            parameter_count(player.params) for player in (setup.shapes.generator, setup.shapes.discriminator)
        ),
    )


def setup_of(config: ConfigDict, dataset: data.Dataset) -> setups.Setup:
    """The setup of a config on its dataset."""
    return setups.setup(config, image_shape=dataset.image_shape, num_classes=len(dataset.class_names))


def step_timer(steps: Callable, current: Any, arrays: Any) -> timing.StepTimer:
    """A timer of the compiled `steps(state, arrays, count)`, which trains on from the state `current`.

    Trains once before it returns, so that the compilation is not timed.
    """

    def time_steps(count: int) -> float:
        nonlocal current
        start, left = time.perf_counter(), count
        while left:
            dispatched = min(left, sources.MAX_STEPS_PER_DISPATCH)
            current, metrics = steps(current, arrays, dispatched)
            left -= dispatched
        jax.block_until_ready((current, metrics))
        return (time.perf_counter() - start) / count

    time_steps(1)
    return time_steps


def facts() -> dict[str, str]:
    """The device and the version of JAX."""
    device = jax.devices()[0]
    return {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__}


def matrix_rate(size: int, dtype: str = "float32") -> float:
    """Floating point operations a second of a product of two matrices [size, size]."""
    left, right = jax.random.normal(jax.random.key(0), (2, size, size)).astype(dtype)
    product = jax.jit(lambda a, b: a @ b)
    return timing.best_rate(lambda: product(left, right).block_until_ready(), 2 * size**3)
