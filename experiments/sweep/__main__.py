"""Runs an experiment: trains each of its settings with each seed, and writes tables and a page.

python -m experiments.sweep experiments/studies/NAME.py --workdir=DIR [--storage=URL] [--override FIELD=VALUE ...]

The same command continues an interrupted study. Launched several times, on one machine or on many, it adds workers to
the same study. DIR/index.html, DIR/table.md and DIR/table.csv are rewritten after each trial. See docs/sweeps.md.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path

from experiments import cli
from experiments.sweep.experiment import load_configs, load_experiment, record
from gan.errors import UserError

IDLE_SECONDS = 2.0
"""How often an idle worker checks whether a trial of another worker was abandoned."""


def main() -> int:
    """Runs a worker. Returns the exit status."""
    return _run(_parse())


def _parse() -> argparse.Namespace:
    parser = cli.Parser(prog="python -m experiments.sweep", description=__doc__)
    parser.add_argument("experiment", help="an experiment file, or the name of one of experiments/studies/")
    parser.add_argument("--workdir", help="the study's folder; default: runs/NAME")
    parser.add_argument("--storage", default="", help="URL of a database for Optuna; default: a file in the workdir")
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE of the config, for all trials")
    parser.add_argument("--retry", action="store_true", help="try crashed trials again")
    return parser.parse_args()


def _run(arguments: argparse.Namespace) -> int:
    experiment, question = load_experiment(arguments.experiment)
    base, config = load_configs(experiment, arguments.override)
    try:
        from experiments.sweep import planning, storage
        from experiments.sweep.trial import StopSignal
        from experiments.sweep.worker import Worker
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise UserError("a sweep needs Optuna: pip install '.[sweep]'") from error
    folder = Path(arguments.workdir or Path("runs") / Path(arguments.experiment).stem)
    with StopSignal() as stop_signal:
        study = storage.open_study(experiment, record(experiment, config), folder, arguments.storage)
        with storage.locked(folder):
            planning.retry(study, crashed=arguments.retry)
        worker = Worker(experiment, question, base, config, folder, study, stop_signal)
        try:
            worker.write()
            while not stop_signal.signal:
                with contextlib.ExitStack() as lock:
                    lock.enter_context(storage.locked(folder))
                    next_step = planning.plan(study, experiment, folder)
                    if next_step == "run":
                        worker.run(lock)
                if next_step == "done":
                    break
                if next_step == "wait":
                    time.sleep(IDLE_SECONDS)
            worker.write()
        except storage.Failure as error:
            line = " ".join(str(error).split())[:200]
            raise UserError(f"the storage fails; repeat the command once it is back: {line}") from error
    if stop_signal.signal:
        _print("stopped; the same command continues the study")
        return 128 + stop_signal.signal
    _print(f"done: {folder / 'table.md'}, {folder / 'index.html'}")
    return worker.exit_status()


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
