"""Train a GAN, draw samples from a trained one, or evaluate it.

python -m gan.main --config=configs/NAME.py[:ARG] [--workdir=DIR] [--config.FIELD=VALUE ...]
python -m gan.main --mode=sample --workdir=DIR --num_samples=64 --seed=0 [--out=FILE.npz]
                   [--classes=NAME,NAME] [--same_latents] [--truncation=0.7]
python -m gan.main --mode=evaluate --workdir=DIR [--num_samples=10000] [--seed=0] [--extractor=NAME] [--truncation=0.7]

On several hosts, or as several processes, every one of them runs the same command with --multihost, which finds the
others by Slurm, Kubernetes, a TPU pod or Open MPI, or with --coordinator=HOST:PORT --num_processes=N --process_id=I.

Any field of a config is overridden by --config.FIELD=VALUE. The same command again resumes a run.
"""

import time

LAUNCHED = time.monotonic()  # before the slow imports: a run's `seconds` count from here

import difflib  # noqa: E402
import itertools  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402

from absl import app, flags  # noqa: E402
from absl import logging as absl_logging  # noqa: E402
from ml_collections import ConfigDict, config_flags  # noqa: E402

from gan.errors import Diverged, Reported, UserError, machine_failure, machine_failures, nearest  # noqa: E402
from gan.io import console  # noqa: E402

CONFIG = config_flags.DEFINE_config_file("config", None, "The run: a file of configs/, with an argument after a colon.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder. Default: runs/NAME, or runs/NAME-ARG.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "sample", "evaluate"], "What to do with the run.")
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "How many samples to draw. Default: 64; to evaluate, the config's evaluation.num_samples."
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the samples: sample i of a seed is always the same image.", 0, 2**32 - 1
)
EXTRACTOR = flags.DEFINE_string(
    "extractor", None, "What to evaluate through: classifier, inception, pixels. Default: as the run's config says."
)
CLASSES = flags.DEFINE_list("classes", [], "Which classes to draw, in turn: names or numbers. Default: all.")
SAME_LATENTS = flags.DEFINE_bool("same_latents", False, "Draw each latent once for each class, side by side.")
TRUNCATION = flags.DEFINE_float(
    "truncation", None, "Draw from the middle of the latents only, or with a network of styles near their mean."
)
OUT = flags.DEFINE_string("out", None, "The NPZ file of the samples. Default: samples_seedSEED.npz in the workdir.")
MULTIHOST = flags.DEFINE_bool("multihost", False, "Train as one of the processes that the environment tells of.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT on the first process's host, at which all meet.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes train the run.", 1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process's number, 0 .. num_processes - 1.", 0)

MODES_OF = {
    "num_samples": ("sample", "evaluate"),
    "seed": ("sample", "evaluate"),
    "extractor": ("evaluate",),
    "classes": ("sample",),
    "same_latents": ("sample",),
    "truncation": ("sample", "evaluate"),
    "out": ("sample",),
    "multihost": ("train",),
    "coordinator": ("train",),
    "num_processes": ("train",),
    "process_id": ("train",),
}
"""The modes in which each flag has a meaning, where it has not in all."""


def main(argv: list[str]) -> None:
    """Runs a mode, and turns how it ends into the exit status."""
    set_up_logging()
    try:
        if argv[1:]:
            raise UserError(f"{argv[1]!r} is no flag: flags begin with --")
        with machine_failures(f"--workdir={WORKDIR.value}" if WORKDIR.value else "the run's folder"):
            sys.exit(_run())
    except UserError as error:
        if machine_failure(error):
            _hush()
        sys.exit(_told(error))
    except Diverged as error:
        print(f"diverged: {error}. The last checkpoint stands", file=sys.stderr)
        sys.exit(3)
    except KeyboardInterrupt:
        print("interrupted before the first step", file=sys.stderr)
        sys.exit(130)


def parse(argv: list[str]) -> list[str]:
    """The flags of `argv`; what is left of it. Ends the process with one line where a flag or the config is wrong."""
    if any(argument in ("--help", "-help", "-h", "--helpfull", "--helpshort") for argument in argv[1:]):
        print(f"{__doc__}\n{flags.FLAGS.module_help(sys.modules[__name__])}")
        sys.exit(0)
    try:
        _check_config(argv)
        return flags.FLAGS(argv)
    except UserError as error:
        sys.exit(_told(error))
    except Exception as error:  # absl and ml_collections raise many kinds for a value that cannot be read
        sys.exit(_told(UserError(" ".join(str(error).split()) or type(error).__name__)))


def _run() -> int:
    if CONFIG.value is None and MODE.value == "train":
        raise UserError(f"--config is missing; expected: {', '.join(_shipped_configs())}")
    workdir = Path(WORKDIR.value) if WORKDIR.value else _default_workdir()
    if MODE.value != "train" and CONFIG.value is not None and flags.FLAGS["config"].override_values:
        field = next(iter(flags.FLAGS["config"].override_values))
        raise UserError(f"--config.{field} has no meaning with --mode={MODE.value}: the run has a config of its own")
    for flag, modes in MODES_OF.items():
        if flags.FLAGS[flag].present and MODE.value not in modes:
            raise UserError(f"--{flag} has no meaning with --mode={MODE.value}; expected with: {', '.join(modes)}")
    from gan import data  # late, as all below: --help and mistakes in flags need not wait for JAX
    from gan.parallel import sharding  # late, as all below: --help and mistakes in flags need not wait for JAX

    sharding.enable_compilation_cache(data.cache.cache_folder() / "programs")
    if MODE.value == "sample":
        from gan.inference import sampling

        out = Path(OUT.value) if OUT.value else None
        count = 64 if NUM_SAMPLES.value is None else NUM_SAMPLES.value
        sampling.sample(
            workdir,
            count=count,
            seed=SEED.value,
            out=out,
            classes=CLASSES.value,
            same_latents=SAME_LATENTS.value,
            truncation=TRUNCATION.value,
        )
        return 0
    if MODE.value == "evaluate":
        from gan.evaluation import command

        command.evaluate(
            workdir,
            count=NUM_SAMPLES.value,
            seed=SEED.value,
            extractor=EXTRACTOR.value,
            truncation=TRUNCATION.value,
        )
        return 0
    if _is_one_of_several():
        return _train_with_others(workdir)
    from gan.train import loop

    return loop.train(CONFIG.value, workdir, LAUNCHED)


def _is_one_of_several() -> bool:
    """Raises `UserError` where the flags that say so do not fit together."""
    given = {"coordinator": COORDINATOR.value, "num_processes": NUM_PROCESSES.value, "process_id": PROCESS_ID.value}
    missing = [f"--{flag}" for flag, value in given.items() if value is None]
    if len(missing) == len(given):
        return MULTIHOST.value
    if missing:
        raise UserError(f"{missing[0]} is missing; expected: --coordinator, --num_processes and --process_id together")
    host, _, port = COORDINATOR.value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator={COORDINATOR.value} is no place to meet; expected: HOST:PORT")
    if PROCESS_ID.value >= NUM_PROCESSES.value:
        raise UserError(f"--process_id={PROCESS_ID.value} is invalid; expected: 0 .. {NUM_PROCESSES.value - 1}")
    return True


def _train_with_others(workdir: Path) -> int:
    from gan.parallel import processes
    from gan.train import loop

    processes.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if not processes.is_primary():
        logging.getLogger("gan").setLevel(logging.ERROR)  # all would say the same
    try:
        status = loop.train(CONFIG.value, workdir, LAUNCHED)
    except Diverged:  # all know it
        processes.shutdown()
        raise
    except Reported:
        processes.abort(2)
    except UserError as error:
        processes.abort(_told(error))
    except Exception as error:
        if processes.is_peer_failure(error):
            processes.report_loss(str(error).splitlines()[0])
        if line := machine_failure(error, str(workdir)):
            processes.abort(_told(line))
        traceback.print_exc()
        processes.abort(1)
    processes.shutdown()
    return status


def _default_workdir() -> Path:
    if CONFIG.value is None:
        raise UserError("--workdir is missing: the folder of the run")
    path, _, argument = flags.FLAGS["config"].config_filename.partition(":")
    return Path("runs") / "-".join(filter(None, (Path(path).stem, argument)))


def _shipped_configs() -> list[str]:
    return sorted(map(str, Path("configs").glob("*.py")))


def _check_config(argv: list[str]) -> None:
    """Loads the config file by itself, so that what is wrong with it, or with an override, can be said in one line."""
    values = {}
    for argument, following in itertools.pairwise([*argv[1:], ""]):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-"):
            values[name] = value if equals else following
    if "config" not in values:
        return
    path = values["config"].partition(":")[0]
    if not os.path.isfile(path):
        valid = _shipped_configs()
        raise UserError(f"--config={path} is not a file{nearest(path, valid)}; expected: {', '.join(valid)}")
    try:
        config = flags.FLAGS["config"].parser.parse(values["config"])
        valid = _leaves(config) if isinstance(config, ConfigDict) else None
    except (Exception, SystemExit) as error:  # a config is code: whatever it raises is told
        raise UserError(f"--config={values['config']}: {type(error).__name__}: {_last_line(error)}") from error
    if not valid:
        raise UserError(f"--config={path}: get_config returns no ConfigDict with fields")
    for name in values:
        field = name.removeprefix("config.")
        if name.startswith("config.") and field not in valid:
            near = difflib.get_close_matches(field, valid, n=1, cutoff=0.0)
            raise UserError(f"--{name} is no field of {path}; nearest: --config.{near[0]}")


def _leaves(config: ConfigDict, prefix: str = "") -> list[str]:
    leaves = []
    for name, value in config.items():
        leaves += _leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [f"{prefix}{name}"]
    return leaves


def _last_line(error: BaseException) -> str:
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # of an error of the config's own
        lines = []
    return lines[-1].strip() if lines else "it does not say what"


def _told(error: object) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def set_up_logging() -> None:
    """Our own lines go to stderr as they are, above the progress bar; libraries speak from warnings up."""
    from tqdm import tqdm

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            tqdm.write(prefix + self.format(record), file=sys.stderr)

    logger = logging.getLogger("gan")
    logger.handlers = [Handler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    absl_logging.set_verbosity(absl_logging.ERROR)
    for name in ("absl", "asyncio", "concurrent.futures"):
        logging.getLogger(name).addFilter(_is_news)
    sys.unraisablehook = _tell_if_news


def _is_news(record: logging.LogRecord) -> bool:
    """False for the tracebacks that Orbax's threads log of what they raise: it comes out where it is waited for."""
    return not record.exc_info


def _tell_if_news(left: "sys.UnraisableHookArgs") -> None:
    """Leaves out what TensorStore's threads say of writes that end after another failed, and nobody waits any more."""
    if not (left.exc_type is RuntimeError and str(left.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(left)


def _hush() -> None:
    """From here on nothing is told of what is left behind unfinished: what it waited for has failed, and was told."""
    sys.unraisablehook = lambda _: None
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own start-up lines
    console.fill_descriptors()
    sys.stderr = console.Stderr()
    app.run(main, flags_parser=parse)
