"""Fuzz tests with Hypothesis: any flag or config either works or is rejected in one line.

There is never a traceback, a hang, or a result from a part of a file. The examples are the same in every run; the slow
variants of the tests use many more.
"""

import contextlib
import itertools
import json
import os
import shutil
import warnings

import command_line
import numpy as np
import pytest
import runs
from fuzzing import CALLS, EXTREMES, LITERALS, VALUES, fuzzed, over, rejected_or
from hypothesis import strategies as st
from ml_collections import ConfigDict
from test_configs import parsed

from gan.config import schema, specs
from gan.config.flattening import flatten
from gan.data import datasets
from gan.io import checkpoint, workdir
from gan.train import loop, population

CONFIGS = ("dcgan", "r3gan", "toy", "stylegan2", "gat", "biggan", "flag_gan", "wgan_gp", "conv_gan", "sagan")
CHEAP = ["--config.data.name=digits", "--config.data.split=train"]


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


@fuzzed(12, 140)
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


@fuzzed(150, 2000)
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


@fuzzed(20, 140)
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


@fuzzed(500, 2000)
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
