"""Disks that are full or read-only, and the shell's limits on files."""

import contextlib
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.faults.bench import Attempts, Bench, Skipped, expect_exit, wait_for_exit
from experiments.faults.compare import check_same_result, resume_and_compare, wait_for_metrics

DISK_MEGABYTES = 16

LAST = -1

MOMENTS = {
    "saving": ("gan.io.checkpoint", "save", 3),
    "saving the last": ("gan.io.checkpoint", "save", LAST),
    "logging": ("gan.io.writer", "RunWriter.metrics", 5),
    "writing samples": ("gan.io.plots", "save_png", 3),
    "plotting the losses": ("gan.io.plots", "draw_losses", 1),
    "stopped by a signal": ("gan.train.recorder", "Recorder.stop", 1),
}
"""When the disk fills: before the n-th or the LAST call of a function of a module, patched in the run's process."""


class SmallDisk:
    """A tmpfs of DISK_MEGABYTES in a mount namespace of its own, which an unprivileged user can create and fill.

    `folder` leads to it from outside. The disk is gone when the process that holds the namespace ends.
    Raises `Skipped` where user namespaces are not allowed.
    """

    def __init__(self, bench: Bench):
        self._inside = bench.new_folder("disk")
        self._inside.mkdir(parents=True)

    def __enter__(self) -> "SmallDisk":
        try:
            self._holder = subprocess.Popen(
                ["unshare", "--user", "--map-root-user", "--mount", "sh"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            self.execute(f"mount -t tmpfs -o size={DISK_MEGABYTES}m none '{self._inside}'")
        except OSError as error:
            raise Skipped(f"no small disk can be mounted here: {error}") from error
        self.folder = Path(f"/proc/{self._holder.pid}/root{self._inside.absolute()}")
        self.ballast = self.folder / "ballast"
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait()

    def execute(self, command: str) -> None:
        """Executes a shell command inside the mount namespace."""
        self._holder.stdin.write(f"{command}; echo status $?\n")
        self._holder.stdin.flush()
        lines = [""]
        while not lines[-1].startswith("status "):
            lines.append(self._holder.stdout.readline())
            if not lines[-1]:
                raise OSError(lines[-2].strip() or "unshare is not permitted")
        if lines[-1] != "status 0\n":
            raise OSError(lines[-2].strip())

    def fill(self) -> None:
        """Takes all free space."""
        subprocess.run([sys.executable, "-c", _code_that_fills(self.ballast)], check=True)

    @contextlib.contextmanager
    def cleared_afterwards(self, workdir: Path) -> Iterator[None]:
        """Removes the ballast and the run at the end of the block, to make room for the next run."""
        try:
            yield
        finally:
            self.ballast.unlink(missing_ok=True)
            shutil.rmtree(workdir, ignore_errors=True)

    def make_read_only(self, workdir: Path) -> None:
        """Mounts a folder of the disk read-only over itself."""
        inside = self._inside / workdir.name
        self.execute(f"mount --bind '{inside}' '{inside}' && mount -o remount,bind,ro '{inside}'")

    def make_writable(self, workdir: Path) -> None:
        """Undoes `make_read_only`."""
        self.execute(f"umount '{self._inside / workdir.name}'")


def _code_that_fills(ballast: Path) -> str:
    """Python code that fills the disk with a file."""
    return f"""
with open({str(ballast)!r}, "wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
"""


def disk_full(bench: Bench) -> Attempts:
    """The disk full at the launch, while saving, logging, plotting"""
    with SmallDisk(bench) as disk:
        yield "at the launch", functools.partial(_full_at_launch, bench, disk)
        for name, (module, function, call) in MOMENTS.items():
            call = bench.num_saves if call == LAST else call
            yield (name, functools.partial(_full_before_call, bench, disk, module, function, call))


def _full_at_launch(bench: Bench, disk: SmallDisk) -> str:
    workdir = disk.folder / "launch"
    disk.fill()
    with disk.cleared_afterwards(workdir):
        line = expect_exit(wait_for_exit(bench.launch(workdir)), 2, "No space left on device")
        disk.ballast.unlink()
        resume_and_compare(bench, workdir)
        return line


def _full_before_call(bench: Bench, disk: SmallDisk, module: str, function: str, call: int) -> str:
    workdir = disk.folder / function
    fault = f"""
import importlib
module = importlib.import_module({module!r})
owner, name = [module, *{function.split(".")!r}][-2:]
owner = getattr(module, owner) if isinstance(owner, str) else owner
original, calls = getattr(owner, name), []
def fill_then_call(*arguments, **keywords):
    calls.append(1)
    if len(calls) == {call}:
        exec({_code_that_fills(disk.ballast)!r})
    return original(*arguments, **keywords)
setattr(owner, name, fill_then_call)
"""
    with disk.cleared_afterwards(workdir):
        process = bench.launch(workdir, fault=fault)
        if function == "Recorder.stop":
            wait_for_metrics(process, workdir)
            process.terminate()
        end = wait_for_exit(process)
        if end.status == 0:  # an older checkpoint was removed at that moment, which made room
            check_same_result(workdir, bench.reference)
            return ""
        line = expect_exit(end, 2, "No space left on device")
        disk.ballast.unlink()
        resume_and_compare(bench, workdir, metrics=function != "Recorder.stop")
        return line


def limits(bench: Bench) -> Attempts:
    """Limits of the shell: the size of a file (ulimit -f), open files (ulimit -n)"""

    def limited(limit: str, words: str) -> str:
        workdir = bench.new_folder("limited")
        line = expect_exit(wait_for_exit(bench.launch(workdir, prefix=limit)), 2, words)
        resume_and_compare(bench, workdir)
        return line

    assert bench.reference
    yield "files of 16 KiB", lambda: limited("ulimit -f 32", "File too large")
    yield "24 open files", lambda: limited("ulimit -n 24", "Too many open files")


def read_only(bench: Bench) -> Attempts:
    """The workdir read-only at the launch, or from the middle of a run"""
    with SmallDisk(bench) as disk:

        def at_launch() -> str:
            workdir = disk.folder / "launch"
            workdir.mkdir()
            disk.make_read_only(workdir)
            line = expect_exit(wait_for_exit(bench.launch(workdir)), 2, "Read-only file system")
            disk.make_writable(workdir)
            resume_and_compare(bench, workdir)
            return line

        def in_the_middle() -> str:
            workdir = disk.folder / "middle"
            process = bench.launch(workdir)
            wait_for_metrics(process, workdir)
            disk.make_read_only(workdir)
            line = expect_exit(wait_for_exit(process), 2, "Read-only file system")
            disk.make_writable(workdir)
            resume_and_compare(bench, workdir)
            return line

        yield "at the launch", at_launch
        yield "from the middle", in_the_middle
