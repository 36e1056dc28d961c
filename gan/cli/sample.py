"""`--mode=sample`: draws images from a trained run."""

from pathlib import Path

from gan.cli import flags

COUNT = 64
"""Samples drawn without --num_samples."""


def run(workdir: Path) -> int:
    """Writes the samples of the run in `workdir` as an NPZ file, and an image grid beside it."""
    from gan.inference import command  # late: loads JAX

    command.sample(
        workdir,
        count=COUNT if flags.NUM_SAMPLES.value is None else flags.NUM_SAMPLES.value,
        seed=flags.SEED.value,
        out=Path(flags.OUT.value) if flags.OUT.value else None,
        classes=flags.CLASSES.value,
        same_latents=flags.SAME_LATENTS.value,
        truncation=flags.TRUNCATION.value,
        moves=flags.DIRECTION.value,
        **flags.checkpoint(),
    )
    return 0
