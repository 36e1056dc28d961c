"""Checks and benchmarks this code on a GPU within minutes, and writes the results.

python -m experiments.on_gpu --out=DIR
python -m experiments.on_gpu --out=DIR --stages=parity,speed --seconds=300
python -m experiments.on_gpu --out=DIR --stages=speed --systems=stylegan2,r3gan
python -m experiments.on_gpu --out=DIR --flags=FOLDER

The stages, in this order:

  parity         convolutions with their derivatives, and a step of each network, against the CPU
  speed          step times of every system of the benchmarks, and of PyTorch if it is installed
  tutorials      the five tutorials at full length, with their samples
  stacked_mnist  configs/stacked_mnist.py at full length, with modes and KL
  r3gan          R3GAN's StackedMNIST preset for the remaining time: images per second, and memory
  launch         seconds to a run's first steps, with an empty compilation cache and with a full one

Each writes DIR/STAGE.json after each result, its images, and DIR/STAGE.log; DIR/summary.json lists how all of them
ended. Stages at the end for which there is no time are dropped, and listed as dropped. MNIST is read from
TFDS_DATA_DIR. The exit status is 0 if every stage that ran passed, 1 if one failed, 2 for a mistake in the flags.
"""

import time

STARTED = time.monotonic()  # before the slow imports, which count as time of the command

import argparse  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402

from experiments import cli  # noqa: E402
from experiments.on_gpu import driver, speed  # noqa: E402
from experiments.on_gpu.driver import MIN_SECONDS, StageSpec  # noqa: E402
from gan.errors import UserError, nearest  # noqa: E402

STAGES = {
    "parity": StageSpec("experiments.on_gpu.parity", seconds=90.0),
    "speed": StageSpec("experiments.on_gpu.speed", seconds=130.0, min_seconds=30.0),
    "tutorials": StageSpec("experiments.on_gpu.tutorials", seconds=190.0, min_seconds=40.0),
    "stacked_mnist": StageSpec("experiments.on_gpu.stacked_mnist", seconds=290.0, min_seconds=120.0),
    "r3gan": StageSpec("experiments.on_gpu.r3gan", seconds=240.0, min_seconds=150.0),  # compiles for a minute
    "launch": StageSpec("experiments.on_gpu.launch", seconds=60.0, min_seconds=40.0),
}

FLAGS_HELP = "images for flag_gan; default: the variable GAN_FLAGS, else the bundled digits"


def main(arguments: list[str] | None = None, started: float | None = None) -> int:
    """Parses the flags, runs the stages and prints how they ended. Returns the exit status.

    The budget counts from `started`, a time of `time.monotonic()`, or from now.
    """
    started = time.monotonic() if started is None else started
    given = parse(arguments)
    chosen = {name: STAGES[name]._replace(**({"min_seconds": 0.0} if given.tiny else {})) for name in given.stages}
    flags = ["--tiny"] if given.tiny else []
    flags += [f"--{name}={value}" for name in ("flags", "systems") if (value := getattr(given, name))]
    try:
        ended = driver.run_all(chosen, given.out, seconds=given.seconds, started=started, flags=flags)
    except OSError as error:
        raise UserError(f"--out={given.out} cannot be written: {error.strerror}") from error
    print(f"\n{driver.table(ended)}\n\n{given.out / 'summary.json'}")
    return int(any(stage.status == "failed" for stage in ended) or all(stage.status == "dropped" for stage in ended))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the flags. Raises `UserError` for an unknown stage, a missing folder or too few seconds."""
    parser = cli.Parser(prog="python -m experiments.on_gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder for records, images and logs")
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated names; default: all")
    parser.add_argument("--seconds", type=float, default=480.0, help="wall time of all stages together")
    parser.add_argument("--flags", default=os.environ.get("GAN_FLAGS", ""), metavar="FOLDER", help=FLAGS_HELP)
    parser.add_argument("--systems", default="", help="for speed: comma-separated systems; default: all")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the command on a CPU")
    given = parser.parse_args(arguments)
    names = [name for name in given.stages.split(",") if name]
    for name in names or [given.stages]:
        if name not in STAGES:
            raise UserError(f"--stages: {name!r} is unknown{nearest(name, STAGES)}; expected: {', '.join(STAGES)}")
    given.stages = [name for name in STAGES if name in names]
    timed = list(dict.fromkeys(system for system, _ in speed.ORDER))
    for name in filter(None, given.systems.split(",")):
        if name not in timed:
            raise UserError(f"--systems: {name!r} is unknown{nearest(name, timed)}; expected: {', '.join(timed)}")
    if not given.seconds >= MIN_SECONDS:
        raise UserError(f"--seconds={given.seconds:g}: a stage needs at least {MIN_SECONDS:g}")
    if given.flags and not Path(given.flags).is_dir():
        raise UserError(f"--flags={given.flags} is not a folder")
    given.flags = given.flags and str(Path(given.flags).absolute())
    return given


if __name__ == "__main__":
    cli.run(lambda: main(started=STARTED))
