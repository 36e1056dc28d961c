"""How a command ends: every expected failure is one line on stderr and an exit status.

0: done. 2: a mistake of the user, or a failure of the machine such as a full disk. 3: the run diverged. 130: Ctrl-C,
where it is an exception: `gan.train.signals` handles it in `gan.main`.
Anything else that is raised is a bug and keeps its traceback.
"""

import sys
import warnings
from collections.abc import Callable

from gan.errors import Diverged, UserError, machine_failure, machine_failures, report

DIVERGED = 3
INTERRUPTED = 130


def exit_status(command: Callable[[], int | None], where: str = "a file") -> int:
    """Runs `command` and returns the exit status of the process.

    Args:
      command: returns its own exit status; None counts as 0.
      where: named in the message when the machine fails and the error does not name a file.
    """
    try:
        with machine_failures(where):
            return command() or 0
    except UserError as error:
        if machine_failure(error):
            _silence_cleanup()
        return report(error)
    except Diverged as error:
        print(f"diverged: {error}", file=sys.stderr)
        return DIVERGED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _silence_cleanup() -> None:
    """Silences what unfinished writes print while the process exits: the failure they wait for has been reported."""
    sys.unraisablehook = lambda _: None
    warnings.simplefilter("ignore")
