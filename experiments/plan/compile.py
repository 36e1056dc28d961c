"""Compiles the step of a config: for devices that are present, or ahead of time for accelerators that are not.

Ahead of time, the program is the one that a run compiles there, except for what XLA autotunes: on a GPU the algorithms
of cuDNN and cuBLAS, whose scratch memory is not known here, and the tiles of Triton kernels.
"""

import dataclasses
import functools
import re
import time
from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.benchmarks import timing
from experiments.plan import hlo
from experiments.plan.convolutions import Convolution, convolutions
from experiments.plan.targets import OPTIONS, Target
from experiments.plan.work import Data, program
from gan import build
from gan.errors import UserError
from gan.parallel import compilation, sharding
from gan.train import memory
from gan.train.setup import with_sharded_updates

MEMORY_SHARE = {"cuda": 0.75, "tpu": 1.0}
"""The share of a device's memory that JAX allocates by default, which limits "auto" microbatches."""

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The properties of a compiled step. Bytes are those of one device."""

    device: str
    devices: int
    lower_seconds: float
    compile_seconds: float
    argument_bytes: int
    """State and images."""
    temporary_bytes: int
    output_bytes: int
    """Without the state, which reuses the memory of the argument."""
    limit_bytes: float | None
    """The device's memory, or None if it is not in MACHINES."""
    convolutions: Counter[Convolution]
    collectives: Counter[str]
    rejection: str = ""
    """The compiler's message, if it failed."""
    text: str = ""
    """The HLO of the compiled program."""
    microbatches: int = 1

    @property
    def total_bytes(self) -> int:
        """The sum of arguments, temporary arrays and outputs."""
        return self.argument_bytes + self.temporary_bytes + self.output_bytes

    @property
    def fits(self) -> bool:
        """Whether the step fits into the memory of a device; libtpu does not compile a step that does not."""
        return not self.rejection and (self.limit_bytes is None or self.total_bytes <= self.limit_bytes)


def compile_ahead(config: ConfigDict, data: Data, target: Target, devices: Sequence[jax.Device]) -> Compiled:
    """Compiles a config's step for the devices of a target, and reads its properties.

    With "auto" microbatches, their number is the one that a run would choose there with JAX's default settings.

    Raises `UserError` if the devices do not divide the batch, or if the config uses `pmap`.
    """
    if config.parallel != "jit":
        raise UserError(f"--compile is for config.parallel='jit', not {config.parallel!r}")
    mesh = sharding.device_mesh(devices)
    sharding.check_batch(config.batch_size, mesh)
    if config.microbatches != build.AUTO:
        return _compile(config, data, target, mesh)
    if target.memory_bytes is None:
        raise UserError(
            f"config.microbatches='auto': the memory of {target.name} is not in the table; expected: a number"
        )

    def attempt(number: int) -> tuple[memory.Footprint, Compiled]:
        compiled = _compile(memory.with_microbatches(config, number), data, target, mesh)
        return memory.Footprint(compiled.argument_bytes, compiled.output_bytes, compiled.temporary_bytes), compiled

    step, _ = program(config, data)
    taken = memory.Device(int(MEMORY_SHARE[target.platform] * target.memory_bytes))
    fit = memory.choose(
        step.keywords["game"], batch_size=config.batch_size, devices=mesh.size, attempt=attempt, device=taken
    )
    return fit.compiled


def _compile(config: ConfigDict, data: Data, target: Target, mesh: Mesh) -> Compiled:
    start = time.perf_counter()
    lowered = lower_step(config, data, mesh)
    lowered_at = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=OPTIONS[target.platform])
        compile_seconds = time.perf_counter() - lowered_at
    except jax.errors.JaxRuntimeError as error:
        compile_seconds = time.perf_counter() - lowered_at
        found = _rejected(error, _argument_bytes(lowered, config, mesh))
    else:
        memory, text = compiled.memory_analysis(), compiled.as_text()
        made = hlo.parse(text)
        found = {
            "argument_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
            "output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "convolutions": convolutions(made, target.platform),
            "collectives": hlo.collectives(made),
            "text": text,
        }
    return Compiled(
        device=mesh.devices.flat[0].device_kind,
        devices=mesh.size,
        lower_seconds=lowered_at - start,
        compile_seconds=compile_seconds,
        limit_bytes=target.memory_bytes,
        microbatches=config.microbatches,
        **found,
    )


def lower_step(config: ConfigDict, data: Data, mesh: Mesh) -> jax.stages.Lowered:
    """Lowers the step as a run with streamed data does for these devices: in its loop, with a donated state."""
    step, (state, arrays, rows, hyperparams) = program(config, data)
    game = with_sharded_updates(step.keywords["game"], shard_state=config.shard_state, mesh=mesh)
    layout = sharding.state_sharding(state, mesh, sharded=config.shard_state)
    steps = compilation.jit_steps(functools.partial(step, game=game), mesh, data_axis=1, max_steps=1, layout=layout)
    return steps.lower(state, arrays, np.int32(1), rows, hyperparams)


def compiled_text(config: ConfigDict, data: Data, mesh: Mesh) -> str:
    """The HLO of a config's step, compiled for devices that are present."""
    if config.parallel == "jit":
        return lower_step(config, data, mesh).compile().as_text()
    step, (state, arrays, _, hyperparams) = program(config, data)
    steps = compilation.compile_steps(
        step,
        mesh,
        wrapper=config.parallel,
        batch_size=config.batch_size,
        data_axis=1,
        max_steps=1,
        hyperparams=hyperparams,
    )
    given = sharding.abstract((state, arrays), (sharding.replicated(mesh), sharding.split_rows(mesh, 1)))
    return jax.jit(lambda state, data: steps(state, data, 1)).lower(*given).compile().as_text()


def _argument_bytes(lowered: jax.stages.Lowered, config: ConfigDict, mesh: Mesh) -> int:
    """The bytes of the state and of the images of a step on one device."""
    state, arrays, *_ = lowered.args_info[0]
    layout = sharding.state_sharding(state, mesh, sharded=config.shard_state)
    return sharding.bytes_per_device((state, arrays), (layout, sharding.split_rows(mesh, 1)))


def _rejected(error: Exception, argument_bytes: int) -> dict:
    """The fields of `Compiled` for a step that libtpu did not compile, because it needs too much memory.

    libtpu reports the sum of arguments, temporary arrays and outputs in one of two ways.
    """
    text = " ".join(str(error).split())
    total = re.search(r"HBM, the total memory required for HLO temporaries \(([\d.]+)([KMGT]?)\)", text) or re.search(
        r"memory space hbm. Used ([\d.]+)([KMGT]?) of", text
    )
    if not total:
        raise error
    needed = int(float(total[1]) * UNITS[total[2]])
    return {
        "argument_bytes": argument_bytes,
        "temporary_bytes": max(needed - argument_bytes, 0),
        "output_bytes": 0,
        "convolutions": Counter(),
        "collectives": Counter(),
        "rejection": text[:300],
    }


def format_compiled(name: str, compiled: Compiled) -> str:
    """Formats the properties of a compiled step."""
    arguments, temporary, outputs, total = (
        f"{size / 2**30:,.2f}"
        for size in (compiled.argument_bytes, compiled.temporary_bytes, compiled.output_bytes, compiled.total_bytes)
    )
    if compiled.limit_bytes is None:
        limit = "; the memory of this device is not in the table, by the compiler's own limit it"
    else:
        limit = f" of {compiled.limit_bytes / 2**30:,.2f}:"
    lines = [
        f"compiled for {name} ({compiled.devices} x {compiled.device}, microbatches={compiled.microbatches}) in "
        f"{compiled.compile_seconds:.1f} s, after {compiled.lower_seconds:.1f} s of tracing",
        f"GiB on a device: {arguments} arguments, {temporary} temporary, {outputs} outputs; together {total}{limit} "
        f"{'fits' if compiled.fits else 'does not fit'}",
    ]
    if compiled.rejection:
        return "\n".join([*lines, f"compilation failed: {compiled.rejection}"])
    rows = [(*found, count) for found, count in sorted(compiled.convolutions.items())]
    lines.append(timing.table(("convolution", "dtype", "groups", "calls"), rows) if rows else "no convolutions")
    exchanges = ", ".join(f"{count} {kind}" for kind, count in sorted(compiled.collectives.items()))
    return "\n".join([*lines, f"exchanges between devices: {exchanges or 'none'}"])


def record(compiled: Compiled) -> dict:
    """The JSON record of a compiled step, without its HLO."""
    found = [{**found._asdict(), "count": count} for found, count in sorted(compiled.convolutions.items())]
    fields = {
        field.name: getattr(compiled, field.name) for field in dataclasses.fields(compiled) if field.name != "text"
    }
    return fields | {"fits": compiled.fits, "convolutions": found, "collectives": dict(compiled.collectives)}
