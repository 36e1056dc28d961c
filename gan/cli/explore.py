"""`--mode=explore`: shows what a trained generator does, in one of several views."""

from pathlib import Path

from gan.cli import flags
from gan.errors import UserError


def run(workdir: Path) -> int:
    """Writes the files of the view --view of the run in `workdir`, and prints their paths."""
    from gan.explore import command  # late: loads JAX
    from gan.explore.options import Options

    options = Options(
        workdir,
        flags.VIEW.value or "",  # `flags.check_modes` has found one
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
        format=_format(),
        directions=Path(flags.DIRECTIONS.value) if flags.DIRECTIONS.value else None,
        port=flags.PORT.value,
        **flags.checkpoint(),
    )
    command.explore(options)
    return 0


def _format() -> str | None:
    given = ",".join(flags.FORMAT.value)
    if given not in ("", "gif", "mp4"):
        raise UserError(f"--format={given}; expected with --mode=explore: gif or mp4")
    return given or None
