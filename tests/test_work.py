"""Work on many items: order, bounded memory, exceptions, and lines of progress."""

import logging
import os

import pytest

from gan.data import work
from gan.io import progress as progress_lines
from gan.io.progress import progress


def test_results_are_in_order_and_each_item_is_done_once():
    done = []
    results = list(work.map_in_threads(lambda item: done.append(item) or item * 10, range(1000), what="Counting"))
    assert results == list(range(0, 10000, 10)) and sorted(done) == list(range(1000))


def test_only_a_bounded_number_of_items_is_begun():
    done = []
    results = work.map_in_threads(done.append, range(10_000), what="Counting")
    next(results)
    results.close()
    assert len(done) <= (os.cpu_count() or 1) * work.ITEMS_PER_THREAD


def test_an_exception_ends_it():
    with pytest.raises(ZeroDivisionError):
        list(work.map_in_threads(lambda item: 1 // (5 - item), range(10_000), what="Dividing"))


def test_long_work_logs_the_time_left(monkeypatch, caplog):
    clock = iter(range(10_000))  # one second per item
    monkeypatch.setattr(progress_lines.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        assert list(progress(range(200), total=200, what="Waiting")) == list(range(200))
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:2] == ["Waiting: 2 of 200 done, 3:18 left", "Waiting: 12 of 200 done, 3:08 left"]
    assert len(lines) == 20


def test_work_of_unknown_length_logs_what_is_done(monkeypatch, caplog):
    clock = iter(range(100))
    monkeypatch.setattr(progress_lines.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        list(progress(range(5), total=None, what="Listing"))
    assert [record.getMessage() for record in caplog.records] == ["Listing: 2 done"]


def test_short_work_logs_nothing(caplog):
    with caplog.at_level(logging.INFO):
        list(progress(range(200), total=200, what="Waiting"))
    assert not caplog.records
