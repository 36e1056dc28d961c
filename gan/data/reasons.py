"""Lines of text: the reason in an exception of a library (TFDS, PIL, NumPy), and warnings that are logged once."""

import functools
import logging

logger = logging.getLogger(__name__)


@functools.cache
def warn_once(text: str) -> None:
    """Logs a warning, unless the same has been logged by this process: several splits of a folder are opened."""
    logger.warning("%s", text)


def one_line(error: object, length: int = 300) -> str:
    """The text of an exception (or any object) on one line, cut at `length` characters; its type if it has none."""
    return " ".join(str(error).split())[:length] or type(error).__name__
