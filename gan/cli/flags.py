"""The flags of `python -m gan.main`: their definitions, their parsing, and the checks across them.

Importing this module does not load JAX: `--help` and a mistake in a flag are answered at once.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from gan.cli import folders, numbers, recorded, words
from gan.config import loading
from gan.config.schema import kind_name, whole_number
from gan.errors import UserError
from gan.io import workdir as workdir_files


def _define_whole_number(name: str, default: int | None, meaning: str, lowest: int | None = None, highest=None):
    return flags.DEFINE(
        numbers.WholeNumberParser(lowest, highest), name, default, meaning, serializer=flags.ArgumentSerializer()
    )


VIEWS = (
    "interpolation", "truncation", "classes", "seeds", "mixing", "directions", "projection", "neighbors", "spectrum",
    "timelapse", "app",
)  # fmt: skip
OF_GENERATORS = tuple(view for view in VIEWS if view not in ("timelapse", "app"))

CONFIG_HELP = (
    "The config of the run, by its name or as a file: NAME, NAME:ARG, FILE.py or FILE.py:ARG, where ARG selects a "
    "variant, as in dcgan:mnist or configs/dcgan.py:mnist."
)
WORKDIR_HELP = (
    "The folder of the run. Default: runs/NAME or runs/NAME-ARG, with -FIELD=VALUE,... of the overrides that make it "
    "another run. Alone, it resumes the run in the folder with its own config."
)
CONFIG = config_flags.DEFINE_config_file("config", None, CONFIG_HELP)
WORKDIR = flags.DEFINE_string("workdir", None, WORKDIR_HELP)
MODE = flags.DEFINE_enum("mode", "train", ["train", "sample", "evaluate", "explore", "export"], "What to do.")
NUM_SAMPLES = _define_whole_number(
    "num_samples",
    None,
    "Number of samples. Default: 64 to sample; config.evaluation.num_samples to evaluate; of rows or keys to explore.",
)
SEED = _define_whole_number(
    "seed", 0, "Seed of the samples. Sample i of a seed is always the same image.", 0, 2**32 - 1
)
EXTRACTOR = flags.DEFINE_string(
    "extractor",
    None,
    "Feature extractor of the evaluation: classifier, inception, pixels, dinov2_vits14 (also vitb14, vitl14). Default: "
    "the config's.",
)
METRICS = flags.DEFINE_list("metrics", [], "Metrics of the evaluation: see docs/evaluation.md. Default: the config's.")
ERROR_BARS = _define_whole_number(
    "error_bars", None, "Random halves of the samples that error bars of the metrics come from. Default: the config's."
)
SAMPLES = flags.DEFINE_string(
    "samples", None, "Images of any model to evaluate, by the protocol of the config: a folder, or a ZIP or NPZ file."
)
CLASSES = flags.DEFINE_list("classes", [], "Classes to sample, in turn: names or numbers. Default: all.")
SAME_LATENTS = flags.DEFINE_bool("same_latents", False, "Sample each latent once for each class, side by side.")
TRUNCATION = flags.DEFINE(
    numbers.NumberParser(), "truncation", None,
    "Truncation trick: psi for StyleGAN2, of any sign; otherwise latents beyond this many standard deviations are "
    "resampled.", serializer=flags.ArgumentSerializer(),
)  # fmt: skip
OUT = flags.DEFINE_string(
    "out",
    None,
    "NPZ file of the samples. Default: in the workdir, samples_stepSTEP_seedSEED_nNUM and the other choices. To "
    "explore: a folder, or a file of the view. Default: explore/ in the workdir. To export: the folder to write. To "
    "evaluate images: a JSON file. Default: SAMPLES.evaluation.json.",
)
DTYPE = flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "Type of the weights in an export. Default: float32.")
FORMAT = flags.DEFINE_list(
    "format", [],
    "To export: safetensors, stablehlo, onnx, web. Default: safetensors,stablehlo. To explore: gif or mp4, of "
    "animations. Default: gif, or that of --out.",
)  # fmt: skip
DIRECTION = flags.DEFINE_list(
    "direction", [], "Moves every sample along directions, FILE:INDEX*STRENGTH,...: of a file of --view=directions."
)
VIEW = flags.DEFINE_enum("view", None, VIEWS, "What to explore: see docs/explore.md.")
IMAGE = flags.DEFINE_string("image", None, "The image file to project, of the size of the run's images.")
PATH = flags.DEFINE_enum(
    "path", None, ["slerp", "linear", "cubic"],
    "Interpolation. Default: cubic with styles, slerp with normal latents, linear with uniform ones.",
)  # fmt: skip
METHOD = flags.DEFINE_enum("method", "sefa", ["sefa", "pca"], "How directions are found.")
LAYERS = flags.DEFINE_enum(
    "layers", None, ["coarse", "middle", "fine"], "Styles that directions move. Default: all of them."
)
DIRECTIONS = flags.DEFINE_string("directions", None, "NPZ file of --view=directions: the sliders of the app.")
PORT = _define_whole_number("port", None, "Of the app, on the loopback interface. Default: from 7860.", 1, 65535)
STEP = flags.DEFINE_string(
    "step", None, "The checkpoint: the number of its step, last, or best; to evaluate also all. Default: last."
)
ALL_STEPS = "all"
MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Join a multi-process run; the cluster is detected (Slurm, Kubernetes, TPU, Open MPI)."
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the coordinator, on the host of process 0.")
NUM_PROCESSES = _define_whole_number("num_processes", None, "Number of processes of the run.", 1)
PROCESS_ID = _define_whole_number("process_id", None, "Index of this process, 0 .. num_processes - 1.", 0)

MODES_OF = {
    "num_samples": ("sample", "evaluate", "explore"),
    "seed": ("sample", "evaluate", "explore"),
    "extractor": ("evaluate", "explore"),
    "metrics": ("evaluate",),
    "error_bars": ("evaluate",),
    "samples": ("evaluate",),
    "classes": ("sample", "explore"),
    "same_latents": ("sample",),
    "truncation": ("sample", "evaluate", "explore", "export"),
    "out": ("sample", "evaluate", "explore", "export"),
    "step": ("sample", "evaluate", "explore", "export"),
    "direction": ("sample",),
    "view": ("explore",),
    "image": ("explore",),
    "path": ("explore",),
    "method": ("explore",),
    "layers": ("explore",),
    "format": ("explore", "export"),
    "dtype": ("export",),
    "directions": ("explore",),
    "port": ("explore",),
    "multihost": ("train",),
    "coordinator": ("train",),
    "num_processes": ("train",),
    "process_id": ("train",),
}
"""The modes that use a flag. A flag that is not listed is used by all of them."""

VIEWS_OF = {
    "num_samples": tuple(view for view in OF_GENERATORS if view != "projection"),
    "seed": OF_GENERATORS,
    "extractor": ("projection", "neighbors"),
    "classes": OF_GENERATORS,
    "truncation": tuple(view for view in OF_GENERATORS if view not in ("truncation", "projection")),
    "step": (*OF_GENERATORS, "app"),
    "out": tuple(view for view in VIEWS if view != "app"),
    "image": ("projection",),
    "path": ("interpolation",),
    "method": ("directions", "app"),
    "directions": ("app",),
    "port": ("app",),
    "layers": ("directions",),
    "format": ("interpolation", "projection", "timelapse"),
}
"""The views that use a flag of --mode=explore. A flag that is not listed is used by all of them."""


def parse(argv: Sequence[str]) -> list[str]:
    """Parses the flags of `argv` and returns the remaining words. Raises `UserError` for a flag or config in error."""
    with _mistakes():
        return flags.FLAGS(words.checked(_with_recorded_config(argv)))


@contextlib.contextmanager
def _mistakes() -> Iterator[None]:
    """Raises a `UserError` for the many types that absl and ml_collections raise for a value that cannot be parsed."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        flag, is_of_boolean, _ = text.partition(": ('Non-boolean argument")  # absl's words
        raise UserError(f"{flag}: expected: {kind_name(bool)}" if is_of_boolean else text) from error


@contextlib.contextmanager
def named_in_errors() -> Iterator[None]:
    """Within it, an error about an argument that was given as a flag names the flag: `--truncation=` is `truncation=`
    in Python."""
    try:
        yield
    except UserError as error:
        name = str(error).partition("=")[0]
        if name in MODES_OF and flags.FLAGS[name].present:
            raise UserError(f"--{error}") from error
        raise


def check_modes() -> None:
    """Raises `UserError` where a flag is set that the mode does not use."""
    mode = MODE.value
    if mode != "train" and not SAMPLES.value and CONFIG.value is not None and (fields := _overrides()):
        raise _field_has_no_meaning(next(iter(fields)), mode)
    for flag, modes in MODES_OF.items():
        if flags.FLAGS[flag].present and mode not in modes:
            raise UserError(f"--{flag} has no meaning with --mode={mode}; expected with: {', '.join(modes)}")
    if mode == "explore":
        _check_view(VIEW.value)
    if mode == "evaluate" and not SAMPLES.value and OUT.value:
        raise UserError("--out has no meaning with --mode=evaluate of a run; expected with it: --samples")
    if flag := next((name for name in ("truncation", "step") if SAMPLES.value and flags.FLAGS[name].present), ""):
        raise UserError(f"--{flag} has no meaning with --samples, which are images")


def _field_has_no_meaning(field: str, mode: str) -> UserError:
    return UserError(f"--config.{field} has no meaning with --mode={mode}, which uses the config of the run")


def _check_view(view: str | None) -> None:
    """Raises `UserError` where there is no view, or a flag is set that the view does not use."""
    if view is None:
        raise UserError(f"--view is missing; expected: {', '.join(VIEWS)}")
    for flag, views in VIEWS_OF.items():
        if flags.FLAGS[flag].present and view not in views:
            raise UserError(f"--{flag} has no meaning with --view={view}; expected with: {', '.join(views)}")


def workdir() -> Path:
    """The folder of the run: --workdir, or a name made of --config."""
    if WORKDIR.value == "None":
        raise UserError("--workdir=None; expected: the folder of the run, or no --workdir for the default")
    if WORKDIR.value:
        return Path(WORKDIR.value)
    if CONFIG.value is None:
        raise UserError("--workdir is missing; expected: the folder of the run")
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    return folders.default_folder(path, CONFIG.value, _overrides())


def _overrides() -> dict[str, Any]:
    """{field: value} of the flags --config.FIELD=VALUE."""
    return config_flags.get_override_values(flags.FLAGS["config"])


def checkpoint() -> dict:
    """The arguments of `gan.load` that --step stands for. Raises `UserError` where it is neither a step nor a name."""
    if STEP.value in (None, "last", "best"):
        return {"checkpoint": STEP.value}
    try:
        return {"step": whole_number(STEP.value)}
    except ValueError:
        also = "; all is for --mode=evaluate" if STEP.value == ALL_STEPS else ""
        raise UserError(f"--step={STEP.value}; expected: the number of a step, last, or best{also}") from None


def config_and_workdir(arguments: Sequence[str]) -> tuple[ConfigDict, Path]:
    """The config and the folder that `python -m gan.main` would use with these arguments; no global flag changes.

    Raises `UserError` for a flag or config in error, or without a config.
    """
    with _mistakes():
        return _config_and_workdir(arguments)


def _config_and_workdir(arguments: Sequence[str]) -> tuple[ConfigDict, Path]:
    values, argv = flags.FlagValues(), words.checked(["gan.main", *arguments])
    config = config_flags.DEFINE_config_file("config", None, CONFIG_HELP, flag_values=values, sys_argv=argv)
    folder = flags.DEFINE_string("workdir", "", WORKDIR_HELP, flag_values=values)
    values(argv)
    if config.value is None:
        raise config_is_missing(folder.value)
    return config.value, Path(folder.value)


def help_text() -> str:
    """Every flag with its meaning and default."""
    _, _, text = flags.FLAGS.module_help(sys.modules[__name__]).partition(":\n")
    return f"Flags:\n{text}"


def _with_recorded_config(argv: Sequence[str]) -> list[str]:
    """The words, with the recorded config as --config where --workdir alone names it: to train, or with --samples."""
    values = words.values(argv)
    folder, mode = values.get("workdir", ""), values.get("mode", "train")
    if {"samples", "config", "workdir"} <= values.keys():
        raise UserError("--workdir has no meaning with --samples and --config; expected: one of the two")
    if "config" in values:
        return list(argv)
    if mode != "train" and "samples" not in values:
        for name in values:
            if name.startswith("config."):
                raise _field_has_no_meaning(name.removeprefix("config."), mode)
        return list(argv)
    if folder and workdir_files.read(Path(folder)) is not None:
        return [*argv[:1], f"--config={recorded.FILE}:{folder}", *argv[1:]]
    if any(name.startswith("config.") for name in values):
        raise config_is_missing(folder)
    return list(argv)


def config_is_missing(folder: str | None) -> UserError:
    """The error for a run to train that neither --config nor the folder names."""
    own = f"; --workdir alone resumes a run, and {folder} holds none" if folder else ""
    return UserError(f"--config is missing; expected: FILE.py, {', '.join(loading.shipped())}{own}")
