"""Trains the runs of several trials as one population. A worker launches it in place of several `python -m gan.main`.

The first line of stdin is JSON: for each member, the arguments of `python -m gan.main`. Each later line is the number
of a member that is to be stopped. At the end stdout has one line of JSON: for each member, the exit status that it
would have had alone, and its last message. Runs that cannot be a population, such as those with streamed data, end
with status 2.
"""

import time

LAUNCHED = time.monotonic()  # before the slow imports, as in gan.main

import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

from experiments import cli  # noqa: E402
from gan.cli.flags import config_and_workdir  # noqa: E402
from gan.cli.logging import set_up_logging  # noqa: E402
from gan.errors import UserError  # noqa: E402

STOPPED = 128 + signal.SIGINT
"""The status of a member that was stopped. A run alone is stopped as by Ctrl-C."""


def main() -> None:
    """Trains the members that stdin names."""
    cli.Parser(description=__doc__).parse_args()
    set_up_logging()
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    lines = sys.stdin.buffer
    members = _members(lines.readline())
    os.set_blocking(lines.fileno(), False)
    to_stop: set[int] = set()
    stopped: set[int] = set()

    def keep(member: int, step: int) -> bool:
        to_stop.update(map(int, (lines.read() or b"").splitlines()))  # None: nothing new
        if member in to_stop:
            stopped.add(member)
        return member not in to_stop

    from gan import data  # late: JAX takes seconds to load, and a mistake has been reported by now
    from gan.parallel import compilation
    from gan.train import population

    compilation.enable_compilation_cache(data.cache.cache_folder() / "programs")
    configs, folders = zip(*map(config_and_workdir, members), strict=True)
    ends = population.train(configs, folders, LAUNCHED, keep)
    with results:
        json.dump([(STOPPED if n in stopped else end.status, end.why) for n, end in enumerate(ends)], results)


def _members(line: bytes) -> list[list[str]]:
    """The arguments of each member. Raises `UserError` for a line that is no list of lists of strings."""
    try:
        members = json.loads(line)
        if members and all(isinstance(word, str) for member in members for word in member):
            return members
    except (ValueError, TypeError, RecursionError):
        pass
    raise UserError("the first line of stdin is not the members; expected: a list of lists of flags, in JSON")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as in gan.main
    cli.run(main)
