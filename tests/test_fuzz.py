"""Fuzz tests with Hypothesis: any flag, config or file on disk either works or is rejected in one line.

There is never a traceback, a hang, or a result from a part of a file. The examples are the same in every run; the slow
variants of the tests use many more.
"""

import contextlib
import functools
import io
import itertools
import json
import os
import pickle
import shutil
import signal
import struct
import warnings
import zipfile
import zlib

import command_line
import numpy as np
import pytest
import runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image
from test_configs import parsed

from gan import augment, data, losses, networks, optimizers, schedules
from gan.build import COMPUTE_DTYPES, OUTPUTS, PRIORS, make_game, make_schedules
from gan.config import schema, specs
from gan.config.flattening import flatten
from gan.data import cache, datasets, listing, pixels
from gan.errors import UserError, machine_failures
from gan.evaluation.options import METRICS
from gan.inference import command, model, sampling
from gan.io import checkpoint, workdir, writer
from gan.metrics import classifier
from gan.metrics.torch_file import read_tensors
from gan.networks.layers import initializers
from gan.parallel import sharding
from gan.train import loop, population, setup

TIMEOUT_SECONDS = 60
"""An example that takes longer counts as hanging."""


def fuzzed(few, many):
    """Parametrizes a test by the number of `examples`: few, and many in its slow variant."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])


def over(examples, **strategies):
    """Decorator that runs a function on this many examples, immediately."""

    def run(check):
        def watched(**drawn):
            with within(TIMEOUT_SECONDS):
                check(**drawn)

        watched.__name__ = watched.__qualname__ = check.__name__
        options = {"derandomize": True, "deadline": None, "database": None, "max_examples": examples}
        given(**strategies)(settings(**options, suppress_health_check=list(HealthCheck))(watched))()

    return run


@contextlib.contextmanager
def within(seconds):
    """Raises if the block takes longer than `seconds`."""

    def fail(number, frame):
        raise AssertionError(f"still not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def one_line(error):
    """The message of a `UserError`, which must be one nonempty line."""
    message = str(error)
    assert message.strip() and message.isprintable() and len(message) < 3000, message[:3000]
    return message


def rejected_or(function, *arguments, **named):
    """The return value of a function, or None if it raises a `UserError` of one line."""
    try:
        return function(*arguments, **named)
    except UserError as error:
        one_line(error)
        return None


# Damage to files.

DAMAGE = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(1, 255)),
    st.tuples(st.just("flip"), st.floats(0, 1), st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128])),
    st.tuples(st.just("cut"), st.floats(0, 1), st.none()),
    st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("replace"), st.floats(0, 1), st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("zeros"), st.floats(0, 1), st.integers(1, 600)),
    st.tuples(st.just("whole"), st.just(0.0), st.sampled_from(
        [b"", b"\0", b"{}", b"[]", b"null", b"3", b'"text"', b"\xff\xfe\0", b"[" * 100_000, b"{" * 5000,
         b"nan", b"\n\n"]
    )),
)  # fmt: skip
LOSS = st.sampled_from([("delete", 0.0, None), ("folder", 0.0, None), ("link", 0.0, None)])
"""Damage that replaces a file."""


def damaged(content, damage):
    """The content after damage."""
    kind, place, what = damage
    at = int(place * max(len(content) - 1, 0))
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ what]) + content[at + 1 :] if content else content
    if kind == "cut":
        return content[:at]
    if kind == "insert":
        return content[:at] + what + content[at:]
    if kind == "replace":
        return content[:at] + what + content[at + len(what) :]
    if kind == "zeros":
        return content[:at] + bytes(min(what, len(content) - at)) + content[at + what :]
    return what


def damage_file(path, damage):
    """Damages a file."""
    kind = damage[0]
    if kind in ("delete", "folder", "link"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        if kind == "link":
            path.symlink_to(path)
        return
    path.write_bytes(damaged(path.read_bytes(), damage))


# Configs.

CONFIGS = ("dcgan", "r3gan", "toy", "stylegan2", "gat", "biggan", "flag_gan", "wgan_gp", "conv_gan", "sagan")
CHEAP = ["--config.data.name=digits", "--config.data.split=train"]
EXTREMES = [
    "", " ", "nan", "inf", "-inf", "1e999", "-1", "0", "1", "2", "7", "0.5", "1e-46", "2147483648", "4294967296",
    "9" * 40, "9" * 5000, "1e308", "1e39", "None", "True", "()", "(1,)", "(0, 0)", "(-1, 8)", "(8, 8)",
    "(100000, 100000)", "((1, 2), 3)", "[1]", "{}", "x" * 5000, "é\u202e\udcff", "name(1", "f(x)", "(" * 300,
    "-" * 5000 + "1", "f({[]: 1})",
    "__import__('os').system('true')", "a\nb", "(1, 'a')", "(nan,)", "100000", "1000000", "('8', 8)", "1_000", "0x10",
    "\0", "8,8", "~nobody_of_this_name", "train[:10%]", "train[5:2]", "mnist:0", "huggingface:mnist",
]  # fmt: skip
NAMES = [
    *losses.LOSSES, *augment.AUGMENTS, *schedules.SCHEDULES, *PRIORS, *networks.NETWORKS, *optimizers.OPTIMIZERS,
    *initializers.INITIALIZERS, *OUTPUTS, *COMPUTE_DTYPES, *METRICS, *data.MIXTURES, "none", "concat",
    "embedding", "projection", "classifier", "inception", "pixels", "pmap", "never", "digits", "folder", "sum", "skip",
]  # fmt: skip
LITERALS = ["1", "0", "-1", "0.5", "1e999", "'x'", "None", "True", "[]", "{}", "(1, 2)", "((0, 1), (5, 2))",
            "((5, 1), 2)",
            "'kl'", "-1e-9", "10 ** 9", "9" * 30, "b'x'", "...", "1j", "{1}", "1e-300", "2e3", "x=1", "end=1", "sd=2",
            "color='x'", "stddev=1", "relative_sd=0.1", "**{}", "*[]"]  # fmt: skip
CALLS = st.builds(
    "{}({})".format, st.sampled_from(NAMES), st.lists(st.sampled_from(LITERALS), max_size=3).map(", ".join)
)
VALUES = st.one_of(
    st.sampled_from(EXTREMES), st.sampled_from(NAMES), CALLS, st.text(max_size=12), st.integers().map(str),
    st.floats().map(repr), st.lists(st.integers(-9, 99), max_size=4).map(lambda numbers: repr(tuple(numbers))),
)  # fmt: skip


class Reached(Exception):
    """Every check that comes before compilation has passed."""


OPENED = {}
"""The datasets of all examples, most of which are equal."""


@pytest.fixture
def run_main():
    """Runs `python -m gan.main` with arguments in this process, until a run would be restored or compiled.

    Returns (exit status, or "reached"; the output).
    """

    def load(**options):
        key = repr(sorted(options.items()))
        if key not in OPENED:
            OPENED[key] = real_load(**options)
        return OPENED[key]

    def stop(*_, **__):
        raise Reached

    real_load = datasets.load
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(runs.ROOT)
        patch.setattr(datasets, "load", load)
        patch.setattr(checkpoint, "open_manager", stop)
        patch.setattr(workdir, "versions", dict)

        def run(*arguments):
            try:
                status, out, error = command_line.end_of(*(word.replace("\0", "0") for word in arguments))
            except Reached:
                return "reached", ""
            return status, out + error

        yield run


@pytest.fixture(scope="module")
def fields_of():
    return {name: list(flatten(parsed(runs.ROOT / f"configs/{name}.py"))) for name in CONFIGS}


@fuzzed(40, 3000)
def test_overrides(examples, run_main, fields_of, tmp_path):
    reached = itertools.count()

    @over(
        examples,
        name=st.sampled_from(CONFIGS),
        changes=st.lists(st.tuples(st.floats(0, 0.999), VALUES), min_size=1, max_size=3),
    )
    def check(name, changes):
        known = fields_of[name]
        typed = [f"--config.{known[int(place * len(known))]}={value}" for place, value in changes]
        status, output = run_main(f"--config=configs/{name}.py", f"--workdir={tmp_path / 'run'}", *CHEAP, *typed)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        if status == "reached":
            next(reached)
            return
        output = "".join(line for line in output.splitlines(True) if not line.startswith(("Preparing ", "Decoding ")))
        assert status == 2 and output.startswith("error: "), output
        assert output.count("\n") == 1 and "Traceback" not in output, output

    assert next(reached) > 0


@fuzzed(150, 3000)
def test_flags(examples, run_main, tmp_path):
    words = st.sampled_from([
        "--config", "--workdir", "--mode", "--num_samples", "--seed", "--extractor", "--classes",
        "--same_latents", "--truncation", "--out", "--config.seed", "--config.", "--", "-", "",
    ])  # fmt: skip
    values = VALUES | st.sampled_from(
        ["configs/dcgan.py", "configs/dcgan.py:x", "configs", "train", "sample", "evaluate"]
    )

    @over(examples, typed=st.lists(st.tuples(words, values), max_size=4))
    def check(typed):
        os.makedirs(tmp_path / "cwd" / "configs", exist_ok=True)
        arguments = [f"{word}={value}" if value else word for word, value in typed]
        with contextlib.chdir(tmp_path / "cwd"):
            status, output = run_main(*arguments)
        if status == "reached":
            return
        assert status in (2, 0) and "Traceback" not in output, output
        assert status == 0 or output.count("\n") == 1, output


OBJECTS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=3),
    st.sampled_from([10**400, 2**31, 2**63, (), [], {}, (1, "a"), [(1,)], {"a": 1}, {1: 2}, {1, 2}, object,
                     object(), print, np.zeros(3), np.float32(1), 1j, range(3), float("nan"), "x" * 5000,
                     ConfigDict({"a": 1})]),
    st.lists(st.integers(-9, 99), max_size=4).map(tuple),
)  # fmt: skip


@fuzzed(40, 3000)
def test_configs_made_by_a_file(examples, run_main, fields_of, tmp_path):
    """The code in a config file can set any field to any object, after which `train` is called."""

    @over(
        examples,
        name=st.sampled_from(CONFIGS),
        place=st.floats(0, 0.999),
        value=OBJECTS,
        act=st.sampled_from(["set", "set", "set", "drop", "add", "loop"]),
    )
    def check(name, place, value, act):
        config = parsed(runs.ROOT / f"configs/{name}.py", *CHEAP).copy_and_resolve_references()
        *above, last = fields_of[name][int(place * len(fields_of[name]))].split(".")
        with config.unlocked(), config.ignore_type():
            tree = config
            for part in above:
                tree = tree[part]
            if act == "drop":
                del tree[last]
            elif act == "loop":
                tree["again"] = config
            else:
                with contextlib.suppress(
                    ValueError, TypeError, KeyError, OverflowError
                ):  # ConfigDict itself rejects it
                    tree[last if act == "set" else "another"] = value
        try:
            rejected_or(loop.train, config, tmp_path / "run", 0.0)
        except Reached:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)  # nothing may have been written yet
        rejected_or(population._check, [config, config])


FILES = st.one_of(
    st.text(max_size=60),
    st.sampled_from([
        "def get_config(): return 3", "def get_config(a, b): return a", "get_config = 7", "def get_config(: pass",
        "import sys\nsys.exit('out')", "import sys\nsys.exit()", "def get_config(): raise SystemExit",
        "raise RecursionError",
        "def get_config(): return get_config()", "def get_config(): raise KeyError",
        "def get_config(): raise ValueError('a\\nb')",
        "def get_config():\n class E(Exception):\n  def __str__(self): return 3\n raise E",
        "from ml_collections import ConfigDict as C\ndef get_config(): return C()",
        "from ml_collections import ConfigDict as C\ndef get_config(): return C({'a': 1})",
        "from ml_collections import ConfigDict as C\ndef get_config():\n c = C({'a': 1})\n c.b = c\n return c",
        "from ml_collections import ConfigDict as C\ndef get_config():\n c = C({'a': 1})\n c.a = c.get_ref('a')\n"
        " return c",
        "from ml_collections import ConfigDict as C\ndef get_config():\n c = C({'a': 1})\n c.b = c.get_ref('a') / 0\n"
        " return c",
        "from ml_collections import FrozenConfigDict as C\ndef get_config(): return C({'seed': 1})",
        "from configs import dcgan\ndef get_config():\n c = dcgan.get_config()\n c.generator = 3\n return c",
        "from configs import dcgan\ndef get_config():\n c = dcgan.get_config()\n c.lock()\n c.sede = 3\n return c",
        "\0", "\ud800", "# -*- coding: nothing -*-\n", "(" * 300, "x = " + "-" * 100_000 + "1",
    ]),
)  # fmt: skip


@fuzzed(40, 600)
def test_config_files(examples, run_main, tmp_path):
    @over(examples, text=FILES, argument=st.sampled_from(["", ":", ":x", ":x:y"]))
    def check(text, argument):
        path = tmp_path / "config.py"
        path.write_bytes(text.encode(errors="surrogatepass"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the file's syntax
            status, output = run_main(f"--config={path}{argument}", f"--workdir={tmp_path / 'run'}")
        assert status == 2 and output.startswith("error: "), output
        assert output.count("\n") == 1 and "Traceback" not in output, output


@fuzzed(500, 20_000)
def test_names(examples):
    def entry(number: float, count: int = 1, word: str = "", flag: bool = False):
        return number, count, word, flag

    alphabet = st.sampled_from(
        list("entry(),=.'\"[]{}0123456789-+*jx \\\n#") + ["entry", "number=", "count=", "lambda:", "None"]
    )
    texts = st.lists(alphabet, max_size=12).map("".join) | st.sampled_from(EXTREMES) | st.text() | CALLS

    @over(
        examples, text=texts | st.lists(st.sampled_from(LITERALS)).map(lambda entries: f"entry({', '.join(entries)})")
    )
    def check(text):
        found = rejected_or(specs.call, {"entry": entry}, text, "config.loss")
        if found is not None:
            assert [type(value) for value in found[1:]] == [int, str, bool] and abs(found[0]) < 1e39


def test_every_config_has_the_fields_of_the_schema():
    for path in sorted((runs.ROOT / "configs").glob("*.py")):
        config = parsed(path)
        schema.check(config)
        # Also as it is recorded in config.json.
        record = workdir._with_tuples(json.loads(json.dumps(config.to_dict())))
        schema.check(record, recorded=True)
    known = {name for name in flatten(config) if ".penalties." not in f".{name}"}
    assert known >= schema.FIELDS.keys()


# Images.


def encoded(format, mode="RGB", size=(9, 7), **options):
    content = io.BytesIO()
    rows = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 4), np.uint8)
    image = Image.fromarray(rows, "RGBA")
    if mode == "I;16":
        image = Image.fromarray(rows[..., 0].astype(np.uint16) * 256)
    elif mode != "RGBA":
        image = image.convert("RGB").convert(mode)
    image.save(content, format, **options)
    return content.getvalue()


def animation(format):
    frames = [Image.new("L", (9, 7), 80 * number) for number in range(3)]
    content = io.BytesIO()
    frames[0].save(content, format, save_all=True, append_images=frames[1:])
    return content.getvalue()


def png_declaring(width, height):
    """A PNG whose header declares width x height pixels, with almost no data."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rest


EXIF = Image.Exif()
EXIF[0x0112] = 6
IMAGES = {
    "png": encoded("PNG"), "gray.png": encoded("PNG", "L"), "bits.png": encoded("PNG", "1"),
    "alpha.png": encoded("PNG", "RGBA"), "palette.png": encoded("PNG", "P", transparency=3),
    "sixteen.png": encoded("PNG", "I;16"),
    "jpeg": encoded("JPEG", exif=EXIF), "progressive.jpeg": encoded("JPEG", progressive=True, size=(64, 64)),
    "cmyk.jpeg": encoded("JPEG", "CMYK"), "gif": animation("GIF"), "apng": animation("PNG"), "webp": encoded("WEBP"),
    "animated.webp": animation("WEBP"), "bmp": encoded("BMP"), "tiff": encoded("TIFF", "F"),
    "deflated.tiff": encoded("TIFF", compression="tiff_adobe_deflate"), "bomb.png": png_declaring(60_000, 60_000),
    "large.png": png_declaring(9_999, 9_999),
}  # fmt: skip
NOT_IMAGES = [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    b"BM",
    b"GIF89a",
    b"II*\0",
    b"RIFF\0\0\0\0WEBP",
    b"",
]


@fuzzed(400, 30_000)
def test_image_files(examples):
    """A decoded image has a size within bounds; everything else raises an exception."""
    before = dict(IMAGES)

    @over(examples, name=st.sampled_from(sorted(before)), damages=st.lists(DAMAGE, max_size=3))
    def check(name, damages):
        content = before[name]
        for damage in damages:
            content = damaged(content, damage)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = pixels.to_gray_or_rgb(pixels.open_image(content))
        except Exception:  # `image_files` catches every exception of one file
            return
        assert image.mode in ("L", "RGB") and 0 < image.width * image.height <= pixels.MAX_PIXELS
        array = pixels.to_array(pixels.crop_and_resize(image, (8, 8), "center"), 3)
        assert array.shape == (8, 8, 3) and array.dtype == np.uint8


@pytest.mark.parametrize("content", NOT_IMAGES)
def test_only_the_formats_of_images_are_decoded(content):
    """PIL also knows PostScript, which it passes to another program."""
    with pytest.raises(Image.UnidentifiedImageError):
        pixels.open_image(content)
    assert set(pixels.FORMATS).isdisjoint({"EPS", "WMF", "FITS", "PDF", "HDF5", "BUFR", "GRIB"})


ODD_NAMES = ["a.png", "b.JPG", "c d.webp", "é.png", "\u202e.gif", b"\xff\xfe.png", "new\nline.png",
             "$(touch x).png", "-rf.png", "%s.png", "{}.png", ".hidden.png", "no extension",
             "x" * 240 + ".png", "a.png/b.png", "deep/er/c.png",
             b"class\xff/d.png", "class\n/e.png", " /f.png", "..png", "~.png"]  # fmt: skip
THINGS = [*IMAGES, "text", "empty", "folder", "pipe", "loop", "away", "zeros", "unreadable"]


@fuzzed(30, 1500)
def test_folders_of_images(examples, tmp_path, monkeypatch):
    number = itertools.count()

    def make(path, what):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.lexists(path):
            return
        if what == "folder":
            os.mkdir(path)
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "loop":
            os.symlink(path, path)
        elif what == "away":
            os.symlink(b"..", path)
        elif what == "zeros":
            os.symlink(b"/dev/zero", path)
        else:
            with open(path, "wb") as file:
                file.write(
                    {"text": b"hello", "empty": b"", "unreadable": b"\0" * 99}.get(what) or IMAGES.get(what, b"")
                )

    @over(
        examples,
        files=st.dictionaries(st.sampled_from(ODD_NAMES), st.sampled_from(THINGS) | st.just("png"), max_size=5),
        good=st.integers(0, 2),
        skip_broken=st.booleans(),
    )
    def check(files, good, skip_broken):
        root = tmp_path / str(next(number))
        root.mkdir()
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            for name, what in files.items():
                make(os.path.join(os.fsencode(root), os.fsencode(name)), what)
            for name in range(good):
                make(os.fsencode(root / f"good{name}.png"), "png")
        loaded = rejected_or(
            data.load,
            name="folder",
            data_dir=root,
            image_size=(8, 8),
            skip_broken=skip_broken,
            cache_dir=tmp_path / "cache",
        )
        if loaded is not None:
            images, labels = loaded.arrays()
            assert images.shape[1:3] == (8, 8) and len(images) == len(labels) == len(loaded) >= 2
            assert labels.min() >= 0 and labels.max() < len(loaded.class_names)
            if not skip_broken:  # no file was skipped
                assert len(images) == len(listing.list_images(root))
        shutil.rmtree(root)


def test_pipes_and_devices_are_not_read(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(IMAGES["png"])
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        make(tmp_path / "odd.png")
        with within(20), pytest.raises(UserError, match="odd.png cannot be read as an image .not a regular file"):
            data.load(name="folder", data_dir=tmp_path, cache_dir=tmp_path / "cache")
        (tmp_path / "odd.png").unlink()


@pytest.mark.parametrize("limit", ["MAX_PIXELS", "MAX_BYTES"])
def test_decoding_is_bounded(tmp_path, monkeypatch, limit):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(encoded("PNG", size=(30, 20)))
    monkeypatch.setattr(pixels, limit, 599)  # 600 pixels; more than 2,000 bytes of noise
    word = "30 x 20 pixels; expected: 1 to 599" if limit == "MAX_PIXELS" else "bytes; expected: up to 599"
    with pytest.raises(UserError, match=f"0.png cannot be read as an image .*{word}"):
        data.load(name="folder", data_dir=tmp_path, cache_dir=tmp_path / "cache")


@fuzzed(60, 3000)
def test_datasets_by_name(examples, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(data.prepare, "_unreachable", lambda builder: "there is no network here")

    @over(
        examples,
        name=st.sampled_from(
            ["digits", "ring8", "digits", "mnist/x", "a:b:c", "huggingface:x", "../x", "/", "imagenet2012"]
        )
        | VALUES,
        split=VALUES
        | st.sampled_from(["train", "train[:9]", "train+train", "all", "train[50%:]", "train[::2]", "test"]),
        size=st.sampled_from([None, (8, 8), (0, 8), (8,), (8192, 8193)]),
        channels=st.integers(-1, 4),
        folder=st.sampled_from(["", str(tmp_path), "/proc/none", "~nobody_of_this_name", "x" * 5000, "a\0b"]),
    )
    def check(name, split, size, channels, folder):
        if name == "stacked_mnist":
            return
        options = {"data_dir": folder, "image_size": size, "channels": channels, "cache_dir": tmp_path / "cache"}
        rejected_or(data.load, name=name, split=split, **options)


# Files of the cache and of a run.


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A prepared dataset in a cache of its own."""
    root = tmp_path_factory.mktemp("prepared")
    data.load(name="digits", split="train[:64]", cache_dir=root).arrays()
    return root


@fuzzed(20, 2000)
def test_prepared_data_and_decoded_arrays(examples, digits, tmp_path):
    """A damaged copy gives the original data or an error."""
    images, labels = map(np.array, data.load(name="digits", split="train[:64]", cache_dir=digits).arrays())
    paths = sorted(path.relative_to(digits) for path in digits.rglob("*") if path.is_file())

    @over(examples, place=st.floats(0, 0.999), damage=DAMAGE | LOSS)
    def check(place, damage):
        copy = tmp_path / "copy"
        shutil.copytree(digits, copy)
        try:
            damage_file(copy / paths[int(place * len(paths))], damage)
            loaded = rejected_or(data.load, name="digits", split="train[:64]", cache_dir=copy)
            arrays = loaded and rejected_or(loaded.arrays)
            if arrays is not None:
                np.testing.assert_array_equal(arrays[0], images)
                np.testing.assert_array_equal(arrays[1], labels)
        finally:
            shutil.rmtree(copy)


@fuzzed(300, 10_000)
def test_cached_arrays(examples, tmp_path):
    folder = tmp_path / "arrays"
    arrays = {"images": np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3), "labels": np.arange(2, dtype=np.int32)}
    cache.write_arrays(folder, arrays)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    @over(examples, name=st.sampled_from(sorted(before)), damages=st.lists(DAMAGE, min_size=1, max_size=2))
    def check(name, damages):
        for path, content in before.items():
            (folder / path).write_bytes(content)
        for damage in damages:
            damage_file(folder / name, damage)
        found = cache.read_arrays(folder, ("images", "labels"))
        if found is not None:
            for key, array in arrays.items():
                assert found[key].dtype == array.dtype and not found[key].flags.writeable
                np.testing.assert_array_equal(found[key], array)


@fuzzed(300, 10_000)
def test_a_saved_classifier(examples, tmp_path):
    rng = np.random.default_rng(0)
    variables = classifier._initial_variables(rng, (8, 8, 1), 3)
    path = tmp_path / "classifier.npz"
    classifier._write(path, classifier.Classifier(variables, 0.5))
    before, shapes = path.read_bytes(), {name: leaf.shape for name, leaf in classifier._flat(variables).items()}
    identity = classifier._read(path, shapes).identity

    @over(examples, damages=st.lists(DAMAGE, min_size=1, max_size=2))
    def check(damages):
        path.write_bytes(functools.reduce(damaged, damages, before))
        saved = classifier._read(path, shapes)
        assert saved is None or (saved.identity == identity and saved.test_accuracy == 0.5)


def fragment(value):
    return pickle.dumps(value, protocol=2)[2:-1]


def weights(legacy):
    """A small PyTorch file, as torch.save writes it: two tensors that share a storage."""
    numbers = np.arange(12, dtype="<f4")

    def tensor(offset, shape, strides):
        pid = b"(" + fragment("storage") + b"ctorch\nFloatStorage\n" + fragment("0") + fragment("cpu") + fragment(12)
        pid += (fragment(None) if legacy else b"") + b"tQ"
        arguments = fragment(offset) + fragment(shape) + fragment(strides) + fragment(False)
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + arguments + b"ccollections\nOrderedDict\n)RtR"

    items = fragment("first") + tensor(0, (3, 4), (4, 1)) + fragment("second") + tensor(2, (2, 2), (1, 4))
    described = b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u}" + fragment("_metadata") + b"}sb."
    if legacy:
        parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        return b"".join(parts) + described + pickle.dumps(["0"], protocol=2) + struct.pack("<q", 12) + numbers.tobytes()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("any/data.pkl", described)
        archive.writestr("any/data/0", numbers.tobytes())
    return content.getvalue()


@fuzzed(300, 20_000)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
def test_weights(examples, legacy, tmp_path):
    """A damaged file may contain other values (its SHA-256 is verified elsewhere), but nothing else than tensors."""
    before, path = weights(legacy), tmp_path / "weights.pth"
    path.write_bytes(before)
    assert {name: array.shape for name, array in read_tensors(path).items()} == {"first": (3, 4), "second": (2, 2)}

    @over(examples, damages=st.lists(DAMAGE, min_size=1, max_size=3))
    def check(damages):
        content = functools.reduce(damaged, damages, before)
        path.write_bytes(content)
        found = rejected_or(read_tensors, path)
        if found is not None:
            assert all(type(name) is str and type(array) is np.ndarray for name, array in found.items())
            assert sum(array.nbytes for array in found.values()) <= 2 * len(content)


def test_a_small_file_cannot_exhaust_memory_or_time(tmp_path):
    """Each level of a tuple contains the next one twice: 2^60 entries if it is traversed."""
    nested = b")" + b"".join(b"q%ch%ch%c\x86" % (n, n, n) for n in range(60))
    path = tmp_path / "weights.pth"
    for described in (
        b"\x80\x02}" + nested + b"K\1s.",  # as a key
        b"\x80\x02" + nested + b"Q.",  # as the name of a storage
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + nested + b"K\0" + nested + b"))tR.",  # as its sizes
        b"\x80\x02X\xff\xff\xff\xffabc.",  # a string that declares 4 GiB
        b"\x80\x02Nr\xff\xff\xff\xff.",  # the last of 2^32 memo entries
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("any/data.pkl", described)
        with within(5), pytest.raises(UserError, match="plain tensors"):
            read_tensors(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("any/data.pkl", bytes(10**7))
    with pytest.raises(UserError, match="compressed, or longer than the file"):
        read_tensors(path)
    # A thousand tensors of one storage.
    content = weights(legacy=True)
    pair = content[content.index(fragment("first")) : content.index(b"u}")]
    items = b"".join(pair.replace(b"first", b"%05d" % n).replace(b"second", b"%06d" % n) for n in range(1000))
    path.write_bytes(content.replace(pair, items))
    assert len(read_tensors(path)) == 2000  # they are not larger than their descriptions


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """(folder of a run after 8 of 12 steps with checkpoints at 4 and 8, digests of its states, dataset); untrained."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config, mesh = runs.config(), sharding.device_mesh()
    dataset = data.open_dataset(config.data)
    digests = {}
    with workdir.lock(folder):
        opened = setup.prepare_run(config, folder, dataset, mesh)
        for step in (4, 8):
            state = sharding.replicate(opened.state.replace(step=np.int32(step)), mesh)
            checkpoint.save(opened.manager, step, state)
            digests[step] = checkpoint.digests(state)
        opened.manager.wait_until_finished()
        opened.manager.close()
    metrics = {"images": 8, "discriminator_loss": 1.0, "generator_loss": 1.0}
    for name in ("metrics", "evaluations"):
        lines = [json.dumps({"step": step} | metrics) for step in (4, 8)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder, digests, dataset


@fuzzed(8, 1500)
def test_a_run_on_the_disk(examples, run_folder, tmp_path):
    """A damaged run resumes from an intact checkpoint or is rejected; it never restarts, nor uses part of one."""
    folder, digests, dataset = run_folder
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    newest = [path for path in paths if path.parts[:2] == ("checkpoints", "8")]
    records = [path for path in paths if len(path.parts) == 1]
    config, mesh = runs.config(), sharding.device_mesh()

    @over(
        examples,
        where=st.sampled_from([paths, newest, records]),
        place=st.floats(0, 0.999),
        damage=DAMAGE | LOSS,
        again=st.none() | DAMAGE,
    )
    def check(where, place, damage, again):
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        path = copy / where[int(place * len(where))]
        damage_file(path, damage)
        if again is not None and path.is_file():
            damage_file(path, again)

        def resumed():
            with machine_failures(str(copy)), workdir.lock(copy):
                opened = setup.prepare_run(config, copy, dataset, mesh)
                opened.manager.close()
                step = int(opened.state.step)
                assert step in digests or path.name == "config.json" and not path.exists(), step
                assert checkpoint.digests(opened.state) == digests[step]
                written = writer.RunWriter(copy, step=step, total=12)
                written.close()
                assert all(line["step"] <= step for line in written.evaluations())

        try:
            rejected_or(resumed)
            found = rejected_or(model.load, copy)
            assert found is None or found.step in digests
        finally:
            shutil.rmtree(copy)


@fuzzed(150, 10_000)
def test_the_record_of_a_run(examples, run_folder, tmp_path):
    """`config.json` may have been edited: any value at any position."""
    record = json.loads((run_folder[0] / "config.json").read_text())

    def places(tree, path=()):
        yield path
        entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        for name, entry in entries:
            yield from places(entry, (*path, name))

    known = sorted(places(record), key=repr)
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(NAMES),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )

    @over(examples, place=st.floats(0, 0.999), value=json_values, drop=st.booleans())
    def check(place, value, drop):
        changed = json.loads(json.dumps(record))
        path = known[int(place * len(known))]
        tree = changed
        for name in path[:-1]:
            tree = tree[name]
        if not path:
            changed = value
        elif drop:
            del tree[path[-1]]
        else:
            tree[path[-1]] = value
        (tmp_path / "config.json").write_text(json.dumps(changed))

        def resumed():
            old = workdir.read(tmp_path)
            config, dataset = model.recorded(tmp_path)
            workdir.continue_with(tmp_path, old, record["config"], record["dataset"])
            make_game(config, image_shape=tuple(dataset["image_shape"]), num_classes=len(dataset["class_names"]))
            make_schedules(config)

        rejected_or(resumed)


@fuzzed(30, 1500)
def test_flags_of_sampling(examples, run_folder, monkeypatch, tmp_path):
    """Flags of --mode=sample; no samples are drawn."""

    def draw(*_, count, **__):
        return [{"image": np.zeros((count, 8, 8, 1), np.uint8), "label": np.zeros(count, np.int32)}]

    monkeypatch.setattr(sampling, "draw", draw)
    monkeypatch.chdir(tmp_path)

    @over(
        examples,
        count=st.integers(-1, 9) | st.integers(max_value=0) | st.integers(min_value=sampling.MAX_SAMPLES + 1),
        name=st.text() | st.integers(-1, 12).map(str) | st.sampled_from(EXTREMES),
        truncation=st.none() | st.floats(),
        out=st.sampled_from(["x.npz", "a/b.npz", "/proc/x.npz", "x.png", ".npz", "y" * 300 + ".npz", "~/x", ""]),
    )
    def check(count, name, truncation, out):
        rejected_or(command.sample, run_folder[0], count=count, seed=0, truncation=truncation, out=tmp_path / out)
        found = rejected_or(model.class_index, name, ["cat", "dog", "7"])
        assert found in (None, 0, 1, 2)
