"""Work on many items: in threads, in order, with bounded memory, and with the time left once it takes long."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Generator, Sequence
from typing import Any

from gan.io.progress import progress

ITEMS_PER_THREAD = 16
"""Items that are begun or done and not yet taken, per thread."""


def map_in_threads(function: Callable, items: Sequence, *, what: str) -> Generator[Any, None, None]:
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
        pending: collections.deque[concurrent.futures.Future] = collections.deque()
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) == threads * ITEMS_PER_THREAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    try:
        yield from progress(results(), total=len(items), what=what)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
