"""`--mode=evaluate`: computes all metrics of a trained run."""

from pathlib import Path

from gan.cli import flags


def run(workdir: Path) -> int:
    """Writes `evaluation.json` of the run in `workdir`: of its last and best checkpoint, or of that of --step.

    With --step=all it writes the metrics of every checkpoint, `evaluations_by_step.jsonl`.
    """
    from gan.evaluation import command, curve  # late: loads JAX

    given = {
        "count": flags.NUM_SAMPLES.value,
        "seed": flags.SEED.value,
        "extractor": flags.EXTRACTOR.value,
        "truncation": flags.TRUNCATION.value,
    }
    if flags.STEP.value == flags.ALL_STEPS:
        curve.evaluate_steps(workdir, **given)
    else:
        command.evaluate(workdir, **given, **flags.checkpoint())
    return 0
