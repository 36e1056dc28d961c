"""Several trials' runs as one population: what a worker launches in place of `python -m gan.main` for each.

On stdin stands a line of JSON, the arguments of `python -m gan.main` for each member; then, whenever one is not worth
going on with, a line with its number. At the end stdout has one JSON: of each member its exit status, as it would have
been alone, and its last words. What cannot be a population, streamed data for one, ends with status 2.
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

GIVEN_UP = 128 + signal.SIGINT
"""A run alone is stopped as by Ctrl-C."""


def main() -> int:
    """Plays the members that stdin names."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    lines = sys.stdin.buffer
    members = json.loads(lines.readline())
    os.set_blocking(lines.fileno(), False)
    unwanted: set[int] = set()
    given_up: set[int] = set()

    def keep(member: int, step: int) -> bool:
        unwanted.update(map(int, (lines.read() or b"").splitlines()))  # None: nothing new
        if member in unwanted:
            given_up.add(member)
        return member not in unwanted

    def train() -> None:
        from gan import data
        from gan.parallel import compilation
        from gan.train import population

        compilation.enable_compilation_cache(data.cache.cache_folder() / "programs")
        configs, folders = zip(*map(config_and_workdir, members), strict=True)
        ends = population.train(configs, folders, LAUNCHED, keep)
        with told:
            json.dump([(GIVEN_UP if n in given_up else end.status, end.why) for n, end in enumerate(ends)], told)

    set_up_logging()
    return exit_status(train)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as in gan.main
    sys.exit(main())
