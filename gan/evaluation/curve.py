"""The command `--mode=evaluate --step=all`: the metrics of every checkpoint of a run, after the fact."""

import json
import logging
from pathlib import Path

from gan.errors import UserError
from gan.evaluation import evaluator
from gan.evaluation.command import options_and_data
from gan.inference.model import CHECKPOINTS, checkpoint_steps, load, no_checkpoint
from gan.io import plots, workdir

logger = logging.getLogger(__name__)

NAME = "evaluations_by_step"


def evaluate_steps(
    folder: Path, *, count: int | None, seed: int, extractor: str | None = None,
    metrics: tuple[str, ...] | None = None, error_bars: int | None = None, truncation: float | None = None,
) -> None:  # fmt: skip
    """Writes the metrics of all checkpoints that a run has, in the order of their steps, and a plot of them.

    `evaluations_by_step.jsonl` has a line for each step, with the metrics as in `evaluations.jsonl`. It grows with each
    evaluation. `evaluations_by_step.json` has the protocol, which all share, the same metrics of real images, and the
    warnings of each step. `evaluations_by_step.png` has a plot of each metric.

    The arguments and errors are those of `command.evaluate`.
    """
    options, real_data, dataset = options_and_data(
        folder, count=count, extractor=extractor, metrics=metrics, error_bars=error_bars
    )
    workdir.check_data(folder, dataset, real_data.training.fingerprint)
    run_evaluator = evaluator.create(options, seed, real_data)
    steps = sorted({step for name in CHECKPOINTS for step in checkpoint_steps(folder, name)})
    if not steps:
        raise no_checkpoint(folder)
    real, lines, warnings, path = run_evaluator.real_baseline(), [], {}, folder / f"{NAME}.jsonl"
    logger.info("real training images: %s", evaluator.describe(real))
    try:
        with open(path, "w") as file:
            for step in steps:
                model = load(folder, step=step)
                model = model if truncation is None else model.truncated(truncation)
                found = run_evaluator.compute(model.game, model.ema)
                lines.append({"step": step, **found})
                warnings[step] = list(found.warnings)
                file.write(json.dumps(lines[-1]) + "\n")
                file.flush()
                logger.info("step %d: %s", step, evaluator.describe(found))
        plots.draw_metrics(folder / f"{NAME}.png", lines, real)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    record = {
        "real_training_images": real,
        "warnings": warnings,
        "protocol": run_evaluator.protocol() | ({} if truncation is None else {"truncation": truncation}),
    }
    workdir.write_record(folder / f"{NAME}.json", record)
    logger.info("%s, and a plot in %s", path, folder / f"{NAME}.png")
