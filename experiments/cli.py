"""The entry point of every experiment: one line for a mistake, and an exit status, as `python -m gan.main` does."""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from gan.cli.exit_status import exit_status
from gan.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser of flags that reports a mistake in one line, within `run`, and shows a docstring as it is written."""

    def __init__(self, **arguments: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **arguments)

    def error(self, message: str) -> NoReturn:
        """Raises a `UserError`."""
        raise UserError(message)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs `main` and ends the process with the status it returns, or with that of a failure: see `exit_status`."""
    sys.exit(exit_status(main))
