"""The options of an evaluation as plain values, checked where they are read from a config."""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from gan import checks
from gan.config import specs
from gan.data import toys
from gan.errors import UserError, nearest
from gan.inference import sampling
from gan.metrics import features

METRICS = (
    "frechet", "intra_class", "kernel", "prdc", "inception_score", "mode_coverage", "memorization", "frechet_infinity",
    "mind", "vendi", "authenticity",
)  # fmt: skip
"""The valid names in `config.evaluation.metrics`. They apply to images; 2-D points have their own metrics."""

AUTO = "auto"
"""The extractor that is chosen by the dataset."""

NO_FLAGS: Mapping[str, str] = types.MappingProxyType({})

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
    error_bars: int


def evaluation_options(
    config: ConfigDict, *, flags: Mapping[str, str] = NO_FLAGS, are_labeled: bool = False
) -> EvaluationOptions:
    """The options of `config.evaluation`, checked without the data.

    Args:
      config: of the run.
      flags: {field of `config.evaluation`: the flag that it was given with}, for the messages.
      are_labeled: whether the samples may have labels that are not those of the config's generator.

    Raises:
      UserError: an unknown metric or extractor, a metric that the generator cannot have, a number of samples out of
        range, or data that cannot be (`checks.check_data`).
    """
    evaluation = config.evaluation
    checks.check_data(config.data)
    _check_extractor(config, flags.get("extractor", "config.evaluation.extractor"))
    field = flags.get("metrics", "config.evaluation.metrics")
    for name in evaluation.metrics:
        if name not in METRICS:
            raise UserError(f"{field}: {name!r} is unknown{nearest(name, METRICS)}; expected: {', '.join(METRICS)}")
    if "intra_class" in evaluation.metrics and config.generator.conditioning == "none" and not are_labeled:
        raise UserError(
            "config.evaluation.metrics: 'intra_class' needs samples of a given class; "
            "valid with config.generator.conditioning: concat, embedding"
        )
    field = flags.get("num_samples", "config.evaluation.num_samples")
    if evaluation.num_samples < MIN_SAMPLES:
        raise UserError(f"{field}={evaluation.num_samples} is too few; expected: {MIN_SAMPLES} or more")
    if evaluation.num_samples > sampling.MAX_SAMPLES:
        raise UserError(f"{field}={evaluation.num_samples}; expected: up to {sampling.MAX_SAMPLES}")
    field = flags.get("error_bars", "config.evaluation.error_bars")
    if evaluation.error_bars < 0 or evaluation.error_bars == 1:
        raise UserError(f"{field}={evaluation.error_bars}; expected: 2 or more, or 0 for no error bars")
    return EvaluationOptions(
        data=dict(config.data),
        split=evaluation.split,
        reference_samples=evaluation.reference_samples,
        num_samples=evaluation.num_samples,
        standing_batches=evaluation.standing_batches,
        extractor=evaluation.extractor,
        metrics=tuple(evaluation.metrics),
        error_bars=evaluation.error_bars,
    )


def _check_extractor(config: ConfigDict, field: str) -> None:
    """The extractor has a name and arguments that exist, and a use."""
    text = config.evaluation.extractor
    if text == AUTO:
        return
    if config.data.name in toys.NAMES:
        raise UserError(f"{field}={text!r} has no meaning for points in the plane; expected: {AUTO}")
    # The first argument is given by the evaluator: what it knows of the dataset.
    table = {name: functools.partial(make, None) for name, make in features.EXTRACTORS.items()}
    specs.bound(table | {AUTO: tuple}, text, field)
