"""How an experiment is a command: what it ends with, and how it tells of a mistake."""

import sys
from collections.abc import Callable
from typing import NoReturn

from gan.errors import UserError


def run(main: Callable[[], int | None]) -> NoReturn:
    """Ends the process with the status that `main` returns; a mistake of the user's is one line, and status 2."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
