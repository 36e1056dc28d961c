"""`--mode=evaluate`: computes all metrics of a trained run."""

from pathlib import Path

from gan.cli import flags


def run(workdir: Path) -> int:
    """Writes `evaluation.json` of the run in `workdir`: of its last and best checkpoint, or of that of --step.

    With --step=all it writes the metrics of every checkpoint, `evaluations_by_step.jsonl`; with --samples those of any
    images, by the protocol of --config.
    """
    from gan.evaluation import command, curve, scoring  # late: loads JAX

    given = {
        "count": flags.NUM_SAMPLES.value,
        "seed": flags.SEED.value,
        "extractor": flags.EXTRACTOR.value,
        "metrics": tuple(flags.METRICS.value) or None,
        "error_bars": flags.ERROR_BARS.value,
    }
    if flags.SAMPLES.value:
        out = Path(flags.OUT.value) if flags.OUT.value else None
        scoring.score(Path(flags.SAMPLES.value), flags.CONFIG.value, out=out, **given)
        return 0
    given["truncation"] = flags.TRUNCATION.value
    if flags.STEP.value == flags.ALL_STEPS:
        curve.evaluate_steps(workdir, **given)
    else:
        command.evaluate(workdir, **given, **flags.checkpoint())
    return 0
