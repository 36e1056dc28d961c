"""Injects faults into small runs: is any of the run's state lost, and what does the user read?

python -m experiments.faults [--only NAME ...] [--kills 50] [--workdir=DIR] [--seed 0] [--out=FILE.json]

A small run is launched as a user launches it, and a fault is injected. The run has survived if it ends as an
undisturbed run does, either at once or when the same command is launched again after the fault: the restored
checkpoint has the same bits, every step is logged once with the same metrics, and the images are the same. A run that
had to end must have said why in one line, without a traceback, and with the exit status of docs/architecture.md.
Prints a table. Exits with 1 if anything is lost.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from experiments import cli
from experiments.faults import FAULTS, Bench, Skipped, cases

MESSAGE_CHARACTERS = 150
"""How much of a message the table shows."""


def main() -> int:
    """Injects faults and prints their table. Returns the exit status."""
    arguments = _parse()
    folder = Path(arguments.workdir or tempfile.mkdtemp(prefix="faults-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        print(f"error: --workdir={folder} is not empty; use a new folder", file=sys.stderr)
        return 2
    bench, rows, start = Bench(folder, arguments.kills, arguments.seed), [], time.monotonic()
    os.environ |= {name: bench.environment[name] for name in ("GAN_CACHE_DIR", "JAX_PLATFORMS", "XLA_FLAGS")}
    for name in arguments.only or FAULTS:
        rows.append(_row(bench, name))
        if arguments.out:
            Path(arguments.out).write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    print(f"\n{time.monotonic() - start:.0f} s, seed {arguments.seed}")
    lost = any(case["lost"] for row in rows for case in row["cases"])
    if not arguments.workdir and not lost:
        shutil.rmtree(folder)
    return int(lost)


def _row(bench: Bench, name: str) -> dict:
    """Tries all cases of a fault, and prints each on stderr."""
    start, found, skipped = time.monotonic(), [], ""
    try:
        for case in cases(bench, name):
            found.append(case)
            print(f"{name}: {case.name}: {case.lost or 'survived'}", file=sys.stderr, flush=True)
    except Skipped as error:
        skipped = str(error)
    seconds = round(time.monotonic() - start, 1)
    return {
        "fault": name,
        "seconds": seconds,
        "skipped": skipped,
        "cases": [dataclasses.asdict(case) for case in found],
    }


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    lines = ["| fault | tried | survived | lost | what the run reports |", "|---|---|---|---|---|"]
    for row in rows:
        found, description = row["cases"], FAULTS[row["fault"]].__doc__
        lost = sum(bool(case["lost"]) for case in found)
        saves = sum(case["name"].startswith("in a save") for case in found)
        description += f" ({saves} of them in a save)" if saves else ""
        message = f"skipped: {row['skipped']}" if row["skipped"] else _first_message(case["message"] for case in found)
        lines.append(f"| {description} | {len(found)} | {len(found) - lost} | {lost} | {message} |")
    return "\n".join(lines)


def _first_message(messages: Iterable[str]) -> str:
    """The first message, shortened, without the folders of its paths."""
    line = next(filter(None, messages), "")
    words = " ".join(f".../{Path(word).name}" if word.count("/") > 2 else word for word in line.split())
    text = words if len(words) <= MESSAGE_CHARACTERS else f"{words[:MESSAGE_CHARACTERS]}..."
    return f"`{text}`".replace("|", "\\|") if line else ""


def _parse() -> argparse.Namespace:
    parser = cli.Parser(prog="python -m experiments.faults", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=FAULTS, metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--kills", type=int, default=50, help="number of SIGKILLs at random moments")
    parser.add_argument("--workdir", help="an empty folder; default: a temporary one")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--out", help="write all cases to this JSON file")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
