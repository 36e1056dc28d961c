"""`--mode=evaluate`: computes all metrics of a trained run."""

from pathlib import Path

from gan.cli import flags


def run(workdir: Path) -> int:
    """Writes `evaluation.json` of the run in `workdir`: of its last and best checkpoint, or of that of --step."""
    from gan.evaluation import command  # late: loads JAX

    command.evaluate(
        workdir,
        count=flags.NUM_SAMPLES.value,
        seed=flags.SEED.value,
        extractor=flags.EXTRACTOR.value,
        truncation=flags.TRUNCATION.value,
        **flags.checkpoint(),
    )
    return 0
