"""Ways to damage a file. Each takes the path and a random number generator."""

import os
import random
from pathlib import Path


def cut(path: Path, rng: random.Random) -> None:
    """Removes the second half."""
    os.truncate(path, path.stat().st_size // 2)


def delete(path: Path, rng: random.Random) -> None:
    """Removes the file."""
    path.unlink()


def flip_bit(path: Path, rng: random.Random) -> None:
    """Inverts one bit."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def overwrite(path: Path, rng: random.Random) -> None:
    """Writes other bytes in place, over half of the file from its first quarter on."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        file.write(rng.randbytes(size // 2))


def replace(path: Path, rng: random.Random) -> None:
    """Renames another file of the same size to its name."""
    other = path.with_suffix(".other")
    other.write_bytes(rng.randbytes(path.stat().st_size))
    other.replace(path)


BETWEEN_LAUNCHES = {"cut": cut, "delete": delete, "flip": flip_bit}
"""Damage to a file that no process has open."""
