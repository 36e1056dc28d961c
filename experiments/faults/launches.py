"""Several launches at the same time, in one folder or with one cache."""

import functools
import time

from experiments.faults.bench import Attempts, Bench, expect_exit, wait_for_exit
from experiments.faults.compare import check_same_result
from experiments.faults.files import without_compilation_cache


def two_launches(bench: Bench) -> Attempts:
    """Two launches at once"""
    assert bench.reference
    for apart in (0.0, 0.0, 0.2):
        yield (f"in one folder, {apart} s apart", functools.partial(_in_one_folder, bench, apart))
    yield "in two folders, with one empty cache", functools.partial(_with_one_empty_cache, bench)


def _in_one_folder(bench: Bench, apart: float) -> str:
    workdir = bench.new_folder("two")
    first = bench.launch(workdir)
    time.sleep(apart)
    second = bench.launch(workdir)
    ends = sorted((wait_for_exit(first), wait_for_exit(second)), key=lambda end: -end.status)
    rejected, trained = ends
    expect_exit(trained, 0)
    line = expect_exit(rejected, 2, "is in use by process")
    check_same_result(workdir, bench.reference)
    return line


def _with_one_empty_cache(bench: Bench) -> None:
    environment = without_compilation_cache(bench) | {"GAN_CACHE_DIR": str(bench.new_folder("cache"))}
    workdirs = [bench.new_folder("two"), bench.new_folder("two")]
    for process in [bench.launch(workdir, environment=environment) for workdir in workdirs]:
        expect_exit(wait_for_exit(process), 0)
    for workdir in workdirs:
        check_same_result(workdir, bench.reference)
