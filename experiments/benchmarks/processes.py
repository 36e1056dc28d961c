"""Runs JAX and PyTorch in separate processes, one at a time, so that they do not disturb each other.

XLA and PyTorch each have a pool of threads, one per core, and a thread that has just worked may spin for a while. So
each side runs only when it is asked to, and otherwise waits on a pipe without any load. `SameProcess` answers the same
requests within this process, to measure the effect of the separation.
"""

import multiprocessing
import os
import traceback
from typing import Any, NamedTuple

from experiments.benchmarks.systems import configured
from experiments.benchmarks.torch import variants as torch_variants
from gan.errors import UserError


class Prepared(NamedTuple):
    """A system that a side has compiled."""

    seconds: dict[str, float]
    """Of one step, by program."""
    failed: dict[str, str]
    """Error messages of programs that cannot be run."""
    parameters: tuple[int, int]
    """Of G and of D."""
    images: int
    """Real images of a step."""


class Ours:
    """Our side: one program for each system."""

    def __init__(self):
        from experiments.benchmarks import program  # JAX starts in the process that is timed

        self._program, self._timers = program, {}

    def operations(self, system: str, overrides: list[str]) -> int:
        """Floating point operations of a step, counted without compiling it."""
        return self._program.build(configured(system, overrides)).operations()

    def prepare(self, system: str, overrides: list[str], variants: list[str]) -> Prepared:
        """Compiles the step of a system; `variants` are for the other side."""
        program = self._program.build(configured(system, overrides))
        self._timers.clear()
        timer = self._timers["ours"] = program.compile()
        return Prepared({"ours": timer(1)}, {}, program.parameters, program.images)

    def time_steps(self, program: str, steps: int) -> float:
        """Trains for a number of steps. Returns the seconds per step."""
        return self._timers[program](steps)

    def matrix_rate(self, size: int, dtype: str) -> float:
        """Operations per second of a product of two matrices [size, size]."""
        return self._program.matrix_rate(size, dtype)

    def facts(self) -> dict[str, Any]:
        """The device and the versions of this side."""
        return self._program.facts()


class Torch:
    """PyTorch's side: the variants of one system at a time."""

    def __init__(self):
        from experiments.benchmarks.torch import device, peers

        self._device, self._peers, self._programs = device, peers, {}

    def prepare(self, system: str, overrides: list[str], variants: list[str]) -> Prepared:
        """Builds the programs of a system, and compiles some of them; no variants: all that apply."""
        from gan import data

        config = configured(system, overrides)
        applicable = torch_variants.variants_of(config, self._device.DEVICE.type)
        variants = [name for name in variants if name in applicable] if variants else applicable
        self.release_memory()
        self._programs, failed = self._peers.prepare(config, data.open_dataset(config.data).arrays()[0], variants)
        counts = {program.parameters for program in self._programs.values()}
        seconds = {name: program.time_steps(1) for name, program in self._programs.items()}
        images = config.batch_size * config.discriminator_steps
        return Prepared(seconds, failed, counts.pop() if counts else (0, 0), images)

    def time_steps(self, program: str, steps: int) -> float:
        """Trains for a number of steps. Returns the seconds per step."""
        return self._programs[program].time_steps(steps)

    def matrix_rate(self, size: int, dtype: str) -> float:
        """Operations per second of a product of two matrices [size, size]."""
        return self._device.matrix_rate(size, dtype)

    def release_memory(self) -> None:
        """Deletes the programs and frees their device memory."""
        self._programs.clear()
        self._device.release_memory()

    def facts(self) -> dict[str, Any]:
        """The device and the versions of this side."""
        return self._device.facts()


class SameProcess:
    """A side in this process."""

    def __init__(self, side: type):
        self._side = side()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Calls the side's method of that name."""
        return getattr(self._side, method)(*arguments)

    def close(self) -> None:
        """Does nothing."""


class OwnProcess:
    """A side in a process of its own, which waits without any load until it is asked."""

    def __init__(self, side: type):
        # On a GPU the two processes share its memory; on a CPU this has no effect.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        context = multiprocessing.get_context("spawn")  # a fork would inherit locks of threads that do not exist there
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(side, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, method: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Calls the side's method of that name, and waits for its result.

        Raises a `UserError` of the side, `RuntimeError` with the traceback of any other failure there, and
        `TimeoutError` if there is no result within `timeout` seconds; the process is then killed.
        """
        self._pipe.send((method, arguments))
        try:
            if timeout is not None and not self._pipe.poll(timeout):
                self._process.kill()
                raise TimeoutError(f"{method} had no answer within {timeout:.0f} s")
            answer, failure = self._pipe.recv()
        except EOFError as error:
            raise RuntimeError(f"{method}: the process died, perhaps because it ran out of memory") from error
        if isinstance(failure, UserError):
            raise failure
        if failure is not None:
            raise RuntimeError(failure)
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join()


def _serve(side: type, pipe: Any) -> None:
    instance = side()
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((getattr(instance, method)(*arguments), None))
        except UserError as error:
            pipe.send((None, error))
        except Exception:  # raised again in the process that asked
            pipe.send((None, traceback.format_exc()))
