"""Lines of progress for what takes long: the same in a terminal and in the log of a job."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

logger = logging.getLogger(__name__)

FIRST_SECONDS = 2
"""Progress is logged after this time, and then every EVERY_SECONDS."""
EVERY_SECONDS = 10


def progress(items: Iterable, *, total: int | None, what: str) -> Iterator[Any]:
    """Yields the items, and logs how many are done, first after FIRST_SECONDS; with a total, the time left too.

    Args:
      total: the number of items; None: unknown.
      what: what is done, such as "Checking images".
    """
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
