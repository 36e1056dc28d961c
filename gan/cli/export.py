"""`--mode=export`: writes the generator of a trained run as a folder to be shared."""

from pathlib import Path

from gan.cli import flags
from gan.errors import UserError


def run(workdir: Path) -> int:
    """Writes the generator of the run in `workdir` to the folder --out."""
    if not flags.OUT.value:
        raise UserError("--out is missing; expected: the folder to write with --mode=export")
    from gan.export import command  # late: loads JAX

    command.export(
        workdir,
        Path(flags.OUT.value),
        formats=flags.FORMAT.value or command.DEFAULT,
        dtype=flags.DTYPE.value,
        truncation=flags.TRUNCATION.value,
        **flags.checkpoint(),
    )
    return 0
