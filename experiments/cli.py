"""The entry point of every experiment: one line for a mistake, and an exit status, as `python -m gan.main` does."""

import sys
from collections.abc import Callable
from typing import NoReturn

from gan.cli.exit_status import exit_status


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs `main` and ends the process with the status it returns, or with that of a failure: see `exit_status`."""
    sys.exit(exit_status(main))
