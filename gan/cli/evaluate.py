"""`--mode=evaluate`: computes all metrics of a trained run."""

from pathlib import Path

from gan.cli import flags


def run(workdir: Path) -> int:
    """Evaluates the last and the best checkpoint of the run in `workdir` and writes `evaluation.json`."""
    from gan.evaluation import command  # late: loads JAX

    command.evaluate(
        workdir,
        count=flags.NUM_SAMPLES.value,
        seed=flags.SEED.value,
        extractor=flags.EXTRACTOR.value,
        truncation=flags.TRUNCATION.value,
    )
    return 0
