"""`--mode=explore`: shows what a trained generator does, in one of several views."""

from pathlib import Path

from gan.cli import flags


def run(workdir: Path) -> int:
    """Writes the files of the view --view of the run in `workdir`, and prints their paths."""
    from gan.explore import command  # late: loads JAX
    from gan.explore.options import Options

    options = Options(
        workdir,
        flags.VIEW.value,
        out=Path(flags.OUT.value) if flags.OUT.value else None,
        seed=flags.SEED.value,
        classes=flags.CLASSES.value,
        truncation=flags.TRUNCATION.value,
        count=flags.NUM_SAMPLES.value,
        image=Path(flags.IMAGE.value) if flags.IMAGE.value else None,
        path=flags.PATH.value,
        method=flags.METHOD.value,
        layers=flags.LAYERS.value,
        extractor=flags.EXTRACTOR.value,
        format=flags.FORMAT.value,
        **flags.checkpoint(),
    )
    command.explore(options)
    return 0
