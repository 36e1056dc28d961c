"""The command `--mode=evaluate`: write `evaluation.json`, the metrics of a trained run."""

import logging
import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gan.evaluation import evaluator
from gan.evaluation.options import EvaluationOptions, evaluation_options
from gan.evaluation.reference import RealData, open_data
from gan.inference.model import Model, checkpoint_steps, load, recorded
from gan.io import plots, workdir

logger = logging.getLogger(__name__)


def evaluate(
    folder: Path, *, count: int | None, seed: int, extractor: str | None = None,
    metrics: tuple[str, ...] | None = None, error_bars: int | None = None, truncation: float | None = None,
    checkpoint: str | None = None, step: int | None = None,
) -> None:  # fmt: skip
    """Writes `evaluation.json`: the metrics of the last and the best checkpoint and of real images, and the protocol.

    With a `checkpoint` or a `step` it has the metrics of that one alone.

    `warnings` beside metrics say which of them have no meaning, and why; the log shows them with the metrics.

    With the metric `memorization`, `nearest_last.png` and `nearest_best.png` show the samples that are nearest to a
    training image, each beside it.

    Args:
      folder: the workdir of the run.
      count: number of samples; None: that of the run's config.
      seed: of the samples.
      extractor: name of the feature extractor; None: that of the run's config.
      metrics: their names; None: those of the run's config.
      error_bars: number of random halves for error bars; None: that of the run's config.
      truncation: see `Game.truncated`.
      checkpoint: see `load`.
      step: see `load`.

    Raises:
      UserError: no run or checkpoint in `folder`, other data than it was trained on, or an option out of range.
    """
    options, real_data, dataset = options_and_data(  # mistakes come out first
        folder, count=count, extractor=extractor, metrics=metrics, error_bars=error_bars
    )
    models = _models(folder, checkpoint, step)
    if truncation is not None:
        models = {name: model.truncated(truncation) for name, model in models.items()}
    workdir.check_data(folder, dataset, real_data.training.fingerprint)
    run_evaluator = evaluator.create(options, seed, real_data)
    logger.info("Computing the metrics of real training images.")
    checkpoints, real = {}, run_evaluator.real_baseline()
    logger.info("real training images: %s", evaluator.describe(real))
    for name, model in models.items():
        start = time.perf_counter()
        logger.info("Drawing %s samples of the %s checkpoint, step %d.", f"{options.num_samples:,}", name, model.step)
        found = run_evaluator.compute(model.game, model.ema)
        seconds = round(time.perf_counter() - start, 2)
        warnings = list(found.warnings)
        checkpoints[name] = {"step": model.step, "metrics": found, "warnings": warnings, "seconds": seconds}
        if (grid := run_evaluator.nearest_training_images(model.game, model.ema, found.pairs)) is not None:
            plots.save_png(folder / f"nearest_{name}.png", grid)
        logger.info("the %s checkpoint, step %d: %s", name, model.step, evaluator.describe(found))
    protocol = run_evaluator.protocol() | ({} if truncation is None else {"truncation": truncation})
    record = {
        "checkpoints": checkpoints,
        "real_training_images": real,
        "real_training_images_warnings": list(real.warnings),
        "protocol": protocol,
    }
    workdir.write_record(folder / "evaluation.json", record)
    logger.info("%s", folder / "evaluation.json")


def options_and_data(folder: Path, **given: Any) -> tuple[EvaluationOptions, RealData, dict]:
    """The evaluation options of the run in `folder`, its data, and the record of the data that it was trained on.

    `given` are the arguments of `options_with`; the errors are those of `evaluate`. Whether the data are the recorded
    ones is not checked.
    """
    config, dataset = recorded(folder)
    options = options_with(config, **given)
    return options, open_data(options), dataset


def options_with(
    config: ConfigDict, *, count: int | None = None, extractor: str | None = None,
    metrics: tuple[str, ...] | None = None, error_bars: int | None = None, are_labeled: bool = False,
) -> EvaluationOptions:  # fmt: skip
    """The options of `config.evaluation`, with those in their place that were given as flags; see `evaluate`."""
    given = {"num_samples": count, "extractor": extractor, "metrics": metrics, "error_bars": error_bars}
    given = {field: value for field, value in given.items() if value is not None}
    config.evaluation.update(given)
    return evaluation_options(config, flags={field: f"--{field}" for field in given}, are_labeled=are_labeled)


def _models(folder: Path, checkpoint: str | None, step: int | None) -> dict[str, Model]:
    """The models to evaluate, by the names that they have in `evaluation.json`."""
    if step is not None:
        return {f"step_{step}": load(folder, step=step)}
    if checkpoint is not None:
        return {checkpoint: load(folder, checkpoint=checkpoint)}
    names = ("last", "best") if checkpoint_steps(folder, "best") else ("last",)
    return {name: load(folder, checkpoint=name) for name in names}
