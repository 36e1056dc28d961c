"""What the fuzz tests share: examples that are the same in every run, texts, and damage to files."""

import contextlib
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gan import augment, data, losses, networks, optimizers, schedules
from gan.build import COMPUTE_DTYPES, OUTPUTS, PRIORS
from gan.errors import UserError
from gan.evaluation.options import METRICS
from gan.networks.layers import initializers

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


# Texts.

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
