"""Files of a run, or of the cache, that are damaged between two launches."""

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.faults import damage
from experiments.faults.bench import ROOT, Attempts, Bench, Case, expect_exit, wait_for_exit
from experiments.faults.compare import check_same_result, checkpoint_steps, resume_and_compare, saved_digests

RESTORE = "import sys; from experiments.faults import compare; compare.print_restored_digests(sys.argv[1:])"


def damaged_checkpoint(bench: Bench) -> Iterator[Case] | Attempts:
    """Each file of the newest checkpoint cut, deleted, or one bit of it flipped"""
    newest = bench.reference / "checkpoints" / str(checkpoint_steps(bench.reference)[-1])
    files = [path.relative_to(bench.reference) for path in newest.rglob("*") if path.is_file()]
    sizes = {path: (bench.reference / path).stat().st_size for path in files}
    combinations = [(path, how) for path in sorted(files) for how in damage.BETWEEN_LAUNCHES if sizes[path]]
    folders = []
    for path, how in combinations:
        folders.append(bench.copy_of_reference("damaged"))
        damage.BETWEEN_LAUNCHES[how](folders[-1] / path, bench.rng)
    process = subprocess.run(
        [sys.executable, "-c", RESTORE, *map(str, folders)],
        cwd=ROOT, env=bench.environment, capture_output=True, text=True,
    )  # fmt: skip
    restored = [json.loads(line) for line in process.stdout.splitlines()]
    good = {step: saved_digests(bench.reference, step) for step in checkpoint_steps(bench.reference)}
    for index, (path, how) in enumerate(combinations):
        complaint = f"the process died ({process.returncode})" if index >= len(restored) else ""
        if not complaint and restored[index][1] != good.get(restored[index][0]):
            complaint = f"restored as {str(restored[index])[:200]}"
        yield Case(f"{how} {Path(*path.parts[1:])}", lost=complaint)
        shutil.rmtree(folders[index])
    largest = max(files, key=sizes.get)
    for how, change in damage.BETWEEN_LAUNCHES.items():
        yield (f"{how} the largest, and resume", functools.partial(_resume_damaged, bench, largest, change))


def _resume_damaged(bench: Bench, path: Path, change: Callable) -> str:
    workdir = bench.copy_of_reference("damaged")
    change(workdir / path, bench.rng)
    end = wait_for_exit(bench.launch(workdir))
    expect_exit(end, 0)
    check_same_result(workdir, bench.reference)
    return next((line for line in end.stderr.splitlines() if "damaged" in line), "")


def damaged_folder(bench: Bench) -> Attempts:
    """Other files of the run's folder, or of the cache, damaged between launches"""
    yield "config.json cut", functools.partial(_config_cut, bench)
    yield "config.json deleted", functools.partial(_config_deleted, bench)
    yield (
        "a line of metrics.jsonl is not text, the last one is unfinished", functools.partial(_metrics_damaged, bench)
    )  # fmt: skip
    yield "losses.png of a complete run deleted", functools.partial(_plot_deleted, bench)
    for how, change in damage.BETWEEN_LAUNCHES.items():
        entry = functools.partial(lambda path, change: change(path, bench.rng), change=change)
        yield (f"compilation cache: {how}", functools.partial(_compilation_cache_damaged, bench, entry))
    yield (
        "compilation cache: a writer was killed",
        functools.partial(_compilation_cache_damaged, bench, lambda path: _leave_unfinished(path, bench)),
    )
    for how, change in damage.BETWEEN_LAUNCHES.items():
        yield (f"decoded data: {how}", functools.partial(_decoded_data_damaged, bench, change))


def _config_cut(bench: Bench) -> str:
    workdir = bench.half_trained("config")
    content = (workdir / "config.json").read_bytes()
    damage.cut(workdir / "config.json", bench.rng)
    line = expect_exit(wait_for_exit(bench.launch(workdir)), 2, "config.json")
    (workdir / "config.json").write_bytes(content)
    resume_and_compare(bench, workdir)
    return line


def _config_deleted(bench: Bench) -> None:
    workdir = bench.half_trained("config")
    (workdir / "config.json").unlink()
    resume_and_compare(bench, workdir)


def _metrics_damaged(bench: Bench) -> str:
    workdir = bench.half_trained("metrics")
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], b"\xff" + lines[5], *lines[6:], lines[0][:40]]))
    end = wait_for_exit(bench.launch(workdir))
    expect_exit(end, 0)
    path.write_bytes(b"".join([*lines[:6], *path.read_bytes().splitlines(keepends=True)[5:]]))
    check_same_result(workdir, bench.reference)
    return next((line for line in end.stderr.splitlines() if "damaged" in line), "")


def _plot_deleted(bench: Bench) -> None:
    workdir = bench.copy_of_reference("plot")
    (workdir / "losses.png").unlink()
    resume_and_compare(bench, workdir)


def _compilation_cache_damaged(bench: Bench, change: Callable[[Path], None]) -> None:
    cache = Path(shutil.copytree(_filled_cache(bench), bench.new_folder("cache")))
    for path in (cache / "programs").glob("*-cache"):
        change(path)
    environment = without_compilation_cache(bench) | {"GAN_CACHE_DIR": str(cache)}
    resume_and_compare(bench, bench.half_trained("compiled"), environment=environment)


def _leave_unfinished(path: Path, bench: Bench) -> None:
    """Leaves an entry of the compilation cache as a writer does that is killed while it writes."""
    damage.cut(path, bench.rng)
    path.with_name(path.name.removesuffix("-cache") + "-atime").unlink()


def without_compilation_cache(bench: Bench) -> dict[str, str]:
    """The environment of a user who names no folder for compiled functions: they are stored in GAN_CACHE_DIR."""
    return {name: value for name, value in bench.environment.items() if name != "JAX_COMPILATION_CACHE_DIR"}


def _filled_cache(bench: Bench) -> Path:
    """A cache folder with the data and the compiled functions of the run."""
    cache = bench.folder / "cache-with-compiled-functions"
    if not cache.exists():
        assert bench.reference
        shutil.copytree(bench.folder / "cache", cache)
        environment = without_compilation_cache(bench) | {"GAN_CACHE_DIR": str(cache)}
        expect_exit(wait_for_exit(bench.launch(bench.new_folder("filling"), environment=environment)), 0)
    return cache


def _decoded_data_damaged(bench: Bench, change: Callable) -> None:
    workdir = bench.half_trained("decoded")
    cache = Path(shutil.copytree(bench.folder / "cache", bench.new_folder("cache")))
    change(next(cache.glob("arrays/*/images.npy")), bench.rng)
    resume_and_compare(bench, workdir, environment=bench.environment | {"GAN_CACHE_DIR": str(cache)})
