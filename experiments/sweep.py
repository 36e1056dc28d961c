"""Answers an experiment's question: plays its settings with every seed, and writes tables and a page.

python -m experiments.sweep experiments/NAME.py --workdir=DIR [--storage=URL] [--override FIELD=VALUE ...]

The same command again goes on; at the same time, on this machine or on others, it is one more worker of the same study.
DIR/index.html, DIR/table.md and DIR/table.csv are written anew after each trial. See docs/sweeps.md.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import NoReturn

from experiments import cli
from experiments.study import space
from gan.errors import UserError

IDLE_SECONDS = 2.0
"""How often a worker that has nothing to do looks whether another one's trial is left to it."""


def main() -> int:
    """Runs a worker; how it ends, as an exit status."""
    return _run(_parse())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parse() -> argparse.Namespace:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="a file of experiments/")
    parser.add_argument("--workdir", help="the study's folder; default: runs/NAME")
    parser.add_argument("--storage", default="", help="a database, as Optuna names it; default: a file in the workdir")
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE of the config, for all trials")
    parser.add_argument("--retry", action="store_true", help="trials that crashed are tried again")
    return parser.parse_args()


def _run(arguments: argparse.Namespace) -> int:
    experiment, question = space.load(arguments.experiment)
    base, config = space.configured(experiment, arguments.override)
    try:
        from experiments.study import storage
        from experiments.study.trial import StopSignal
        from experiments.study.worker import Worker
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise UserError("a sweep needs Optuna: pip install '.[sweep]'") from error
    folder = Path(arguments.workdir or Path("runs") / Path(arguments.experiment).stem)
    with StopSignal() as interruption:
        study = storage.open_study(experiment, space.record(experiment, config), folder, arguments.storage)
        if arguments.retry:
            with storage.planning(folder):
                storage.forget_failed(study)
        worker = Worker(experiment, question, base, config, folder, study, interruption)
        try:
            worker.write()
            while not interruption.signal:
                with contextlib.ExitStack() as planning:
                    planning.enter_context(storage.planning(folder))
                    next_move = storage.plan(study, experiment, folder)
                    if next_move == "play":
                        worker.play(planning)
                if next_move == "done":
                    break
                if next_move == "wait":
                    time.sleep(IDLE_SECONDS)
            worker.write()
        except storage.Failure as error:
            line = " ".join(str(error).split())[:200]
            raise UserError(f"the storage fails; the same command goes on once it is back: {line}") from error
    if interruption.signal:
        _tell("stopped; the same command goes on from here")
        return 128 + interruption.signal
    _tell(f"done: {folder / 'table.md'}, {folder / 'index.html'}")
    return worker.verdict()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
