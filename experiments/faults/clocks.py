"""A system clock that is set back."""

import functools

from experiments.faults.bench import TIMEOUT_SECONDS, Attempts, Bench, Lost
from experiments.faults.compare import logged_metrics, resume_and_compare

SET_BACK = {
    "a second at every reading": "back = lambda: 1.0 * len(readings)",
    "an hour in the middle": "back = lambda: 3600.0 * (len(readings) > 300)",
    "a day between launches": "back = lambda: 86400.0",
}
"""By how many seconds the clock is late, as Python code."""


def clock(bench: Bench) -> Attempts:
    """The clock going backwards"""
    for name, code in SET_BACK.items():
        yield (name, functools.partial(_set_back, bench, code))


def _set_back(bench: Bench, code: str) -> None:
    fault = f"""
import time
readings, now, now_ns = [], time.time, time.time_ns
{code}
def read():
    readings.append(1)
    return now() - back()
def read_ns():
    readings.append(1)
    return now_ns() - int(1e9 * back())
time.time, time.time_ns = read, read_ns
"""
    workdir = bench.half_trained("clock")
    first = len(logged_metrics(workdir))
    resume_and_compare(bench, workdir, fault=fault)
    seconds = [line["seconds"] for line in logged_metrics(workdir)[first:]]
    if seconds != sorted(seconds) or seconds[-1] > TIMEOUT_SECONDS:
        raise Lost(f"the seconds of metrics.jsonl are {seconds}")
