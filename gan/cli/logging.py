"""Logging of a command: plain lines of this package on stderr, warnings and errors of other libraries."""

import logging
import sys

from absl import logging as absl_logging


def set_up_logging() -> None:
    """Writes this package's log lines to stderr, above the progress bar; other libraries log warnings and errors."""
    from tqdm import tqdm

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            tqdm.write(prefix + self.format(record), file=sys.stderr)

    logger = logging.getLogger("gan")
    logger.handlers = [Handler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    absl_logging.set_verbosity(absl_logging.ERROR)
    for name in ("absl", "asyncio", "concurrent.futures"):
        logging.getLogger(name).addFilter(_has_no_traceback)
    sys.unraisablehook = _print_unless_expected


def _has_no_traceback(record: logging.LogRecord) -> bool:
    """Drops the tracebacks that Orbax's threads log: the same error is raised where the save is waited for."""
    return not record.exc_info


def _print_unless_expected(unraisable: "sys.UnraisableHookArgs") -> None:
    """Drops the errors of TensorStore's threads whose writes end after another write failed."""
    if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)
