"""The flags of `python -m gan.main`: their definitions, their parsing, and the checks across them.

Importing this module does not load JAX: `--help` and a mistake in a flag are answered at once.
"""

import difflib
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from gan.config import loading
from gan.config.flattening import flatten
from gan.errors import UserError

CONFIG_HELP = "The config of the run: FILE or FILE:ARG, where ARG selects a variant, as in configs/dcgan.py:mnist."
WORKDIR_HELP = "The folder of the run. Default: runs/NAME, or runs/NAME-ARG."
CONFIG = config_flags.DEFINE_config_file("config", None, CONFIG_HELP)
WORKDIR = flags.DEFINE_string("workdir", None, WORKDIR_HELP)
MODE = flags.DEFINE_enum("mode", "train", ["train", "sample", "evaluate"], "What to do.")
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "Number of samples. Default: 64 to sample; config.evaluation.num_samples to evaluate."
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the samples. Sample i of a seed is always the same image.", 0, 2**32 - 1
)
EXTRACTOR = flags.DEFINE_string(
    "extractor", None, "Feature extractor of the evaluation: classifier, inception, pixels. Default: the config's."
)
CLASSES = flags.DEFINE_list("classes", [], "Classes to sample, in turn: names or numbers. Default: all.")
SAME_LATENTS = flags.DEFINE_bool("same_latents", False, "Sample each latent once for each class, side by side.")
TRUNCATION = flags.DEFINE_float(
    "truncation", None,
    "Truncation trick: psi for StyleGAN2; otherwise latents beyond this many standard deviations are resampled.",
)  # fmt: skip
OUT = flags.DEFINE_string("out", None, "NPZ file of the samples. Default: samples_seedSEED.npz in the workdir.")
MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Join a multi-process run; the cluster is detected (Slurm, Kubernetes, TPU, Open MPI)."
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the coordinator, on the host of process 0.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes of the run.", 1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process, 0 .. num_processes - 1.", 0)

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
"""The modes that use a flag. A flag that is not listed is used by all of them."""


def parse(argv: Sequence[str]) -> list[str]:
    """Parses the flags of `argv` and returns the remaining words. Raises `UserError` for a flag or config in error."""
    try:
        _check_config(argv)
        return flags.FLAGS(argv)
    except UserError:
        raise
    except Exception as error:  # absl and ml_collections raise many types for a value that cannot be parsed
        raise UserError(" ".join(str(error).split()) or type(error).__name__) from error


def check_modes() -> None:
    """Raises `UserError` where a flag is set that the mode does not use."""
    mode = MODE.value
    if mode != "train" and CONFIG.value is not None and flags.FLAGS["config"].override_values:
        field = next(iter(flags.FLAGS["config"].override_values))
        raise UserError(f"--config.{field} has no meaning with --mode={mode}, which uses the config of the run")
    for flag, modes in MODES_OF.items():
        if flags.FLAGS[flag].present and mode not in modes:
            raise UserError(f"--{flag} has no meaning with --mode={mode}; expected with: {', '.join(modes)}")


def workdir() -> Path:
    """The folder of the run: --workdir, or a name made of --config."""
    if WORKDIR.value:
        return Path(WORKDIR.value)
    if CONFIG.value is None:
        raise UserError("--workdir is missing; expected: the folder of the run")
    path, _, argument = flags.FLAGS["config"].config_filename.partition(":")
    return Path("runs") / "-".join(filter(None, (Path(path).stem, argument)))


def config_and_workdir(arguments: Sequence[str]) -> tuple[ConfigDict, Path]:
    """The config and the folder that `python -m gan.main` would use with these arguments; no global flag changes."""
    values, argv = flags.FlagValues(), ["gan.main", *arguments]
    config = config_flags.DEFINE_config_file("config", None, CONFIG_HELP, flag_values=values, sys_argv=argv)
    folder = flags.DEFINE_string("workdir", "", WORKDIR_HELP, flag_values=values)
    values(argv)
    return config.value, Path(folder.value)


def help_text() -> str:
    """Every flag with its meaning and default."""
    _, _, text = flags.FLAGS.module_help(sys.modules[__name__]).partition(":\n")
    return f"Flags:\n{text}"


def _check_config(argv: Sequence[str]) -> None:
    """Loads the config file once before absl does, so that a mistake in it or in an override is one line."""
    values = {}
    for argument, following in itertools.pairwise([*argv[1:], ""]):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-"):
            values[name] = value if equals else following
    if "config" not in values:
        return
    valid = flatten(loading.load(values["config"]))
    path = values["config"].partition(":")[0]
    for name in values:
        field = name.removeprefix("config.")
        if name.startswith("config.") and field not in valid:
            near = difflib.get_close_matches(field, valid, n=1, cutoff=0.0)
            raise UserError(f"--{name} is no field of {path}; nearest: --config.{near[0]}")
