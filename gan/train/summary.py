"""The last lines of a run: what its folder holds, and the commands that may follow."""

import logging
import shlex
from pathlib import Path

from gan.parallel import processes

logger = logging.getLogger(__name__)

CONTENT = {
    "samples": "the same latents through training",
    "training.gif": "the samples as an animation",
    "losses.png": "both losses; metrics.jsonl and tensorboard/: every metric",
    "evaluations.jsonl": "the metrics of the evaluations",
    "checkpoints": "the last checkpoints",
    "best": "the best evaluated checkpoint",
}
"""What a run may have written, in the order in which it is listed."""


def log_end(steps: int, folder: Path) -> None:
    """Lists what a run of so many steps has left in its folder, and what can be done next."""
    logger.info("step %d of %d done. %s holds:", steps, steps, folder)
    for name, meaning in CONTENT.items():
        path = folder / name
        if path.is_dir() and any(path.iterdir()):
            name += "/"
        elif not path.is_file():
            continue
        logger.info("  %-18s %s", name, meaning)
    logger.info("Next: more samples   %s", _command("--mode=sample", _in(folder), "--num_samples=1000"))
    logger.info("      metrics        %s", _command("--mode=evaluate", _in(folder)))
    logger.info("      train longer   %s", train_longer(steps, folder))


def train_longer(steps: int, folder: Path) -> str:
    """The command that trains a run of so many steps twice as long."""
    if processes.process_count() > 1:
        return f"the same command with --config.steps={2 * steps}"
    return _command(_in(folder), f"--config.steps={2 * steps}")


def _command(*flags: str) -> str:
    return shlex.join(["python", "-m", "gan.main", *flags])


def _in(folder: Path) -> str:
    return f"--workdir={folder}"
