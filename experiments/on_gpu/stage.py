"""A stage in a process of its own: its inputs, its record, and how it ends.

A stage is a module with `run(stage)`. It adds rows to its record, which is written after each row, so that no result is
lost if the process dies. The driver starts it as

python -m experiments.on_gpu.stage --name=NAME --module=MODULE --out=DIR --seconds=SECONDS
    [--tiny] [--flags=DIR] [--systems=NAME,...]
"""

import time

STARTED = time.monotonic()  # before slow imports, which count as time of the stage

import functools  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import threading  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from experiments import cli  # noqa: E402
from gan.errors import UserError, machine_failure  # noqa: E402
from gan.io.atomic import write_json  # noqa: E402

TRACEBACK_LINES = 12
"""The number of last lines of a traceback that are recorded."""


class StageFailed(Exception):
    """The result of a stage is not as expected. The message is one line."""


class Stage:
    """The inputs of a stage, and its record `OUT/NAME.json`. Rows may be added by several threads."""

    def __init__(
        self,
        name: str,
        out: Path,
        seconds: float,
        *,
        started: float | None = None,
        tiny: bool = False,
        flags: str = "",
        systems: Sequence[str] = (),
    ):
        """`seconds` count from `started`, a time of `time.monotonic()`, or from now."""
        self.name, self.out, self.tiny, self.flags, self.systems = name, out, tiny, flags, tuple(systems)
        self._started = time.monotonic() if started is None else started
        self._end = self._started + seconds
        self._lock = threading.Lock()
        self.record: dict[str, Any] = {
            "stage": name, "status": "running", "failure": "", "seconds": 0.0, "seconds_given": round(seconds, 1),
            "tiny": tiny, "headline": [], "facts": {}, "rows": [], "dropped": [],
        }  # fmt: skip
        self.write()

    def left(self) -> float:
        """The remaining seconds of the stage; negative if it is late."""
        return self._end - time.monotonic()

    def add(self, **row: Any) -> None:
        """Adds a row to the record, and prints it into the stage's log."""
        with self._lock:
            self.record["rows"].append(row)
            self._write()
        print(json.dumps(row), flush=True)

    def replace_last(self, **row: Any) -> None:
        """Replaces the last row, for a measurement in progress."""
        with self._lock:
            self.record["rows"][-1:] = [row]
            self._write()

    def drop(self, what: str) -> None:
        """Records that something was not done for lack of time."""
        with self._lock:
            self.record["dropped"].append(what)
            self._write()

    def note(self, **facts: Any) -> None:
        """Records facts that hold for all rows, such as the device."""
        with self._lock:
            self.record["facts"] |= facts
            self._write()

    def headline(self, *lines: str) -> None:
        """Sets the lines of the summary."""
        with self._lock:
            self.record["headline"] = list(lines)
            self._write()

    def end(self, status: str, failure: str = "", tail: str = "") -> None:
        """Records how the stage ended: "passed", or "failed" with one line and the tail of a traceback."""
        with self._lock:
            self.record |= {"status": status, "failure": failure} | ({"traceback": tail} if tail else {})
            self._write()

    def write(self) -> None:
        """Writes the record."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        self.record["seconds"] = round(time.monotonic() - self._started, 1)
        write_json(self.out / f"{self.name}.json", self.record)


def failure_of(error: BaseException) -> str:
    """One line that describes an error of a stage or of a row."""
    if isinstance(error, UserError | StageFailed):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # An error of another process is its traceback, whose last line is the message.
    line = lines[-1 if lines and lines[0].startswith("Traceback") else 0] if lines else ""
    return machine_failure(error) or f"{type(error).__name__}: {line}"[:400]


def tail_of(text: str) -> str:
    """The last lines of a traceback or a log."""
    return "\n".join(text.strip().splitlines()[-TRACEBACK_LINES:])


def run(stage: Stage, module: str) -> int:
    """Runs a stage. Returns its exit status: 0 passed, 1 failed."""
    try:
        importlib.import_module(module).run(stage)
    except Exception as error:  # recorded; the next stage runs all the same
        stage.end("failed", failure_of(error), tail_of(traceback.format_exc()))
        traceback.print_exc()
        return 1
    stage.end("passed")
    return 0


def main(started: float) -> int:
    """Parses the flags of the driver, and runs the stage, whose seconds count from `started`."""
    parser = cli.Parser(description=__doc__)
    for flag in ("--name", "--module", "--out"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--flags", default="")
    parser.add_argument("--systems", default="")
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own start-up lines
    stage = Stage(
        given.name,
        Path(given.out),
        given.seconds,
        started=started,
        tiny=given.tiny,
        flags=given.flags,
        systems=tuple(filter(None, given.systems.split(","))),
    )
    return run(stage, given.module)


if __name__ == "__main__":
    from experiments.on_gpu import stage as imported  # the module that stages import, not a copy of it

    cli.run(functools.partial(imported.main, STARTED))
