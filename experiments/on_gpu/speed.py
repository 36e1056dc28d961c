"""Step times of every system of the benchmarks, and of its equivalents in PyTorch if that is installed.

The most informative rows come first: each system in both dtypes, ours and the PyTorch variants that are not compiled.
Then, in the remaining time, the compiled PyTorch variants of the same rows. Nothing else runs while a row is compiled
and timed, since XLA chooses cuDNN's algorithms by timing them on the device. Each side has a process of its own, which
is restarted if it dies or takes too long.
"""

import functools
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from experiments.benchmarks import processes, systems, timing
from experiments.benchmarks.compare_torch import matrix_size
from experiments.benchmarks.torch import variants
from experiments.on_gpu.stage import Stage, StageFailed, failure_of

ROUNDS = 3
SECONDS_PER_ROUND = 0.4
DTYPES = ("bfloat16", "float32")
ORDER = (
    ("dcgan64", 1024), ("dcgan64", 64), ("dcgan32_r1", 64), ("mlp_gan", 64), ("r3gan", 64), ("stylegan2", 64),
    ("sngan", 64), ("biggan", 64), ("r3gan", 1024), ("stylegan2", 1024), ("flag_gan", 64), ("sngan", 1024),
    ("biggan", 1024), ("gat", 64), ("wgan_gp", 64), ("sagan", 64), ("conv_gan", 64), ("dcgan32_r1", 1024),
    ("mlp_gan", 1024), ("flag_gan", 1024), ("wgan_gp", 1024), ("sagan", 1024), ("conv_gan", 1024), ("dcgan32", 64),
    ("dcgan32", 1024), ("gat", 1024), ("smooth_gan", 64), ("smooth_gan", 1024), ("vanilla_gan", 64),
    ("vanilla_gan", 1024),
)  # fmt: skip
"""Systems and batches, the most informative first."""

SLOWER = frozenset({"eager", "foreach", "fused+one_thread"})
"""Variants that are skipped: `fused` is the same with fewer kernel launches."""

MIN_SECONDS = 15.0
"""The time that a row needs at least; a compiled variant of PyTorch needs more."""

MIN_SECONDS_COMPILED = 40.0

TINY_ORDER = (("dcgan32", 8), ("mlp_gan", 4))
TINY_OVERRIDES = ("generator.width=8", "discriminator.width=8")


class Row(NamedTuple):
    """A row of the table: a system, a batch size and a dtype."""

    system: str
    batch: int
    dtype: str

    def overrides(self, tiny: bool) -> list[str]:
        """FIELD=VALUE of the system's config."""
        return [f"batch_size={self.batch}", f"compute_dtype={self.dtype}", *(TINY_OVERRIDES if tiny else ())]

    def label(self) -> str:
        """The row's name."""
        return f"{self.system} batch {self.batch} {self.dtype}"


class Side:
    """A process that runs one side. It is restarted on the next request after it has died."""

    def __init__(self, kind: type):
        self._kind, self._process = kind, None

    def ask(self, method: str, *arguments: Any, timeout: float) -> Any:
        """Calls a method of the side; raises what `processes.OwnProcess.ask` raises."""
        if self._process is None:
            self._process = processes.OwnProcess(self._kind)
        try:
            return self._process.ask(method, *arguments, timeout=max(timeout, 1.0))
        except (RuntimeError, TimeoutError, OSError):
            self.close()  # it may have died, or its memory may be full
            raise

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.close()
            self._process = None


class Table:
    """Times rows on both sides and records each of them."""

    def __init__(self, stage: Stage):
        self.stage, self.rows, self.failed = stage, [], []
        self._ours, self._torch, self.has_torch = Side(processes.Ours), Side(processes.Torch), False
        self._operations: dict[tuple[str, int], int] = {}
        self._parameters: dict[Row, tuple[int, int]] = {}
        self._peak: dict[str, float] = {}

    def start(self) -> None:
        """Records what is compared, and how fast each side multiplies matrices."""
        stage = self.stage
        facts = self._ours.ask("facts", timeout=stage.left())
        stage.note(**{f"our_{name}": value for name, value in facts.items()}, torch="not installed")
        both = [self._ours]
        if importlib.util.find_spec("torch"):
            self.has_torch = True
            stage.note(torch=self._torch.ask("facts", timeout=stage.left()))
            both.append(self._torch)
        size = 256 if stage.tiny else matrix_size(facts["platform"])
        for dtype in DTYPES:
            self._peak[dtype] = max(side.ask("matrix_rate", size, dtype, timeout=stage.left()) for side in both)
        stage.note(peak_product=self._peak, matrix_size=size, rounds=ROUNDS)

    def time_row(self, row: Row, program: str) -> None:
        """Times a row with our program, "ours", or with a variant of PyTorch."""
        self._record(row, program, functools.partial(self._prepare_and_time, row, program))

    def _record(self, row: Row, program: str, measure: Callable[[], dict[str, Any]]) -> None:
        entry = {**row._asdict(), "program": program}
        try:
            entry |= measure()
        except TimeoutError as error:
            self.stage.drop(f"{row.label()} {program}: {error}")
            return
        except Exception as error:  # other rows are not affected
            entry["failure"] = failure_of(error)
            if program == "ours":
                self.failed.append(f"{row.label()}: {entry['failure']}")
        self.rows.append(entry)
        self.stage.add(**entry)
        self.stage.headline(*headlines(self.rows))
        (self.stage.out / "speed.md").write_text(markdown(self.rows))

    def _prepare_and_time(self, row: Row, program: str) -> dict[str, Any]:
        side, start = self._ours if program == "ours" else self._torch, time.monotonic()
        asked = (row.system, row.overrides(self.stage.tiny))
        where = (row.system, row.batch)
        if program == "ours" and where not in self._operations:  # the same for every dtype
            self._operations[where] = side.ask("operations", *asked, timeout=self.stage.left())
        prepared = side.ask("prepare", *asked, [program], timeout=self.stage.left())
        if prepared.failed:
            return {"failure": prepared.failed[program]}
        ready = time.monotonic() - start
        found = self._timed(row, side, program, prepared.seconds[program], prepared)
        return found | {"seconds_to_prepare": round(ready, 1)}

    def _timed(
        self, row: Row, side: Side, program: str, estimate: float, prepared: processes.Prepared
    ) -> dict[str, Any]:
        if self._parameters.setdefault(row, prepared.parameters) != prepared.parameters:
            raise ValueError(f"{prepared.parameters} parameters, and {self._parameters[row]} on the other side")
        steps = timing.steps_in(0.02 if self.stage.tiny else SECONDS_PER_ROUND, estimate)
        found = timing.spread(side.ask("time_steps", program, steps, timeout=self.stage.left()) for _ in range(ROUNDS))
        found |= {"images_per_second": 1000 * prepared.images / found["median_ms"], "steps_per_round": steps}
        if operations := self._operations.get((row.system, row.batch)):  # unknown if our side failed
            rate = 1000 * operations / found["median_ms"]
            found |= {"share_of_peak": rate / self._peak[row.dtype], "gflop": operations / 1e9}
        return found

    def close(self) -> None:
        """Ends both sides."""
        self._ours.close()
        self._torch.close()


def run(stage: Stage) -> None:
    """Times as many rows as there is time for, and updates the table `speed.md` after each."""
    from gan import data

    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(data.cache.cache_folder() / "programs"))
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")  # PyTorch gets the rest
    table = Table(stage)
    try:
        table.start()
        order = TINY_ORDER if stage.tiny else ORDER
        order = [where for where in order if not stage.systems or where[0] in stage.systems]
        rows = [Row(*where, dtype) for where in order for dtype in DTYPES]
        for name, needed, measure in plan(table, rows):
            if stage.left() < (0.0 if stage.tiny else needed):
                stage.drop(name)
            else:
                measure()
    finally:
        table.close()
    if table.failed:
        raise StageFailed("; ".join(table.failed))


def plan(table: Table, rows: Sequence[Row]) -> Iterator[tuple[str, float, Callable[[], None]]]:
    """Yields (name, the seconds that it needs at least, function) of all measurements in order."""
    device = "cpu" if table.stage.record["facts"]["our_platform"] == "cpu" else "cuda"

    def of_torch(rows: Sequence[Row], *, compiled: bool) -> Iterator[tuple[str, float, Callable[[], None]]]:
        if not table.has_torch or (compiled and table.stage.tiny):  # compiling takes too long for a tiny run
            return
        for row in rows:
            for name in variants.variants_of(systems.configured(row.system), device):
                if name not in SLOWER and variants.is_compiled(name) == compiled:
                    needed = MIN_SECONDS_COMPILED if compiled else MIN_SECONDS
                    yield f"{row.label()} {name}", needed, functools.partial(table.time_row, row, name)

    for row in rows:
        yield row.label(), MIN_SECONDS, functools.partial(table.time_row, row, "ours")
        yield from of_torch([row], compiled=False)
    yield from of_torch(rows, compiled=True)


def with_fastest_torch(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Each timed row of ours, with the fastest one of PyTorch."""
    timed = [row for row in rows if "median_ms" in row]

    def best(ours: dict[str, Any]) -> dict[str, Any] | None:
        key = [ours[name] for name in Row._fields]
        peers = [row for row in timed if row["program"] != "ours" and [row[name] for name in Row._fields] == key]
        return min(peers, key=lambda row: row["median_ms"], default=None)

    return [(row, best(row)) for row in timed if row["program"] == "ours"]


def headlines(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of the summary: one for each row of ours."""
    lines = []
    for ours, best in with_fastest_torch(rows):
        torch = f"; PyTorch {best['median_ms']:.2f} ({best['program']}): {_ratio(ours, best):.2f} times" if best else ""
        name = Row(*(ours[field] for field in Row._fields)).label()
        lines.append(
            f"{name}: {ours['median_ms']:.2f} ms, {100 * ours['share_of_peak']:.0f}% of the matrix product{torch}"
        )
    return lines


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table for docs/benchmarks.md."""
    lines = [
        "| system | batch | dtype | ms a step | images/s | of the product | PyTorch, ms | variant | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for ours, best in with_fastest_torch(rows):
        torch = (f"{best['median_ms']:.2f}", best["program"], f"{_ratio(ours, best):.2f}") if best else ("", "", "")
        cells = (f"`{ours['system']}`", ours["batch"], ours["dtype"], f"{ours['median_ms']:.2f}",
                 f"{ours['images_per_second']:,.0f}", f"{100 * ours['share_of_peak']:.0f}%", *torch)  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _ratio(ours: dict[str, Any], best: dict[str, Any]) -> float:
    """The ratio of step times; above 1: ours is faster."""
    return best["median_ms"] / ours["median_ms"]
