"""The small run on which faults are tried, how it is launched, and how its exit is checked."""

import dataclasses
import functools
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

RUN = {
    "data.image_size": (8, 8),
    "generator.width": 4,
    "discriminator.width": 4,
    "batch_size": 8,
    "steps": 240,
    "log_every": 8,
    "sample_every": 40,
    "checkpoint_every": 8,
}
"""A DCGAN on the bundled digits. Start-up takes half of a launch, and saving a third of the rest."""

TOY = {"steps": 240, "log_every": 40, "sample_every": 120, "checkpoint_every": 40}
"""A run of configs/toy.py on 2-D points, which can be NaN; pixels cannot."""

TIMEOUT_SECONDS = 300
"""A launch that takes longer is reported as hanging."""

START = "import runpy; runpy.run_module('gan.main', run_name='__main__', alter_sys=True)"
"""What `python -m gan.main` does. The code that injects a fault is executed before it, in the same process."""


class Lost(Exception):
    """The run did not survive the fault. The message says what is wrong."""


class Skipped(Exception):
    """The fault cannot be produced on this machine. The message says why."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One attempt at a fault."""

    name: str
    message: str = ""
    """The line in which the run reported what happened."""
    lost: str = ""
    """What is wrong, or "" if the run survived."""


Attempts = Iterator[tuple[str, Callable[[], str | None]]]
"""Pairs of a case's name and a function that tries it. The function returns the run's message and raises `Lost`."""


@dataclasses.dataclass
class Bench:
    """Where faults are tried: a folder, a filled data cache, and undisturbed reference runs.

    `run` are the fields of the config of the run into which faults are injected.
    """

    folder: Path
    kills: int = 50
    seed: int = 0
    run: dict[str, object] = dataclasses.field(default_factory=lambda: RUN)

    def __post_init__(self):
        self.rng = random.Random(self.seed)
        self._count = 0
        self.environment = os.environ | {
            "GAN_CACHE_DIR": str(self.folder / "cache"),
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }

    @property
    def num_steps(self) -> int:
        """Steps of the undisturbed run."""
        return self.run["steps"]

    @property
    def num_saves(self) -> int:
        """Checkpoints that the undisturbed run saves."""
        return self.num_steps // self.run["checkpoint_every"]

    def new_folder(self, name: str) -> Path:
        """A path that does not exist yet."""
        self._count += 1
        return self.folder / f"{self._count:03d}-{name}"

    @functools.cached_property
    def reference(self) -> Path:
        """The folder of the undisturbed run."""
        folder = self.folder / "reference"
        expect_exit(wait_for_exit(self.launch(folder)), 0)
        return folder

    @functools.cached_property
    def toy_reference(self) -> Path:
        """The folder of the undisturbed run on 2-D points."""
        folder = self.folder / "toy-reference"
        expect_exit(wait_for_exit(self.launch(folder, config="toy", **TOY)), 0)
        return folder

    @functools.cached_property
    def launch_seconds(self) -> float:
        """Seconds from launch to exit, with the data and the compiled functions in their caches."""
        assert self.reference
        start = time.monotonic()
        expect_exit(wait_for_exit(self.launch(self.new_folder("timed"))), 0)
        return time.monotonic() - start

    @functools.cached_property
    def _half_trained(self) -> Path:
        folder = self.folder / "half"
        expect_exit(wait_for_exit(self.launch(folder, steps=self.num_steps // 2)), 0)
        return folder

    def half_trained(self, name: str) -> Path:
        """A new folder with an intact run that was trained for half of its steps."""
        return Path(shutil.copytree(self._half_trained, self.new_folder(name)))

    def copy_of_reference(self, name: str) -> Path:
        """A new folder with a copy of the undisturbed run."""
        return Path(shutil.copytree(self.reference, self.new_folder(name)))

    def launch(
        self,
        workdir: Path,
        *,
        config: str = "dcgan",
        fault: str = "",
        environment: dict[str, str] | None = None,
        stdout: object = subprocess.DEVNULL,
        stderr: object = subprocess.PIPE,
        prefix: str = "",
        new_session: bool = False,
        **fields: object,
    ) -> subprocess.Popen:
        """Starts `python -m gan.main` on the small run.

        `prefix` is shell code that is executed first, `fault` Python code that is executed before gan.main, and
        `fields` are fields of the config, with `__` for a dot.
        """
        fields = {name.replace("__", "."): value for name, value in fields.items()}
        fields = (self.run if config == "dcgan" else {}) | fields
        variant = ":digits" if config == "dcgan" else ""
        flags = [f"--config.{name}={value}" for name, value in fields.items()]
        start = ["-c", f"{fault}\n{START}"] if fault else ["-m", "gan.main"]
        through = ["sh", "-c", f'{prefix}; exec "$@"', "sh"] if prefix else []
        return subprocess.Popen(
            [*through, sys.executable, *start, f"--config=configs/{config}.py{variant}", f"--workdir={workdir}",
             *flags],
            cwd=ROOT, env=environment or self.environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            text=True, errors="replace", start_new_session=new_session,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Exit:
    """How a launch ended: its exit status (negative if a signal killed it) and its stderr."""

    status: int
    stderr: str


def wait_for_exit(process: subprocess.Popen, seconds: float = TIMEOUT_SECONDS) -> Exit:
    """Waits for the end of a launch. Raises `Lost` if it hangs."""
    try:
        _, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Lost(f"still running after {seconds} s") from None
    return Exit(process.returncode, stderr or "")


def expect_exit(end: Exit, status: int, *words: str) -> str:
    """Checks how a launch ended, and returns the last line of its stderr.

    Raises `Lost` if the status is another one, if there is a traceback, if an error is not reported in exactly one
    line, or if the last line lacks one of `words`.
    """
    lines = end.stderr.strip().splitlines() or [""]
    if end.status != status:
        raise Lost(f"status {end.status}, not {status}: {' / '.join(lines[-3:])[:500]}")
    if noise := next((line for line in lines if line.startswith(("Traceback", "Exception", "Fatal"))), None):
        raise Lost(f"more than one line: {noise} ... {' / '.join(lines[-4:])[-500:]}")
    if missing := [word for word in words if word not in lines[-1]]:
        raise Lost(f"{missing[0]!r} is not in the last line: {lines[-1][:500]}")
    if status in (2, 3) and sum(line.startswith(("error: ", "diverged: ")) for line in lines) != 1:
        raise Lost(f"not reported in one line: {' / '.join(lines[-3:])[:500]}")
    return lines[-1]
