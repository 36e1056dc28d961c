"""The default folder of a run: its config's name, and the overridden fields that make it another run."""

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gan.config import loading
from gan.config.flattening import flatten
from gan.io import workdir

MAX_CHARACTERS = 100
"""Of the overrides in a folder's name. Longer ones end in a hash."""


def default_folder(name: str, config: Mapping[str, Any], overridden: Iterable[str]) -> Path:
    """`runs/NAME`, `runs/NAME-ARG`, or either with `-FIELD=VALUE,...` of the overridden fields.

    A field does not count that holds the file's own value, or that a resumed run may change without another result:
    a run is found again with more steps, or more microbatches.

    Args:
      name: FILE or FILE:ARG.
      config: the config with its overrides.
      overridden: the fields that were overridden.
    """
    path, _, argument = name.partition(":")
    before, after = flatten(loading.load(name)), flatten(config)
    fields = [field for field in sorted(overridden) if after[field] != before[field] and _counts(field, after)]
    shown = _shortened([f"{field}={_value(field, after[field])}" for field in fields])
    return Path("runs") / "-".join(filter(None, (Path(path).stem, argument, shown)))


def _counts(field: str, config: Mapping[str, Any]) -> bool:
    """Whether another value of the field is another run. A folder of images is its data; other data have a name."""
    if field == "data.dir":
        return config["data.name"] == "folder"
    return not workdir.is_free(field) and field not in workdir.MEMORY_FIELDS


def _value(field: str, value: Any) -> str:
    """A value as a part of a folder's name, which needs no quotes in a shell. A hash stands for what is left out."""
    if field == "data.dir":
        value = Path(value).name  # the images may be moved
    text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
    safe = re.sub(r"[^A-Za-z0-9_.+-]+", "_", text).strip("_")
    return safe if safe == text else f"{safe}-{_hash(text)}"


def _shortened(entries: Sequence[str]) -> str:
    """The entries in a row; of a row that is too long, those that fit, and a hash of all."""
    text, fitting = ",".join(entries), list(entries)
    while len(",".join(fitting)) > MAX_CHARACTERS:
        fitting.pop()
    return text if len(fitting) == len(entries) else "-".join(filter(None, (",".join(fitting), _hash(text))))


def _hash(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
