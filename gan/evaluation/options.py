"""The options of an evaluation as plain values, checked where they are read from a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from gan.errors import UserError, nearest
from gan.inference import sampling

METRICS = ("frechet", "intra_class", "kernel", "prdc", "inception_score", "mode_coverage", "memorization")
"""The valid names in `config.evaluation.metrics`. They apply to images; 2-D points have their own metrics."""

MIN_SAMPLES = 10
"""The smallest number of samples, and of reference images, for which metrics are computed."""


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated and how. The fields are those of `config.evaluation`, documented in configs/default.py."""

    data: Mapping[str, Any]
    """`config.data`: the dataset that the run is trained on."""
    split: str
    reference_samples: int
    num_samples: int
    standing_batches: int
    extractor: str
    metrics: tuple[str, ...]


def evaluation_options(config: ConfigDict) -> EvaluationOptions:
    """The options of `config.evaluation`.

    Raises:
      UserError: an unknown metric, a metric that the generator cannot have, or a number of samples out of range.
    """
    evaluation = config.evaluation
    for name in evaluation.metrics:
        if name not in METRICS:
            raise UserError(
                f"config.evaluation.metrics: {name!r} is unknown{nearest(name, METRICS)}; expected: "
                f"{', '.join(METRICS)}"
            )
    if "intra_class" in evaluation.metrics and config.generator.conditioning == "none":
        raise UserError(
            "config.evaluation.metrics: 'intra_class' needs samples of a given class; "
            "valid with config.generator.conditioning: concat, embedding"
        )
    if evaluation.num_samples < MIN_SAMPLES:
        raise UserError(
            f"config.evaluation.num_samples={evaluation.num_samples} is too few; expected: {MIN_SAMPLES} or more"
        )
    if evaluation.num_samples > sampling.MAX_SAMPLES:
        raise UserError(
            f"config.evaluation.num_samples={evaluation.num_samples}; expected: up to {sampling.MAX_SAMPLES}"
        )
    return EvaluationOptions(
        data=dict(config.data),
        split=evaluation.split,
        reference_samples=evaluation.reference_samples,
        num_samples=evaluation.num_samples,
        standing_batches=evaluation.standing_batches,
        extractor=evaluation.extractor,
        metrics=tuple(evaluation.metrics),
    )
