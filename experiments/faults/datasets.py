"""Data that change: under a run, between two launches, or with NaN in them."""

import functools
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from experiments.faults import damage
from experiments.faults.bench import TOY, Attempts, Bench, expect_exit, wait_for_exit
from experiments.faults.compare import check_same_result, resume_and_compare, wait_for_metrics

STREAM_FROM_TFDS = "from gan.train import sources; sources.DECODED_BYTES = 0"
"""Treats every dataset as too large to be decoded into the cache folder."""

SOURCES = {
    "resident": ("arrays/*/images.npy", "", {}),
    "decoded": ("arrays/*/images.npy", "", {"data__on_device": "never"}),
    "streamed": ("prepared/**/*.array_record*", STREAM_FROM_TFDS, {"data__on_device": "never"}),
}
"""How a run holds its data: the file that it has open, the code and the config fields that make it do so."""

CHANGES = {"cut": damage.cut, "overwritten": damage.overwrite, "replaced": damage.replace, "deleted": damage.delete}

NAN_IN_STEP_101 = """
import numpy
from gan import data
from gan.data import toys
load = toys.load
def load_with_nan(*arguments):
    points = load(*arguments)
    row = data.positions(100, batches=1, batch_size=128)[0, :1]
    points._images[data.example_order(row, seed=0, n=len(points))] = numpy.nan
    return points
toys.load = load_with_nan
"""


def data_under_a_run(bench: Bench) -> Attempts:
    """The file that a run reads its data from cut, overwritten, replaced or deleted"""
    for source, (pattern, fault, fields) in SOURCES.items():
        for name, change in CHANGES.items():
            yield (f"{source}, {name}", functools.partial(_data_changed, bench, pattern, fault, fields, change))


def _data_changed(bench: Bench, pattern: str, fault: str, fields: dict, change: Callable) -> str:
    assert bench.reference
    cache = Path(shutil.copytree(bench.folder / "cache", bench.new_folder("cache")))
    workdir = bench.new_folder("data")
    environment = bench.environment | {"GAN_CACHE_DIR": str(cache)}
    path = next(cache.glob(pattern))
    original = Path(shutil.copy2(path, bench.new_folder("original")))
    process = bench.launch(workdir, fault=fault, environment=environment, **fields)
    wait_for_metrics(process, workdir)
    change(path, bench.rng)
    end = wait_for_exit(process)
    if end.status == 0:
        check_same_result(workdir, bench.reference)
        return ""
    line = expect_exit(end, 2, path.name)
    shutil.copy2(original, path)
    resume_and_compare(bench, workdir, environment=environment)
    return line


def data_between_launches(bench: Bench) -> Attempts:
    """An image of a folder replaced, or prepared data cut, between two launches"""
    yield "an image replaced", functools.partial(_image_replaced, bench)
    yield "prepared data cut", functools.partial(_prepared_data_cut, bench)


def _image_replaced(bench: Bench) -> str:
    images = bench.new_folder("images")
    images.mkdir(parents=True)
    _write_images(images, bench.rng)
    fields = {"data__name": "folder", "data__dir": str(images), "steps": 48}
    reference, workdir = bench.new_folder("folder"), bench.new_folder("folder")
    expect_exit(wait_for_exit(bench.launch(reference, **fields)), 0)
    expect_exit(wait_for_exit(bench.launch(workdir, **(fields | {"steps": 24}))), 0)
    content = (images / "00.png").read_bytes()
    (images / "00.png").write_bytes((images / "01.png").read_bytes())
    line = expect_exit(wait_for_exit(bench.launch(workdir, **fields)), 2, "was trained on other data")
    (images / "00.png").write_bytes(content)
    expect_exit(wait_for_exit(bench.launch(workdir, **fields)), 0)
    check_same_result(workdir, reference)
    return line


def _prepared_data_cut(bench: Bench) -> str:
    workdir = bench.half_trained("data")
    cache = Path(shutil.copytree(bench.folder / "cache", bench.new_folder("cache")))
    path = next(cache.glob("prepared/digits/**/*.array_record*"))
    content = path.read_bytes()
    damage.cut(path, bench.rng)
    environment = bench.environment | {"GAN_CACHE_DIR": str(cache)}
    line = expect_exit(wait_for_exit(bench.launch(workdir, environment=environment)), 2, "damaged")
    path.write_bytes(content)
    resume_and_compare(bench, workdir, environment=environment)
    return line


def _write_images(folder: Path, rng: random.Random) -> None:
    from PIL import Image

    for number in range(24):
        Image.frombytes("L", (8, 8), rng.randbytes(64)).save(folder / f"{number:02d}.png")


def nan_in_the_data(bench: Bench) -> Attempts:
    """NaN in an example that is first used in the middle of a run"""

    def nan() -> str:
        workdir = bench.new_folder("nan")
        process = bench.launch(workdir, config="toy", fault=NAN_IN_STEP_101, **TOY)
        line = expect_exit(wait_for_exit(process), 3, "diverged: step 101: ")
        resume_and_compare(bench, workdir, config="toy", **TOY)
        return line

    yield "a point of step 101", nan
