"""Work on many items: in threads, in order, with bounded memory, and with the time left once it takes long."""

import collections
import concurrent.futures
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

logger = logging.getLogger(__name__)

FIRST_SECONDS = 2
"""Progress is logged after this time, and then every EVERY_SECONDS."""
EVERY_SECONDS = 10
ITEMS_PER_THREAD = 16
"""Items that are begun or done and not yet taken, per thread."""


def map_in_threads(function: Callable, items: Sequence, *, what: str) -> Iterator[Any]:
    """Yields function(item) for each item, in order; the first exception ends it.

    Threads, not processes: PIL and hashlib release the GIL, and forking a JAX process may deadlock.

    Args:
      function: called in several threads.
      items: one call each.
      what: what is done, such as "Checking images", for the lines of progress.
    """
    threads = os.cpu_count() or 1
    executor = concurrent.futures.ThreadPoolExecutor(threads)

    def results():
        pending = collections.deque()
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) == threads * ITEMS_PER_THREAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    try:
        yield from with_progress(results(), total=len(items), what=what)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def with_progress(items: Iterable, *, total: int | None, what: str) -> Iterator[Any]:
    """Yields the items, and logs how many are done, first after FIRST_SECONDS; with a total, the time left too."""
    start = time.monotonic()
    due = start + FIRST_SECONDS
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now < due or done == total:
            continue
        due = now + EVERY_SECONDS
        if total is None:
            logger.info("%s: %s done", what, f"{done:,}")
        else:
            left = round((now - start) / done * (total - done))
            logger.info("%s: %s of %s done, %d:%02d left", what, f"{done:,}", f"{total:,}", left // 60, left % 60)
