"""What goes wrong, done on purpose: is a bit of a run lost, and what is its user told?

python -m experiments.faults [--only NAME ...] [--kills 50] [--workdir=DIR] [--seed 0] [--out=FILE.json]

A small run is launched as a user launches it, and a fault befalls it. It has survived where it ends as the undisturbed
run does, at once or when the same command is given again after the fault: the same bits in the checkpoint as it is
read back, the same figures, each step once, the same pictures; and where a run that had to end said why in one line,
without a traceback, and with the exit status of docs/architecture.md. Prints a table; exits with 1 if anything is lost.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

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
"""A DCGAN on the bundled digits: half of a launch is start-up, a third of the rest is spent in saving."""

TOY = {"steps": 240, "log_every": 40, "sample_every": 120, "checkpoint_every": 40}
"""Points, which can be NaN as pixels cannot; of configs/toy.py."""

TIMES = {"seconds", "images_per_second", "seconds_per_step", "share_waiting_for_data"}
"""The figures of a step that no two launches share."""

PATIENCE_SECONDS = 300
"""A launch that takes longer hangs."""

GRACE_SECONDS = 10
"""Between SIGTERM and SIGKILL: what a container is given."""

DISK_MEGABYTES = 16

SHOWN = 150
"""Characters of a line that the table shows."""

ADDRESS_BYTES = 10 * 2**30
"""The memory of a run that is to have too little; JAX alone reserves a third of it."""

START = "import runpy; runpy.run_module('gan.main', run_name='__main__', alter_sys=True)"
"""What `python -m gan.main` does; what stands before it is the fault."""


class Lost(Exception):
    """The run did not survive the fault: what is wrong."""


class Skipped(Exception):
    """The fault cannot be had on this machine: why."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One try of a fault."""

    what: str
    told: str = ""
    """The line with which the run said what had happened to it."""
    lost: str = ""
    """What is wrong, or "" where the run survived."""


@dataclasses.dataclass
class Bench:
    """Where faults are tried: a folder, a cache that is filled, and the run that nothing disturbed."""

    folder: Path
    kills: int = 50
    seed: int = 0

    def __post_init__(self):
        self.draw = random.Random(self.seed)
        self._count = 0
        self.environment = os.environ | {
            "GAN_CACHE_DIR": str(self.folder / "cache"),
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }

    def fresh(self, name: str) -> Path:
        """A folder that is not there yet."""
        self._count += 1
        return self.folder / f"{self._count:03d}-{name}"

    @functools.cached_property
    def whole(self) -> Path:
        """The folder of the undisturbed run."""
        folder = self.folder / "whole"
        _expect(ended(self.launch(folder)), 0)
        return folder

    @functools.cached_property
    def toy(self) -> Path:
        """The folder of the undisturbed run on points."""
        folder = self.folder / "toy"
        _expect(ended(self.launch(folder, config="toy", **TOY)), 0)
        return folder

    @functools.cached_property
    def life(self) -> float:
        """Seconds from launch to end, when data and compiled programs are there."""
        assert self.whole
        begun = time.monotonic()
        _expect(ended(self.launch(self.fresh("timed"))), 0)
        return time.monotonic() - begun

    @functools.cached_property
    def _half(self) -> Path:
        folder = self.folder / "half"
        _expect(ended(self.launch(folder, steps=RUN["steps"] // 2)), 0)
        return folder

    def half(self, name: str) -> Path:
        """A new folder with a run that was played to its half, and that nothing has disturbed yet."""
        return Path(shutil.copytree(self._half, self.fresh(name)))

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
        """Starts `python -m gan.main` on the small run, after the Python of `fault` and `prefix`, of the shell."""
        fields = {name.replace("__", "."): value for name, value in fields.items()}
        fields = (RUN if config == "dcgan" else {}) | fields
        flags = [f"--config.{name}={value}" for name, value in fields.items()]
        start = ["-c", f"{fault}\n{START}"] if fault else ["-m", "gan.main"]
        through = ["sh", "-c", f'{prefix}; exec "$@"', "sh"] if prefix else []
        return subprocess.Popen(
            [*through, sys.executable, *start, f"--config=configs/{config}.py", f"--workdir={workdir}", *flags],
            cwd=ROOT, env=environment or self.environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            text=True, errors="replace", start_new_session=new_session,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a launch ended: its status, negative for a signal that killed it, and its stderr."""

    status: int
    told: str


def ended(process: subprocess.Popen, seconds: float = PATIENCE_SECONDS) -> Ended:
    """Waits for the end of a launch. Raises `Lost` where it hangs."""
    try:
        _, told = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Lost(f"still running after {seconds} s") from None
    return Ended(process.returncode, told or "")


def _expect(end: Ended, status: int, *words: str) -> str:
    """The last line that was told. Raises `Lost` where it is not that status, one line, and in it these words."""
    lines = end.told.strip().splitlines() or [""]
    if end.status != status:
        raise Lost(f"status {end.status}, not {status}: {' / '.join(lines[-3:])[:500]}")
    if noise := next((line for line in lines if line.startswith(("Traceback", "Exception", "Fatal"))), None):
        raise Lost(f"more than one line: {noise} ... {' / '.join(lines[-4:])[-500:]}")
    if missing := [word for word in words if word not in lines[-1]]:
        raise Lost(f"{missing[0]!r} is not in the last line: {lines[-1][:500]}")
    if status in (2, 3) and sum(line.startswith(("error: ", "diverged: ")) for line in lines) != 1:
        raise Lost(f"not told in one line: {' / '.join(lines[-3:])[:500]}")
    return lines[-1]


def go_on(bench: Bench, workdir: Path, *, figures: bool = True, **settings: object) -> None:
    """Gives the same command again, now undisturbed, and looks at its end as `same_end` does."""
    _expect(ended(bench.launch(workdir, **settings)), 0)
    same_end(workdir, bench.toy if settings.get("config") == "toy" else bench.whole, figures=figures)


def same_end(workdir: Path, whole: Path, *, figures: bool = True) -> None:
    """Raises `Lost` where a run did not end as the undisturbed run `whole` did.

    A launch that was stopped between two logs tells of fewer turns in the next: then without `figures`.
    """
    if restored(workdir) != restored(whole):
        raise Lost(f"other bits than those of {whole.name}, at step {restored(workdir)[0]}")
    lines, expected = logged(workdir), logged(whole)
    if [line["step"] for line in lines] != [line["step"] for line in expected]:
        raise Lost(f"metrics.jsonl has steps {[line['step'] for line in lines]}")
    seconds = [line["seconds"] for line in lines if line["seconds"] < 0]
    if seconds:
        raise Lost(f"metrics.jsonl has {seconds[0]} seconds")
    if figures and any(_timeless(a) != _timeless(b) for a, b in zip(lines, expected, strict=True)):
        raise Lost("metrics.jsonl has other figures")
    for path in sorted((whole / "samples").glob("*.png")):
        copy = workdir / "samples" / path.name
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            raise Lost(f"samples/{path.name} is another picture")
    for name in ("losses.png", "training.gif"):
        if (whole / name).exists():
            _look_at(workdir / name)
    if left := _half_saved(workdir):
        raise Lost(f"{len(left)} half saved checkpoints are left, {left.pop()[0]} for one")


def restored(workdir: Path) -> tuple[int, dict[str, int]]:
    """The step of the newest checkpoint as it is read back, and the CRC-32 of every array."""
    from absl import logging as absl_logging

    from gan.io import checkpoint

    absl_logging.set_verbosity(absl_logging.ERROR)
    with checkpoint.open_manager(workdir / "checkpoints", read_only=True) as manager:
        state = checkpoint.restore(manager, _target(str(workdir)))
    if state is None:
        raise Lost("there is no checkpoint")
    return int(state.step), checkpoint.digests(state)


def restore_each(folders: Iterable[str]) -> None:
    """Prints, a JSON line each, what `restored` finds in run folders: in a process that may die of it."""
    for folder in folders:
        try:
            found = restored(Path(folder))
        except Exception as error:
            found = (-1, {f"{type(error).__name__}: {error}": 0})
        print(json.dumps(found), flush=True)


def _target(workdir: str) -> object:
    """What a run's state looks like, as a restore wants it."""
    from gan import build
    from gan.inference import sampling
    from gan.parallel import sharding

    config, dataset = sampling.recorded(Path(workdir))
    setup = build.setup(config, image_shape=tuple(dataset["image_shape"]), num_classes=len(dataset["class_names"]))
    return sharding.abstract(setup.shapes, sharding.replicated(sharding.device_mesh()))


def logged(workdir: Path) -> list[dict]:
    """The lines of `metrics.jsonl`; none where there is no file yet."""
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _timeless(line: dict) -> dict:
    return {name: value for name, value in line.items() if name not in TIMES}


def _look_at(path: Path) -> None:
    from gan.data import pixels

    try:
        pixels.opened(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise Lost(f"{path.name} is no picture ({error})") from error


def _half_saved(workdir: Path) -> set[tuple[str, int]]:
    """Checkpoints that are not whole yet: names, and what tells one of a name from the next."""
    found = set()
    for path in (workdir / "checkpoints").glob("*tmp*"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ino))
    return found


def wait_for_figures(process: subprocess.Popen, workdir: Path, *, beyond: int = 0) -> None:
    """Waits until the run has logged a step beyond `beyond`. Raises `Lost` where it ends before."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(ValueError):  # a line that is being written
            if any(line["step"] > beyond for line in logged(workdir)):
                return
        time.sleep(0.005)
    raise Lost(f"no figures: {ended(process, 1).told[-500:]}")


def cases(bench: Bench, name: str, only: str = "") -> Iterator[Case]:
    """Tries a fault in all its cases, or in the `only` one.

    A fault yields cases, or pairs of a name and an attempt, which does the damage, judges what followed, and returns
    what the user was told.
    """
    for case in FAULTS[name](bench):
        if isinstance(case, Case):
            yield case
            continue
        what, attempt = case
        if only in ("", what):
            try:
                yield Case(what, told=attempt() or "")
            except Lost as error:
                yield Case(what, lost=str(error))


Attempts = Iterator[tuple[str, Callable[[], str | None]]]


# Processes that are stopped


def sigkill(bench: Bench) -> Iterator[Case]:
    """SIGKILL at random moments of a launch's life, start-up included"""
    yield from _struck(bench, bench.kills, _uniform(bench), _kill)


def sigkill_in_a_save(bench: Bench) -> Iterator[Case]:
    """SIGKILL while a checkpoint is written"""

    def wait(process: subprocess.Popen, workdir: Path) -> None:
        known, saves = _half_saved(workdir), bench.draw.randint(1, 8)
        while process.poll() is None and saves:
            fresh = _half_saved(workdir) - known
            known |= fresh
            saves = max(0, saves - len(fresh))
        time.sleep(0.03 * bench.draw.random())

    yield from _struck(bench, max(2, bench.kills // 5), wait, _kill)


def sigterm(bench: Bench) -> Iterator[Case]:
    """SIGTERM at random moments, with 10 s of grace"""

    def terminate(process: subprocess.Popen) -> str:
        process.terminate()
        end = ended(process, GRACE_SECONDS)
        is_complete = " done. In " in end.told
        if end.status == 0 and is_complete:
            return ""  # the signal came after the last turn
        if end.status == -signal.SIGTERM and ("images/s" not in end.told or is_complete):
            return ""  # before the first turns there is nothing to save, after the last all is saved
        return _expect(end, 128 + signal.SIGTERM, "SIGTERM: saved at step")

    yield from _struck(bench, max(2, bench.kills // 5), _uniform(bench), terminate, figures=False)


def _uniform(bench: Bench) -> Callable[[subprocess.Popen, Path], None]:
    def wait(process: subprocess.Popen, workdir: Path) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(bench.life * bench.draw.random())

    return wait


def _kill(process: subprocess.Popen) -> str:
    process.kill()
    process.communicate()
    return ""


def _struck(
    bench: Bench, count: int, wait: Callable, strike: Callable[[subprocess.Popen], str], *, figures: bool = True
) -> Iterator[Case]:
    """Runs that are struck at the end of `wait`, launched again, and struck again, until they reach their end."""
    assert bench.whole
    while count:
        workdir, strikes, complaint = bench.fresh("struck"), [], ""
        try:
            while True:
                before, begun = _half_saved(workdir), time.monotonic()
                is_last = not count or RUN["steps"] in _steps(workdir)  # what is complete has nothing more to lose
                process = bench.launch(workdir)
                if not is_last:
                    wait(process, workdir)
                if is_last or process.poll() is not None:
                    _expect(ended(process), 0)
                    if not strikes and "life" in vars(bench):  # where others use the machine too, the shortest is true
                        bench.life = min(bench.life, time.monotonic() - begun)
                    same_end(workdir, bench.whole, figures=figures)
                    break
                count -= 1
                strikes.append(["at once", ""])
                strikes[-1][1] = strike(process)
                step = max((line["step"] for line in _whole_lines(workdir)), default=0)
                strikes[-1][0] = f"in a save, step {step}" if _half_saved(workdir) - before else f"step {step}"
        except Lost as error:
            complaint = str(error)
        yield from (Case(what, told, complaint) for what, told in strikes)
        if complaint and not strikes:
            yield Case("undisturbed", lost=complaint)


def _whole_lines(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


# What is damaged between two launches


def damaged_checkpoint(bench: Bench) -> Iterator[Case] | Attempts:
    """Each file of the newest checkpoint cut, deleted, or a bit of it flipped"""
    files = [path.relative_to(bench.whole) for path in _newest_checkpoint(bench.whole).rglob("*") if path.is_file()]
    sizes = {path: (bench.whole / path).stat().st_size for path in files}
    works = [(path, how) for path in sorted(files) for how in DAMAGES if sizes[path]]
    folders = []
    for path, how in works:
        folders.append(Path(shutil.copytree(bench.whole, bench.fresh("damaged"))))
        DAMAGES[how](folders[-1] / path, bench.draw)
    code = "import sys; from experiments import faults; faults.restore_each(sys.argv[1:])"
    found = subprocess.run(
        [sys.executable, "-c", code, *map(str, folders)],
        cwd=ROOT, env=bench.environment, capture_output=True, text=True,
    )  # fmt: skip
    read = [json.loads(line) for line in found.stdout.splitlines()]
    good = {step: _digests(bench.whole, step) for step in _steps(bench.whole)}
    for index, (path, how) in enumerate(works):
        complaint = f"the process died ({found.returncode})" if index >= len(read) else ""
        if not complaint and read[index][1] != good.get(read[index][0]):
            complaint = f"read back as {str(read[index])[:200]}"
        yield Case(f"{how} {Path(*path.parts[1:])}", lost=complaint)
        shutil.rmtree(folders[index])
    largest = max(files, key=sizes.get)
    for how, damage in DAMAGES.items():
        yield (f"{how} the largest, and play on", functools.partial(_played_on, bench, largest, damage))


def _played_on(bench: Bench, path: Path, damage: Callable) -> str:
    workdir = Path(shutil.copytree(bench.whole, bench.fresh("damaged")))
    damage(workdir / path, bench.draw)
    told = ended(bench.launch(workdir))
    _expect(told, 0)
    same_end(workdir, bench.whole)
    return next((line for line in told.told.splitlines() if "damaged" in line), "")


def _cut(path: Path, draw: random.Random) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _delete(path: Path, draw: random.Random) -> None:
    path.unlink()


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


DAMAGES = {"cut": _cut, "delete": _delete, "flip": _flip}


def _steps(workdir: Path) -> list[int]:
    """Steps of the checkpoints that have their names."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal())


def _newest_checkpoint(workdir: Path) -> Path:
    return workdir / "checkpoints" / str(_steps(workdir)[-1])


def _digests(workdir: Path, step: int) -> dict[str, int]:
    """The CRC-32 of every array as they were when it was saved, by the names that `restored` gives them."""
    recorded = json.loads((workdir / "checkpoints" / str(step) / "digests" / "metadata").read_text())
    return recorded["state"] | {f".ema{name}": value for name, value in recorded["ema"].items()}


def damaged_folder(bench: Bench) -> Attempts:
    """Other files of the run's folder, or of the cache, damaged between launches"""

    def config_cut() -> str:
        workdir = bench.half("config")
        kept = (workdir / "config.json").read_bytes()
        _cut(workdir / "config.json", bench.draw)
        line = _expect(ended(bench.launch(workdir)), 2, "config.json")
        (workdir / "config.json").write_bytes(kept)
        go_on(bench, workdir)
        return line

    def config_deleted() -> None:
        workdir = bench.half("config")
        (workdir / "config.json").unlink()
        go_on(bench, workdir)

    def line_damaged() -> str:
        workdir = bench.half("metrics")
        path = workdir / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:5], b"\xff" + lines[5], *lines[6:], lines[0][:40]]))
        end = ended(bench.launch(workdir))
        _expect(end, 0)
        path.write_bytes(b"".join([*lines[:6], *path.read_bytes().splitlines(keepends=True)[5:]]))
        same_end(workdir, bench.whole)
        return next((line for line in end.told.splitlines() if "damaged" in line), "")

    def pictures_deleted() -> None:
        workdir = Path(shutil.copytree(bench.whole, bench.fresh("pictures")))
        (workdir / "losses.png").unlink()
        go_on(bench, workdir)

    def programs(damage: Callable[[Path], None]) -> None:
        cache = Path(shutil.copytree(_cache_with_programs(bench), bench.fresh("cache")))
        for path in (cache / "programs").glob("*-cache"):
            damage(path)
        environment = _without_programs(bench) | {"GAN_CACHE_DIR": str(cache)}
        workdir = bench.half("programs")
        go_on(bench, workdir, environment=environment)

    def unfinished(path: Path) -> None:
        _cut(path, bench.draw)
        path.with_name(path.name.removesuffix("-cache") + "-atime").unlink()

    yield "config.json cut", config_cut
    yield "config.json deleted", config_deleted
    yield "a line of metrics.jsonl is no text, the last is not whole", line_damaged
    yield "losses.png of a complete run deleted", pictures_deleted
    for how, damage in DAMAGES.items():
        yield (f"kept programs: {how}", lambda damage=damage: programs(lambda path: damage(path, bench.draw)))
    yield "kept programs: a writer was killed", lambda: programs(unfinished)
    for how, damage in DAMAGES.items():
        yield (f"decoded data: {how}", functools.partial(_decoded_data_damaged, bench, damage))


def _without_programs(bench: Bench) -> dict[str, str]:
    """The environment of a user who names no folder for compiled programs: they lie in the cache folder."""
    return {name: value for name, value in bench.environment.items() if name != "JAX_COMPILATION_CACHE_DIR"}


def _cache_with_programs(bench: Bench) -> Path:
    cache = bench.folder / "cache-with-programs"
    if not cache.exists():
        assert bench.whole
        shutil.copytree(bench.folder / "cache", cache)
        _expect(ended(bench.launch(bench.fresh("filling"), environment=_without_programs(bench) | {
            "GAN_CACHE_DIR": str(cache)})), 0)  # fmt: skip
    return cache


def _decoded_data_damaged(bench: Bench, damage: Callable) -> None:
    workdir, cache = bench.half("decoded"), Path(shutil.copytree(bench.folder / "cache", bench.fresh("cache")))
    damage(next(cache.glob("arrays/*/images.npy")), bench.draw)
    go_on(bench, workdir, environment=bench.environment | {"GAN_CACHE_DIR": str(cache)})


# Disks


class SmallDisk:
    """A disk of a few megabytes in a mount namespace of its own, which an ordinary user can make and fill.

    `folder` leads there from outside; with the process that holds the namespace the disk is gone.
    """

    def __init__(self, bench: Bench):
        self._inside = bench.fresh("disk")
        self._inside.mkdir(parents=True)

    def __enter__(self) -> "SmallDisk":
        try:
            self._holder = subprocess.Popen(
                ["unshare", "--user", "--map-root-user", "--mount", "sh"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            self.do(f"mount -t tmpfs -o size={DISK_MEGABYTES}m none '{self._inside}'")
        except OSError as error:
            raise Skipped(f"no small disk can be mounted here: {error}") from error
        self.folder = Path(f"/proc/{self._holder.pid}/root{self._inside.absolute()}")
        self.ballast = self.folder / "ballast"
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait()

    def do(self, command: str) -> None:
        """Runs a command of the shell where the disk is mounted."""
        self._holder.stdin.write(f"{command}; echo status $?\n")
        self._holder.stdin.flush()
        lines = [""]
        while not lines[-1].startswith("status "):
            lines.append(self._holder.stdout.readline())
            if not lines[-1]:
                raise OSError(lines[-2].strip() or "unshare refused")
        if lines[-1] != "status 0\n":
            raise OSError(lines[-2].strip())

    def fill(self) -> None:
        """Takes all the room that is left."""
        subprocess.run([sys.executable, "-c", _filling(self.ballast)], check=True)

    @contextlib.contextmanager
    def emptied(self, workdir: Path) -> Iterator[None]:
        """Inside, a run is tried on the disk; afterwards there is room for the next."""
        try:
            yield
        finally:
            self.ballast.unlink(missing_ok=True)
            shutil.rmtree(workdir, ignore_errors=True)

    def over(self, workdir: Path, options: str) -> None:
        """Mounts a folder of the disk over itself with other options."""
        inside = self._inside / workdir.name
        self.do(f"mount --bind '{inside}' '{inside}' && mount -o remount,bind,{options} '{inside}'")

    def off(self, workdir: Path) -> None:
        """Takes away what `over` has mounted."""
        self.do(f"umount '{self._inside / workdir.name}'")


def _filling(ballast: Path) -> str:
    """Python that fills the disk of a file."""
    return f"""
with open({str(ballast)!r}, "wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
"""


def disk_full(bench: Bench) -> Attempts:
    """The disk full at the launch, while saving, logging, drawing"""
    moments = {  # a function of the run, and the call of it before which the disk is filled
        "saving": ("io.checkpoint", "save", 3),
        "saving the last": ("io.checkpoint", "save", RUN["steps"] // RUN["checkpoint_every"]),
        "logging": ("io.writer", "RunWriter.metrics", 5),
        "drawing": ("io.writer", "save_png", 3),
        "drawing the last": ("io.writer", "draw_losses", 1),
        "stopped by a signal": ("train.recorder", "Recorder.stop", 1),
    }
    with SmallDisk(bench) as disk:
        yield "at the launch", lambda: _full_at_launch(bench, disk)
        for what, moment in moments.items():
            yield (what, functools.partial(_filled, bench, disk, *moment))


def _full_at_launch(bench: Bench, disk: SmallDisk) -> str:
    workdir = disk.folder / "launch"
    disk.fill()
    with disk.emptied(workdir):
        line = _expect(ended(bench.launch(workdir)), 2, "No space left on device")
        disk.ballast.unlink()
        go_on(bench, workdir)
        return line


def _filled(bench: Bench, disk: SmallDisk, module: str, function: str, call: int) -> str:
    workdir = disk.folder / function
    fault = f"""
import functools, importlib, operator, sys
module = importlib.import_module('gan.{module}')
place, name = [module, *{function.split(".")!r}][-2:]
place = getattr(module, place) if isinstance(place, str) else place
original, calls = getattr(place, name), []
def filled(*arguments, **settings):
    calls.append(1)
    if len(calls) == {call}:
        exec({_filling(disk.ballast)!r})
    return original(*arguments, **settings)
setattr(place, name, filled)
"""
    with disk.emptied(workdir):
        process = bench.launch(workdir, fault=fault)
        if function == "Recorder.stop":
            wait_for_figures(process, workdir)
            process.terminate()
        end = ended(process)
        if end.status == 0:  # an older checkpoint was removed just then, and made room
            same_end(workdir, bench.whole)
            return ""
        line = _expect(end, 2, "No space left on device")
        disk.ballast.unlink()
        go_on(bench, workdir, figures=function != "Recorder.stop")
        return line


def limits(bench: Bench) -> Attempts:
    """Limits of the shell: the size of a file (ulimit -f), open files (ulimit -n)"""

    def limited(limit: str, words: str) -> str:
        workdir = bench.fresh("limited")
        line = _expect(ended(bench.launch(workdir, prefix=limit)), 2, words)
        go_on(bench, workdir)
        return line

    assert bench.whole

    yield "files of 16 KiB", lambda: limited("ulimit -f 32", "File too large")
    yield "24 open files", lambda: limited("ulimit -n 24", "Too many open files")


def read_only(bench: Bench) -> Attempts:
    """The workdir read-only at the launch, or from the middle of a run"""
    with SmallDisk(bench) as disk:

        def at_launch() -> str:
            workdir = disk.folder / "launch"
            workdir.mkdir()
            disk.over(workdir, "ro")
            line = _expect(ended(bench.launch(workdir)), 2, "Read-only file system")
            disk.off(workdir)
            go_on(bench, workdir)
            return line

        def in_the_middle() -> str:
            workdir = disk.folder / "middle"
            process = bench.launch(workdir)
            wait_for_figures(process, workdir)
            disk.over(workdir, "ro")
            line = _expect(ended(process), 2, "Read-only file system")
            disk.off(workdir)
            go_on(bench, workdir)
            return line

        yield "at the launch", at_launch
        yield "from the middle", in_the_middle


# Data


def data_under_a_run(bench: Bench) -> Attempts:
    """The file that a run reads its data from cut, written over, replaced or deleted"""
    ways = {  # how a run holds its data: the file it opened, a fault that makes it do so, and its fields
        "resident": ("arrays/*/images.npy", "", {}),
        "decoded": ("arrays/*/images.npy", "", {"data__resident": "never"}),
        "streamed": (
            "prepared/**/*.array_record*",
            "from gan.train import sources; sources.DECODED_BYTES = 0",
            {"data__resident": "never"},
        ),
    }
    works = {"cut": _cut, "written over": _write_over, "replaced": _replace, "deleted": _delete}
    for way, (pattern, fault, fields) in ways.items():
        for how, damage in works.items():
            yield (f"{way}, {how}", functools.partial(_data_changed, bench, pattern, fault, fields, damage))


def _data_changed(bench: Bench, pattern: str, fault: str, fields: dict, damage: Callable) -> str:
    assert bench.whole
    cache, workdir = Path(shutil.copytree(bench.folder / "cache", bench.fresh("cache"))), bench.fresh("data")
    environment = bench.environment | {"GAN_CACHE_DIR": str(cache)}
    path = next(cache.glob(pattern))
    kept = Path(shutil.copy2(path, bench.fresh("kept")))
    process = bench.launch(workdir, fault=fault, environment=environment, **fields)
    wait_for_figures(process, workdir)
    damage(path, bench.draw)
    end = ended(process)
    if end.status == 0:
        same_end(workdir, bench.whole)
        return ""
    line = _expect(end, 2, path.name)
    shutil.copy2(kept, path)
    go_on(bench, workdir, environment=environment)
    return line


def _write_over(path: Path, draw: random.Random) -> None:
    """Other bytes in place, from the first quarter of the file on."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        file.write(draw.randbytes(size // 2))


def _replace(path: Path, draw: random.Random) -> None:
    """Another file takes its name."""
    other = path.with_suffix(".other")
    other.write_bytes(draw.randbytes(path.stat().st_size))
    other.replace(path)


def data_between_launches(bench: Bench) -> Attempts:
    """An image of a folder replaced, or prepared data cut, between two launches"""
    images = bench.fresh("images")
    images.mkdir(parents=True)
    _draw_images(images, bench.draw)
    fields = {"data__name": "folder", "data__dir": str(images), "steps": 48}
    whole, workdir = bench.fresh("folder"), bench.fresh("folder")

    def replaced() -> str:
        _expect(ended(bench.launch(whole, **fields)), 0)
        _expect(ended(bench.launch(workdir, **(fields | {"steps": 24}))), 0)
        kept = (images / "00.png").read_bytes()
        (images / "00.png").write_bytes((images / "01.png").read_bytes())
        line = _expect(ended(bench.launch(workdir, **fields)), 2, "was trained on other data")
        (images / "00.png").write_bytes(kept)
        _expect(ended(bench.launch(workdir, **fields)), 0)
        same_end(workdir, whole)
        return line

    def cut() -> str:
        workdir, cache = bench.half("data"), Path(shutil.copytree(bench.folder / "cache", bench.fresh("cache")))
        path = next(cache.glob("prepared/digits/**/*.array_record*"))
        kept = path.read_bytes()
        _cut(path, bench.draw)
        environment = bench.environment | {"GAN_CACHE_DIR": str(cache)}
        line = _expect(ended(bench.launch(workdir, environment=environment)), 2, "damaged")
        path.write_bytes(kept)
        go_on(bench, workdir, environment=environment)
        return line

    yield "an image replaced", replaced
    yield "prepared data cut", cut


def _draw_images(folder: Path, draw: random.Random) -> None:
    from PIL import Image

    for number in range(24):
        Image.frombytes("L", (8, 8), draw.randbytes(64)).save(folder / f"{number:02d}.png")


def nan_in_the_data(bench: Bench) -> Attempts:
    """NaN in an example that is shown in the middle of a run"""
    fault = """
import numpy
from gan import data
from gan.data import toys
load = toys.load
def spoilt(*arguments):
    points = load(*arguments)
    shown = data.positions(100, batches=1, batch_size=128)[0, :1]
    points._images[data.example_order(shown, seed=0, n=len(points))] = numpy.nan
    return points
toys.load = spoilt
"""

    def spoilt() -> str:
        workdir = bench.fresh("nan")
        line = _expect(ended(bench.launch(workdir, config="toy", fault=fault, **TOY)), 3, "diverged: step 101: ")
        go_on(bench, workdir, config="toy", **TOY)
        return line

    yield "a point in turn 101", spoilt


# Clocks, neighbors, memory


def clock(bench: Bench) -> Attempts:
    """The clock going backwards"""
    clocks = {
        "a second at every look": "back = lambda: 1.0 * len(looks)",
        "an hour in the middle": "back = lambda: 3600.0 * (len(looks) > 300)",
        "a day between launches": "back = lambda: 86400.0",
    }

    def set_back(code: str) -> None:
        fault = f"""
import time
looks, now, now_ns = [], time.time, time.time_ns
{code}
def look():
    looks.append(1)
    return now() - back()
def look_ns():
    looks.append(1)
    return now_ns() - int(1e9 * back())
time.time, time.time_ns = look, look_ns
"""
        workdir = bench.half("clock")
        first = len(logged(workdir))
        go_on(bench, workdir, fault=fault)
        seconds = [line["seconds"] for line in logged(workdir)[first:]]
        if seconds != sorted(seconds) or seconds[-1] > PATIENCE_SECONDS:
            raise Lost(f"the seconds of metrics.jsonl are {seconds}")

    for what, code in clocks.items():
        yield (what, functools.partial(set_back, code))


def two_launches(bench: Bench) -> Attempts:
    """Two launches at once"""

    def one_folder(apart: float) -> str:
        workdir = bench.fresh("two")
        first = bench.launch(workdir)
        time.sleep(apart)
        second = bench.launch(workdir)
        loser, winner = sorted((ended(first), ended(second)), key=lambda end: -end.status)
        _expect(winner, 0)
        line = _expect(loser, 2, "is in use by process")
        same_end(workdir, bench.whole)
        return line

    def one_empty_cache() -> None:
        environment = _without_programs(bench) | {"GAN_CACHE_DIR": str(bench.fresh("cache"))}
        workdirs = [bench.fresh("two"), bench.fresh("two")]
        for process in [bench.launch(workdir, environment=environment) for workdir in workdirs]:
            _expect(ended(process), 0)
        for workdir in workdirs:
            same_end(workdir, bench.whole)

    assert bench.whole
    for apart in (0.0, 0.0, 0.2):
        yield (f"in one folder, {apart} s apart", functools.partial(one_folder, apart))
    yield "in two folders, with one empty cache", one_empty_cache


def memory(bench: Bench) -> Attempts:
    """Out of memory at compilation and at run"""
    compiling = """
import jax
from jax._src import compiler
compile_ = compiler.backend_compile_and_load
def refused(backend, module, *arguments, **settings):
    if "turns" in str(module.operation.attributes["sym_name"]):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.00G of 15.75G")
    return compile_(backend, module, *arguments, **settings)
compiler.backend_compile_and_load = refused
"""  # noqa: E501

    def too_little(fault: str = "", **fields: object) -> str:
        workdir = bench.fresh("memory")
        limit = "" if fault else f"ulimit -v {ADDRESS_BYTES // 1024}"
        environment = bench.environment | {"JAX_COMPILATION_CACHE_DIR": str(bench.fresh("programs"))}
        end = ended(bench.launch(workdir, fault=fault, prefix=limit, environment=environment, **fields))
        return _expect(end, 2, "out of memory", "config.batch_size", "config.microbatches", "data.on_device")

    yield "at compilation", lambda: too_little(compiling)
    yield "at run: a batch of 2^25", lambda: too_little(batch_size=2**25, steps=8)
    yield "at run: a width of 2^18", lambda: too_little(generator__width=2**18)
    yield (
        "on the host: 1,797 images of 2048 x 2048",
        lambda: too_little(data__image_size=(2048, 2048), data__resident="always"),
    )


# Those who listen


def pipes(bench: Bench) -> Attempts:
    """stdout or stderr full, closed, or without a reader"""

    def full(stream: str, number: int = 0) -> str:
        workdir, (reading, writing) = bench.fresh("pipe"), full_pipe()
        with os.fdopen(reading, "rb"), os.fdopen(writing, "wb") as end:
            process = bench.launch(workdir, **{stream: end})
            if number:
                wait_for_figures(process, workdir)
                process.send_signal(number)
            status = ended(process).status
        if status != (128 + number if number else 0):
            raise Lost(f"status {status}")
        if number:
            go_on(bench, workdir, figures=False)
        else:
            same_end(workdir, bench.whole)
        return ""

    def reader_gone(stream: str) -> None:
        workdir = bench.fresh("pipe")
        process = bench.launch(workdir, **{stream: subprocess.PIPE})
        if stream == "stderr":
            process.stderr.readline()
        getattr(process, stream).close()
        if process.wait(PATIENCE_SECONDS) != 0:
            raise Lost(f"status {process.returncode}")
        same_end(workdir, bench.whole)

    def onto_a_full_disk() -> None:
        workdir = bench.fresh("pipe")
        with open("/dev/full", "w") as full_disk:
            _expect(ended(bench.launch(workdir, stdout=full_disk, stderr=full_disk)), 0)
        same_end(workdir, bench.whole)

    def closed() -> None:
        workdir = bench.fresh("closed")
        _expect(ended(bench.launch(workdir, stderr=subprocess.DEVNULL, prefix="exec 0<&- 1>&- 2>&-")), 0)
        same_end(workdir, bench.whole)

    assert bench.whole
    yield "stderr is a full pipe", lambda: full("stderr")
    yield "stderr is a full pipe, and SIGTERM", lambda: full("stderr", signal.SIGTERM)
    yield "stdout is a full pipe", lambda: full("stdout")
    yield "the reader of stderr goes away", lambda: reader_gone("stderr")
    yield "the reader of stdout goes away", lambda: reader_gone("stdout")
    yield "stdout and stderr onto a full disk", onto_a_full_disk
    yield "stdin, stdout and stderr closed", closed


def full_pipe() -> tuple[int, int]:
    """The two ends of a pipe that nobody reads and that takes nothing more."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, bytes(4096)):
            pass
    os.set_blocking(writing, True)
    return reading, writing


def no_terminal(bench: Bench) -> Attempts:
    """No terminal, or one that is closed in the middle of a run"""

    def none() -> None:
        workdir = bench.fresh("none")
        environment = {name: value for name, value in bench.environment.items() if name not in ("TERM", "COLUMNS")}
        _expect(ended(bench.launch(workdir, environment=environment, new_session=True)), 0)
        same_end(workdir, bench.whole)

    def closed() -> None:
        workdir, (ours, theirs) = bench.fresh("terminal"), os.openpty()
        take = "import fcntl, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0)"  # the terminal, as a shell's session does
        process = bench.launch(workdir, stderr=theirs, new_session=True, fault=take)
        os.close(theirs)
        wait_for_figures(process, workdir)
        os.close(ours)
        status = process.wait(PATIENCE_SECONDS)
        if status != 128 + signal.SIGHUP:
            raise Lost(f"status {status}")
        go_on(bench, workdir, figures=False)

    yield "none", none
    yield "closed", closed


FAULTS = {
    fault.__name__: fault
    for fault in (
        sigkill, sigkill_in_a_save, sigterm, damaged_checkpoint, damaged_folder, disk_full, limits, read_only,
        data_under_a_run, data_between_launches, nan_in_the_data, clock, two_launches, memory, pipes, no_terminal,
    )
}  # fmt: skip


def main() -> int:
    """Tries faults and prints their table; the exit status."""
    arguments = _parse()
    folder = Path(arguments.workdir or tempfile.mkdtemp(prefix="faults-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        print(f"error: --workdir={folder} is not empty: take another", file=sys.stderr)
        return 2
    bench, rows, begun = Bench(folder, arguments.kills, arguments.seed), [], time.monotonic()
    os.environ |= {name: bench.environment[name] for name in ("GAN_CACHE_DIR", "JAX_PLATFORMS", "XLA_FLAGS")}
    for name in arguments.only or FAULTS:
        since, found, skipped = time.monotonic(), [], ""
        try:
            for case in cases(bench, name):
                found.append(case)
                print(f"{name}: {case.what}: {case.lost or 'survived'}", file=sys.stderr, flush=True)
        except Skipped as error:
            skipped = str(error)
        seconds = round(time.monotonic() - since, 1)
        rows.append({"fault": name, "seconds": seconds, "skipped": skipped,
                     "cases": [dataclasses.asdict(case) for case in found]})  # fmt: skip
        if arguments.out:
            Path(arguments.out).write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    print(f"\n{time.monotonic() - begun:.0f} s, seed {arguments.seed}")
    lost = any(case["lost"] for row in rows for case in row["cases"])
    if not arguments.workdir and not lost:
        shutil.rmtree(folder)
    return int(lost)


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    lines = ["| fault | tried | survived | lost | what the user is told |", "|---|---|---|---|---|"]
    for row in rows:
        found, what = row["cases"], FAULTS[row["fault"]].__doc__
        lost = sum(bool(case["lost"]) for case in found)
        saves = sum(case["what"].startswith("in a save") for case in found)
        what += f" ({saves} of them in a save)" if saves else ""
        told = f"skipped: {row['skipped']}" if row["skipped"] else _shown(case["told"] for case in found)
        lines.append(f"| {what} | {len(found)} | {len(found) - lost} | {lost} | {told} |")
    return "\n".join(lines)


def _shown(lines: Iterable[str]) -> str:
    """The first line that was told, with folders and its end cut off."""
    line = next(filter(None, lines), "")
    words = " ".join(f".../{Path(word).name}" if word.count("/") > 2 else word for word in line.split())
    shown = words if len(words) <= SHOWN else f"{words[:SHOWN]}..."
    return f"`{shown}`".replace("|", "\\|") if line else ""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=FAULTS, metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--kills", type=int, default=50, help="how many SIGKILLs at random moments")
    parser.add_argument("--workdir", help="an empty folder; default: a temporary one")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--out", help="a JSON file for all cases")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
