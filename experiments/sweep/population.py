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

from gan.cli.exit_status import exit_status  # noqa: E402
from gan.cli.flags import config_and_workdir  # noqa: E402
from gan.cli.logging import set_up_logging  # noqa: E402

STOPPED = 128 + signal.SIGINT
"""The status of a member that was stopped. A run alone is stopped as by Ctrl-C."""


def main() -> int:
    """Trains the members that stdin names. Returns the exit status."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    lines = sys.stdin.buffer
    members = json.loads(lines.readline())
    os.set_blocking(lines.fileno(), False)
    to_stop: set[int] = set()
    stopped: set[int] = set()

    def keep(member: int, step: int) -> bool:
        to_stop.update(map(int, (lines.read() or b"").splitlines()))  # None: nothing new
        if member in to_stop:
            stopped.add(member)
        return member not in to_stop

    def train() -> None:
        from gan import data
        from gan.parallel import compilation
        from gan.train import population

        compilation.enable_compilation_cache(data.cache.cache_folder() / "programs")
        configs, folders = zip(*map(config_and_workdir, members), strict=True)
        ends = population.train(configs, folders, LAUNCHED, keep)
        with results:
            json.dump([(STOPPED if n in stopped else end.status, end.why) for n, end in enumerate(ends)], results)

    set_up_logging()
    return exit_status(train)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as in gan.main
    sys.exit(main())
