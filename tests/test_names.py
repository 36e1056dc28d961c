"""gan.config.specs and gan.errors: strings that name a function, and the messages for invalid ones."""

import pytest

from gan.config import specs
from gan.errors import UserError, lookup, nearest
from gan.evaluation.options import METRICS
from gan.losses import LOSSES
from gan.penalties import PENALTIES


def pair(first, second=2):
    return first, second


TABLE = {"pair": pair, "nothing": lambda: None}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("pair(1)", (1, 2)),
        ("pair(1, second=-3.5)", (1, -3.5)),
        (" pair((1, 2), 'x') ", ((1, 2), "x")),
        ("nothing", None),
    ],
)
def test_a_name_with_literals_calls_its_entry(text, expected):
    assert specs.call(TABLE, text, "config.loss") == expected


@pytest.mark.parametrize(
    "text", ["pair(", "pair(x)", "__import__('os')", "pair.real(1)", "pair(**{'first': 1})", "", "1", "pair(open('f'))"]
)
def test_anything_else_is_rejected_and_never_executed(text):
    with pytest.raises(UserError, match="config.loss"):
        specs.call(TABLE, text, "config.loss")


def test_invalid_arguments_show_the_signature():
    with pytest.raises(UserError, match=r"expected: pair\(first, second=2\)"):
        specs.call(TABLE, "pair(1, third=3)", "config.loss")


def test_an_unknown_name_shows_the_nearest_and_all():
    with pytest.raises(UserError, match="config.loss='pear' is unknown; nearest: 'pair'; expected: nothing, pair"):
        lookup(TABLE, "pear", "config.loss")


@pytest.mark.parametrize(
    "name, table, meant",
    [
        ("wgan", LOSSES, "wasserstein"), ("LSGAN", LOSSES, "least_squares"), ("vanilla", LOSSES, "non_saturating"),
        ("fid", METRICS, "frechet"), ("gp", PENALTIES, "wgan_gp"),
    ],
)  # fmt: skip
def test_a_name_that_others_use_finds_the_name_here(name, table, meant):
    assert nearest(name, table) == f"; nearest: {meant!r}"
