"""Writes docs/results.md from the records of trained runs, or trains what has no record.

python -m experiments.results                                        # writes the page
python -m experiments.results --check                                # says whether the page is what the records give
python -m experiments.results run --only=mnist,cifar10_gray/dcgan    # trains the missing runs, writes their records

A record that exists is kept: remove its file to train the run again. A run that was killed is resumed by the same
command. The entries are in experiments/results/entries.py.
"""

from pathlib import Path

from experiments import cli
from experiments.results import page, records
from experiments.results.entries import SECTIONS, find
from gan.errors import UserError
from gan.io.atomic import write_text


def main(arguments: list[str] | None = None) -> int:
    """Parses the flags and runs the command. Returns the exit status."""
    parser = cli.Parser(prog="python -m experiments.results", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("page", "run"), default="page")
    parser.add_argument("--check", action="store_true", help="write nothing; a stale page is an error")
    parser.add_argument("--only", default="", help="for run: comma-separated names, SECTION or SECTION/ENTRY")
    parser.add_argument("--runs", type=Path, help="for run: the folder of the runs; default: runs/results")
    given = parser.parse_args(arguments)
    if not page.PAGE.parent.is_dir():
        raise UserError(f"{page.PAGE.parent} is missing: the results are those of a checkout")
    if given.command == "run":
        if given.check:
            raise UserError("--check has no meaning with run")
        if not given.only:
            raise UserError(f"--only is missing; expected: {', '.join(section.name for section in SECTIONS)}")
        return _run(given.only, given.runs)
    if given.only or given.runs:
        raise UserError("--only and --runs are for run")
    text = page.text(SECTIONS, records.read_all(records.FOLDER))
    if not given.check:
        write_text(page.PAGE, text)
    elif not page.PAGE.exists() or page.PAGE.read_text() != text:
        raise UserError(f"{page.PAGE} is not what the records give; write it: python -m experiments.results")
    return 0


def _run(only: str, runs: Path | None) -> int:
    chosen = find(only)
    from experiments.results import training  # late: loads JAX, and mistakes have been reported by now
    from gan.cli.logging import set_up_logging

    set_up_logging()
    return training.run(chosen, runs or training.RUNS, records.FOLDER)


if __name__ == "__main__":
    cli.run(main)
