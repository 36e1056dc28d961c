"""`config.microbatches="auto"`: the fewest microbatches with which a run's compiled train step fits the device.

The sizes are the compiler's own (`jax.stages.Compiled.memory_analysis`), and the compiled step that was found to fit is
the one that the run then uses. Where microbatches would change the numbers beyond rounding, "auto" does not choose
them: see `what_parts_change`.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import InvalidRngError
from ml_collections import ConfigDict

from gan.build import AUTO
from gan.errors import UserError, is_out_of_memory
from gan.game import Game, initial_variables
from gan.losses import PlayerLoss
from gan.parallel import processes, sharding

logger = logging.getLogger(__name__)

SHARE = 0.9
"""Of a device's memory that a train step may need. The rest is for samples and metrics, which are computed between
steps, for batches that are sent ahead, and for what an allocator loses between its pieces."""

ANOTHER_DEVICE = "another_device"
"""The name of a mapped axis by which it is seen whether a network asks other examples."""


class Footprint(NamedTuple):
    """Bytes that a compiled train step needs on one device."""

    arguments: int
    """State, data and hyperparameters, a dataset that is kept on the device included."""
    outputs: int
    """Those that do not take the place of donated arguments."""
    temporary: int
    """Activations and gradients: about linear in the examples of one microbatch."""

    @property
    def total(self) -> int:
        """All of them, which are needed at the same time."""
        return sum(self)


class Device(NamedTuple):
    """Bytes of memory of a device."""

    total: int
    in_use: int = 0
    """Of what lies there already: the state and resident data, and perhaps more."""


Attempt = Callable[[int], tuple[Footprint | None, Any]]
"""Compiles a step with so many microbatches: what it needs, or None where it cannot be compiled, and the program."""


class Fit(NamedTuple):
    """A number of microbatches that fits."""

    microbatches: int
    footprint: Footprint
    device_bytes: int
    compiled: Any
    """The program, as the attempt gave it."""

    def record(self) -> dict:
        """What `config.json` keeps of it."""
        needed = self.footprint._asdict() | {"total": self.footprint.total}
        return {"asked": AUTO, "microbatches": self.microbatches, "bytes": needed, "device_bytes": self.device_bytes}


def chosen(record: dict) -> str:
    """The line that says what a `Fit.record` holds."""
    needed, has = in_units(record["bytes"]["total"]), in_units(record["device_bytes"])
    return f"microbatches=auto: {record['microbatches']}; a step needs {needed} of the device's {has}"


def with_microbatches(config: ConfigDict, number: int) -> ConfigDict:
    """A copy of the config with a number in place of "auto"."""
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.microbatches = number
    return config


def recorded_number(record: dict | None, batch_size: int) -> int:
    """The number of microbatches that a run's record holds, or 1 where it is none for this batch."""
    number = 1 if record is None else record["config"].get("microbatches")
    return number if type(number) is int and number > 0 and batch_size % number == 0 else 1


def warn_of_parts(game: Game, changes: Sequence[dict]) -> None:
    """Logs why another number of microbatches is more than rounding, where it is among the changes of a resumed run."""
    if any(change["field"] == "microbatches" for change in changes) and (reason := what_parts_change(game)):
        logger.warning("config.microbatches changes more than rounding here: %s", reason)


def candidates(batch_size: int, devices: int, period: int = 1) -> list[int]:
    """The numbers of microbatches, in rising order, that leave equal parts of a batch on each of the devices.

    A part is a multiple of `period`, that of the rows of a gradient's estimator.
    """
    parts = batch_size // devices // period
    return [number for number in range(1, parts + 1) if parts % number == 0]


def what_parts_change(game: Game) -> str:
    """Why an update in parts is another than that of the whole batch, beyond rounding; "" where it is the same.

    Penalties are taken to be by example, as `gan.penalties` asks of them.
    """
    variables = jax.eval_shape(lambda key: initial_variables(game, key, key), jax.random.key(0))
    for name, own in zip(("generator", "discriminator"), variables, strict=True):
        if reason := _what_parts_change_in(game, name, own):
            return f"the {name} {reason}"
    if not all(map(_is_by_example, game.loss)):
        return "the loss compares the examples of a batch with each other"
    if game.selects_top:
        return "top_k selects from the images of a batch"
    if game.normalizes_gradient:
        return "normalize_gradient divides by a norm that each part of a batch has a share in"
    if "path_length" in game.generator.penalties and game.has_styles:
        return "penalties.path_length is taken at every second example of a batch"
    return ""


def choose(
    game: Game, *, batch_size: int, devices: int, attempt: Attempt, recorded: int = 0, device: Device | None = None,
) -> Fit:  # fmt: skip
    """The smallest number of microbatches with which a train step fits; all processes of a run choose the same.

    It is assumed that a step needs less memory the more microbatches it has. Then few compilations find the number, at
    most 2 + log2 n for n candidates: see `smallest_that_fits`.

    Args:
      game: tells whether parts change the numbers. If they do, 1 is the only candidate.
      batch_size: over all devices.
      devices: how many of them share a batch.
      attempt: compiles the train step for a number of microbatches: see `compiled_within_memory`.
      recorded: the number with which the run was trained before, 0 if it begins. It is kept if it fits.
      device: what a device has; None: as those of this process.

    Raises `UserError` where no candidate fits, with what would help.
    """
    reason = what_parts_change(game)
    every = candidates(batch_size, devices, game.gradient_estimator.rows.period)
    counts = [recorded or 1] if reason else every
    if recorded and recorded not in counts:
        logger.warning("microbatches=%d, which the run had, does not divide the examples of a device", recorded)
    counts = counts[counts.index(recorded) :] if recorded in counts else counts
    attempts = _Attempts(attempt, device or processes.broadcast_from_primary(present_device))
    fitting = smallest_that_fits(counts, attempts, attempts.guess)
    if fitting is None and reason:
        raise UserError(attempts.why_not_whole(counts[0], reason, every))
    if fitting is None:
        raise UserError(attempts.why_none(counts[-1]))
    if recorded == counts[0] != fitting:
        had = attempts.needed(recorded)
        logger.warning("microbatches=%d, which the run had: %s. From here on %d", recorded, had, fitting)
    footprint = attempts.measured[fitting]
    assert footprint is not None  # it fits
    return Fit(fitting, footprint, attempts.device.total, attempts.compiled)


def present_device() -> Device:
    """What the devices of this process have, and what lies on them."""
    return Device(sharding.device_memory_bytes(), sharding.bytes_in_use())


def smallest_that_fits(
    counts: Sequence[int], fits: Callable[[int], bool], guess: Callable[[Sequence[int]], int]
) -> int | None:
    """The first of `counts` that fits, where all after one that fits fit too; None where none does.

    The first is tried first, then `guess(counts)`, the index where the border may lie, and so on: where guesses are
    right, two or three in all. At most 2 + log2(len(counts)) are tried, rounded up: a guess is moved as far as leaves
    both sides short enough for bisection in what is left of that.
    """
    below, above = -1, len(counts)  # the last that does not fit, the first that does; neither is known yet
    left, index = 2 + math.ceil(math.log2(len(counts))), 0
    while True:
        left -= 1
        if fits(counts[index]):
            above = index
        else:
            below = index
        if above - below == 1:
            return counts[above] if above < len(counts) else None
        reach = 2 ** (left - 1)
        index = min(max(guess(counts), above - reach, below + 1), below + reach, above - 1)


def compiled_within_memory(
    compile_step: Callable[[], jax.stages.Compiled],
) -> tuple[Footprint | None, jax.stages.Compiled | None]:
    """A compiled program and what it needs, or None of both where the compiler finds that it needs too much."""
    try:
        compiled = compile_step()
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return None, None
        raise
    return footprint(compiled), compiled


def footprint(compiled: jax.stages.Compiled) -> Footprint:
    """What a compiled program needs on each device. Raises `UserError` where the compiler does not say."""
    found = compiled.memory_analysis()
    if found is None:
        raise UserError(
            f"config.microbatches='auto' needs the compiler's memory sizes, and {jax.default_backend()!r} gives "
            f"none; expected: a whole number"
        )
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    return Footprint(found.argument_size_in_bytes, outputs, found.temp_size_in_bytes)


class _Attempts:
    """Compiles train steps, and holds what each needs beside what the device has."""

    def __init__(self, attempt: Attempt, device: Sequence[int]):
        self._attempt, self.device = attempt, Device(*device)
        self.measured: dict[int, Footprint | None] = {}
        """By the number of microbatches; None for one that did not compile in the device's memory."""
        self.compiled: Any = None
        """The program of the last number that fits, the smallest one."""

    def __call__(self, microbatches: int) -> bool:
        """Whether the step of so many microbatches fits every device."""
        own, compiled = self._attempt(microbatches)
        # Every process compiles the same programs in the same order, and all use what the primary process measures.
        primary = processes.broadcast_from_primary(lambda: own)
        self.measured[microbatches] = None if primary is None else Footprint(*primary)
        fits = processes.all_succeed(own is not None and own.temporary <= self._room(own))
        if fits:
            self.compiled = compiled
        return fits

    def guess(self, counts: Sequence[int]) -> int:
        """The index of the first of `counts` that should fit by what was measured, or past the end.

        With m microbatches the temporary bytes are a + b / m: the line through the last two measured, or a = 0.
        """
        known = [(1 / number, found) for number, found in self.measured.items() if found is not None][-2:]
        if not known:
            return len(counts) // 2
        (share, found), (other, before) = known[-1], known[0]
        slope = (found.temporary - before.temporary) / (share - other) if share != other else found.temporary / share
        fitting = (
            index
            for index, number in enumerate(counts)
            if found.temporary + slope * (1 / number - share) <= self._room(found)
        )
        return processes.broadcast_from_primary(lambda: next(fitting, len(counts)))

    def why_not_whole(self, number: int, reason: str, counts: Sequence[int]) -> str:
        """The message where parts change the numbers and the batch does not fit as it is."""
        larger = [count for count in counts if count > number]
        index = self.guess(larger)
        own = f"config.microbatches={larger[index]}, or another number; " if index < len(larger) else ""
        return (
            f"config.microbatches='auto' does not divide the batch, because that changes more than rounding: {reason}. "
            f"With {number} {self.needed(number)}. Expected: {own}in a new run, a smaller config.batch_size. What "
            f"helps: {HELPS}"
        )

    def why_none(self, number: int) -> str:
        """The message where even the largest number of microbatches does not fit."""
        return (
            f"config.microbatches='auto': none fits. With {number}, one example at a time on each device, "
            f"{self.needed(number)}. What helps: {HELPS}"
        )

    def needed(self, number: int) -> str:
        """What a step needs with so many microbatches, and what there is."""
        found, has = self.measured[number], f"a device has {in_units(self.device.total)}, {SHARE:.0%} of it for a step"
        if found is None:
            return f"a step does not compile in its memory; {has}"
        held = self._held(found)
        others = f", and {in_units(held)} are taken already" if held else ""
        return (
            f"a step needs {in_units(found.total)}, {in_units(found.arguments)} of it for its arguments (state and "
            f"data); {has}{others}"
        )

    def _room(self, found: Footprint) -> float:
        """Bytes that are left for a step's temporary arrays."""
        return SHARE * self.device.total - self._held(found) - found.arguments - found.outputs

    def _held(self, found: Footprint) -> int:
        """Bytes on the device that are none of the step's arguments, which may lie there already."""
        return max(0, self.device.in_use - found.arguments)


HELPS = (
    "smaller widths or images; config.data.on_device='never'; config.shard_state=True on several devices; on a GPU "
    "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 in the environment, where JAX takes 0.75 of the memory"
)


def in_units(size: float) -> str:
    """Bytes as a user reads them."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.2f} MiB"


def _is_by_example(loss: PlayerLoss) -> bool:
    """Whether a loss gives a row alone what it gives it among others."""
    real, fake = (jnp.float32([0.3, -1.2, 2.1]), jnp.float32([-0.4, 0.9, 1.7]))
    together = loss(real, fake)
    alone = jnp.concatenate([loss(real[row : row + 1], fake[row : row + 1]) for row in range(len(real))])
    return bool(np.allclose(together, alone, rtol=1e-4, atol=1e-4))


def _what_parts_change_in(game: Game, name: str, variables: Any) -> str:
    """As `what_parts_change`, of one player.

    A layer that looks at other examples, or draws numbers by its rows, asks other devices of a mapped axis: so it does
    in the program for two devices with one example each.
    """
    if getattr(game, name).spectral_norm:
        return "has spectral normalization, which takes a power iteration for each part"
    if variables["batch_stats"]:
        return f"keeps statistics of its batches ({', '.join(sorted(variables['batch_stats']))})"
    split = game.on_axis(ANOTHER_DEVICE)

    def applied(variables: Any, latent: jax.Array, image: jax.Array, label: jax.Array) -> Any:
        if name == "generator":
            return split.generate(variables, latent, label, train=True)
        return split.discriminate(variables, image, label, train=True)

    arrays = (jnp.zeros((1, game.latent_size)), jnp.zeros((1, *game.image_shape)), jnp.zeros((1,), jnp.int32))
    try:
        program = jax.make_jaxpr(applied, axis_env=[(ANOTHER_DEVICE, 2)])(variables, *arrays)
    except InvalidRngError:  # it was given no key
        return "draws random numbers, dropout or noise, anew for each part"
    return "compares the examples of a batch with each other" if ANOTHER_DEVICE in str(program) else ""
