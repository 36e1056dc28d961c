"""Train a GAN, sample from a trained one, evaluate it, explore it, or export it.

Train, or resume a run with the same command, or with its folder alone:
  python -m gan.main --config=NAME[:ARG] [--workdir=DIR] [--config.FIELD=VALUE ...]
  python -m gan.main --workdir=DIR [--config.FIELD=VALUE ...]

NAME is a shipped config, or the path of a file.

Sample:
  python -m gan.main --mode=sample --workdir=DIR --num_samples=64 --seed=0 [--out=FILE.npz]
                     [--classes=NAME,NAME] [--same_latents] [--truncation=0.7] [--step=N]

Evaluate:
  python -m gan.main --mode=evaluate --workdir=DIR [--num_samples=10000] [--seed=0] [--extractor=NAME]
                     [--truncation=0.7] [--step=N] [--metrics=NAME,NAME] [--error_bars=100]

Evaluate images of any model, a folder, or a ZIP or NPZ file, by the protocol of a config:
  python -m gan.main --mode=evaluate --samples=PATH --config=NAME[:ARG] [--out=FILE.json] [--config.FIELD=VALUE ...]

Explore, with the views of docs/explore.md:
  python -m gan.main --mode=explore --view=NAME --workdir=DIR [--num_samples=8] [--seed=0] [--classes=NAME,NAME]
                     [--truncation=0.7] [--step=N] [--out=FILE or FOLDER]

Export:
  python -m gan.main --mode=export --workdir=DIR --out=FOLDER [--format=safetensors,stablehlo,onnx,web]
                     [--dtype=bfloat16] [--truncation=0.7] [--step=N]

Train with several processes or hosts: run the same command in each process, with --multihost, which detects Slurm,
Kubernetes, a TPU pod or Open MPI, or with --coordinator=HOST:PORT --num_processes=N --process_id=I.

Override any field of the config with --config.FIELD=VALUE. configs/default.py documents every field;
python -m gan.main --help-config prints the fields with their meanings and defaults.

Exit status: 0 done; 2 a mistake in a flag, a field or a file, or a failure of the machine; 3 the run diverged;
4 another process of the run was lost; 128 + N after signal N.
"""

import time

LAUNCHED = time.monotonic()  # before the slow imports: the `seconds` of metrics.jsonl count from here

from gan.train import signals  # noqa: E402

if __name__ == "__main__":
    signals.end_at_once()  # before the slow imports, too: a signal during them is not lost, and shows no traceback

import os  # noqa: E402
import sys  # noqa: E402

from absl import app  # noqa: E402

from gan import __version__  # noqa: E402
from gan.cli import evaluate, explore, export, fields, flags, sample, train  # noqa: E402
from gan.cli.exit_status import exit_status  # noqa: E402
from gan.cli.logging import set_up_logging  # noqa: E402
from gan.errors import UserError, report  # noqa: E402
from gan.io import console  # noqa: E402


def main(argv: list[str]) -> None:
    """Runs the mode that the flags select, and ends the process with its exit status."""
    set_up_logging()
    workdir = flags.WORKDIR.value
    sys.exit(exit_status(lambda: _run(argv[1:]), where=f"--workdir={workdir}" if workdir else "the run's folder"))


def parse(argv: list[str]) -> list[str]:
    """Parses the flags and returns the remaining words; --help, --version or a mistake ends the process."""
    words = {word.lstrip("-") for word in argv[1:] if word.startswith("-")}
    try:
        if "version" in words:
            console.show(__version__)
            sys.exit(0)
        if words & {"help-config", "help_config"}:
            console.show(fields.describe())
            sys.exit(0)
        if words & {"help", "h", "helpfull", "helpshort"}:
            console.show(f"{__doc__}\n{flags.help_text()}")
            sys.exit(0)
        return flags.parse(argv)
    except UserError as error:
        sys.exit(report(error))


def _run(words: list[str]) -> int:
    if words:
        raise UserError(f"{words[0]!r} is no flag: flags begin with --")
    mode = flags.MODE.value
    if (mode == "train" or flags.SAMPLES.value) and flags.CONFIG.value is None:
        raise flags.config_is_missing(flags.WORKDIR.value)
    workdir = flags.workdir()
    flags.check_modes()
    _enable_compilation_cache()
    with flags.named_in_errors():
        if mode == "sample":
            return sample.run(workdir)
        if mode == "evaluate":
            return evaluate.run(workdir)
        if mode == "explore":
            return explore.run(workdir)
        if mode == "export":
            return export.run(workdir)
        return train.run(flags.CONFIG.value, workdir, LAUNCHED)


def _enable_compilation_cache() -> None:
    from gan import data  # late: JAX takes seconds to load, and mistakes in the flags have been reported by now
    from gan.parallel import compilation

    compilation.enable_compilation_cache(data.cache.cache_folder() / "programs")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own start-up lines
    console.fill_descriptors()
    sys.stderr = console.Stderr()
    app.run(main, flags_parser=parse)
