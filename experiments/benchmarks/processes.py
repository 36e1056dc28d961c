"""How are our programs and PyTorch's kept out of each other's way? Each side has a process of its own, and a turn.

XLA and PyTorch keep a pool of threads each, one a core, and a thread that has just worked may spin for a while in case
that more comes. So a side plays only when it is told to, and waits on a pipe, without any load, while the other does.
`Here` answers the same questions within this process, to see what that separation changes.
"""

import multiprocessing
import os
import traceback
from typing import Any, NamedTuple

from experiments.benchmarks.systems import configured
from experiments.benchmarks.torch import variants as torch_variants
from gan.errors import UserError


class Prepared(NamedTuple):
    """What a side says of a system that it can now play."""

    seconds: dict[str, float]
    """Of a turn, once more after the first, by program."""
    refused: dict[str, str]
    """Of programs that cannot be played, why."""
    parameters: tuple[int, int]
    """Of G and of D."""
    images: int
    """Real images in a turn."""


class Ours:
    """Our side: one program for a system."""

    def __init__(self):
        from experiments.benchmarks import step_time  # JAX starts in the process that is timed

        self._step_time, self._plays = step_time, {}

    def operations(self, system: str, overrides: list[str]) -> int:
        """Floating point operations of a turn, counted without compiling it."""
        return self._step_time.build(configured(system, overrides)).operations()

    def prepare(self, system: str, overrides: list[str], variants: list[str]) -> Prepared:
        """Compiles the turn of a system; `variants` are the other side's."""
        program = self._step_time.build(configured(system, overrides))
        self._plays.clear()
        play = self._plays["ours"] = program.compile()
        return Prepared({"ours": play(1)}, {}, program.parameters, program.images)

    def play(self, program: str, turns: int) -> float:
        """Plays so many turns; the seconds that one took."""
        return self._plays[program](turns)

    def matrix_rate(self, size: int, dtype: str) -> float:
        """Operations a second of a product of two matrices [size, size]."""
        return self._step_time.matrix_rate(size, dtype)

    def facts(self) -> dict[str, Any]:
        """What plays this side."""
        return self._step_time.facts()


class Torch:
    """PyTorch's side: the variants of a system. One system at a time, as on ours."""

    def __init__(self):
        from experiments.benchmarks.torch import device, peers

        self._device, self._peers, self._programs = device, peers, {}

    def prepare(self, system: str, overrides: list[str], variants: list[str]) -> Prepared:
        """Builds, and compiles where that is the variant, the programs of a system; no variants: all that apply."""
        from gan import data

        config = configured(system, overrides)
        applicable = torch_variants.variants_of(config, self._device.DEVICE.type)
        variants = [name for name in variants if name in applicable] if variants else applicable
        self.release_memory()
        self._programs, refused = self._peers.prepare(config, data.open_dataset(config.data).arrays()[0], variants)
        counts = {program.parameters for program in self._programs.values()}
        seconds = {name: program.play(1) for name, program in self._programs.items()}
        images = config.batch_size * config.discriminator_steps
        return Prepared(seconds, refused, counts.pop() if counts else (0, 0), images)

    def play(self, program: str, turns: int) -> float:
        """Plays so many turns; the seconds that one took."""
        return self._programs[program].play(turns)

    def matrix_rate(self, size: int, dtype: str) -> float:
        """Operations a second of a product of two matrices [size, size]."""
        return self._device.matrix_rate(size, dtype)

    def release_memory(self) -> None:
        """Drops the programs, and gives back their device memory."""
        self._programs.clear()
        self._device.release_memory()

    def facts(self) -> dict[str, Any]:
        """What plays this side."""
        return self._device.facts()


class Here:
    """A side in this process."""

    def __init__(self, side: type):
        self._side = side()

    def ask(self, question: str, *arguments: Any) -> Any:
        """What the side's method of that name answers."""
        return getattr(self._side, question)(*arguments)

    def close(self) -> None:
        """Nothing is held."""


class Apart:
    """A side in a process of its own, which waits without any load until it is asked."""

    def __init__(self, side: type):
        # On a GPU two processes share its memory; on a CPU this is without meaning.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        context = multiprocessing.get_context("spawn")  # a fork would inherit locks of threads that it does not have
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(side, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, question: str, *arguments: Any, timeout: float | None = None) -> Any:
        """What the side's method of that name answers.

        Raises a `UserError` of the side's, `RuntimeError` with the traceback of whatever else failed there, and
        `TimeoutError` where the answer takes longer than `timeout` seconds: the process has then been ended.
        """
        self._pipe.send((question, arguments))
        try:
            if timeout is not None and not self._pipe.poll(timeout):
                self._process.kill()
                raise TimeoutError(f"{question} had no answer within {timeout:.0f} s")
            answer, failure = self._pipe.recv()
        except EOFError as error:
            raise RuntimeError(f"{question}: the process ended, as one does that runs out of memory") from error
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
    player = side()
    while True:
        try:
            question, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((getattr(player, question)(*arguments), None))
        except UserError as error:
            pipe.send((None, error))
        except Exception:  # told to whom asked, who decides what becomes of it
            pipe.send((None, traceback.format_exc()))
