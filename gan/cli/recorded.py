"""A config file, as those in configs/: the config of the run in a folder, from its own `config.json`.

`python -m gan.main --workdir=W` without --config uses it, so that all fields can be overridden as those of any config.
"""

from pathlib import Path

from ml_collections import ConfigDict, FieldReference

from gan.errors import UserError
from gan.io import workdir

FILE = Path(__file__)


def get_config(folder: str) -> ConfigDict:
    """The recorded config. Raises `UserError` where the folder holds no run."""
    found = workdir.read_config(Path(folder))
    if found is None:
        raise UserError(f"--workdir={folder} holds no run")
    config, _ = found
    config.microbatches = FieldReference(config.microbatches, field_type=object)  # a number, or "auto"
    return config
