"""Writing a file whole or not at all, also where other processes write the same file."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_unfinished: set[Path] = set()


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`, which replaces `path` at the end; after an exception it is removed.

    A reader sees the old content or the new one, and nothing else.
    """
    path = Path(path)
    tmp = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    _unfinished.add(tmp)
    try:
        yield tmp
        tmp.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)
        raise
    finally:
        _unfinished.discard(tmp)


def remove_unfinished() -> None:
    """Removes the temporary files of this process, which is about to end in the middle of `replacing`."""
    for tmp in tuple(_unfinished):
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replacing(path) as tmp:
        tmp.write_text(text)


def write_json(path: str | os.PathLike, record: Any) -> None:
    """Writes a JSON file, indented, whole or not at all."""
    write_text(path, json.dumps(record, indent=1) + "\n")
