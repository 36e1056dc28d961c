"""experiments.sweep: the results of a study, its tables and its page."""

import csv
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeps import experiment, made_up, parsed

from experiments.sweep import choice

optuna = pytest.importorskip("optuna")
from experiments.sweep import page, planning, results, storage  # noqa: E402

pytestmark = pytest.mark.usefixtures("at_the_root")


def test_a_paired_difference_by_closed_form():
    """Constant differences have no variance: the interval is the difference, for any seeds."""
    first, second = {0: 1.0, 1: 5.0, 2: 3.0, 3: 8.0, 4: 2.0, 5: 4.0}, {}
    second = {seed: value + 0.5 for seed, value in first.items()}
    found = results.paired(first, second)
    np.testing.assert_allclose([found.mean, found.low, found.high], -0.5)
    assert (found.n, found.verdict) == (6, "real")
    few = results.paired(first, {0: 1.5, 1: 5.5, 9: 0.0})
    assert (few.n, few.verdict) == (2, "too few seeds")
    assert results.paired(first, {0: 1.0}) is None
    # Differences -1, 1, -1, 1, ...: their mean 0 is in the interval.
    even = results.paired(first, {seed: value + (-1) ** seed for seed, value in first.items()})
    assert even.mean == 0 and even.low < 0 < even.high
    assert even.verdict == "not shown"


def test_the_interval_covers_the_true_mean_at_its_nominal_rate():
    """Of normal differences, n = 8: the plain percentile bootstrap covers 0.89, the widened one about 0.95."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        found = results.paired(dict(enumerate(random.normal(size=8))), dict.fromkeys(range(8), 0.0))
        held += found.low <= 0 <= found.high
    assert 0.92 <= held / 400 <= 0.975  # 400 trials: 0.95 within 2.5 standard errors of 0.011


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9), st.floats(-1e3, 1e3))
@settings(max_examples=25, deadline=None)
def test_a_comparison_in_reverse_is_its_negative(values, shift):
    first, second = dict(enumerate(values)), dict.fromkeys(range(len(values)), shift)
    one, other = results.paired(first, second), results.paired(second, first)
    np.testing.assert_allclose(one.mean, -other.mean, atol=1e-9)
    assert one.low <= one.high
    assert min(values) - shift - 1e-6 <= one.low and one.high <= max(values) - shift + 1e-6


def test_tables_by_closed_form(tmp_path):
    plan, study = made_up(tmp_path)
    with storage.locked(tmp_path):
        assert planning.plan(study, plan, tmp_path) == "done"
    found = results.read(study, plan, "Which?", tmp_path)
    assert [setting.mean for setting in found.settings] == [2.0, 11.5]
    # The standard deviation of 1, 2, 3 is 1; of 11, 12 it is sqrt(1/2).
    np.testing.assert_allclose([setting.std for setting in found.settings], [1.0, math.sqrt(0.5)])
    assert [setting.n for setting in found.settings] == [3, 2]
    pair = found.comparisons[0, 1]
    assert (pair.mean, pair.n, pair.verdict) == (-10.0, 2, "too few seeds")
    assert found.importances == {"loss": 1.0}
    text = results.markdown(found)
    assert "| 0 | hinge | 2 ± 1 | 3 |" in text
    assert "| 11.5 ± 0.71 | 2 | 1 diverged |" in text
    assert "001-seed2: diverged: diverged: step 3: discriminator_loss is nan" in text
    rows = list(csv.DictReader(results.comma_separated(found).splitlines()))
    assert [row["fd_seed2"] for row in rows] == ["3.0", ""]
    assert [row["n"] for row in rows] == ["3", "2"]


def test_maximize_reverses_the_order(tmp_path):
    plan, study = made_up(tmp_path, minimize="", maximize="precision")
    found = results.read(study, plan, "Which?", tmp_path)
    assert [setting.mean for setting in found.settings] == [11.5, 2.0]


def test_the_page_holds_its_data_and_needs_no_network(tmp_path):
    from PIL import Image

    plan, study = made_up(tmp_path)
    image = tmp_path / "trials" / "000-seed0" / "samples" / "00000004.png"
    image.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((900, 900), np.uint8)).save(image)
    found = results.read(study, plan, "Is <b> & </script> shown?\n\nYes.", tmp_path)
    text = page.render(found, tmp_path)
    content, data = parsed(text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert content.links == []
    assert "<title>Is &lt;b&gt; &amp; &lt;/script&gt; shown?</title>" in text
    assert data["question"] == found.question
    assert [setting["number"] for setting in data["settings"]] == [0, 1]
    assert data["settings"][1]["parameters"] == {"loss": "</script><b>"}
    first = next(run for run in data["runs"] if run["name"] == "000-seed0")
    assert first["samples"] == "trials/000-seed0/samples/00000004.png"
    assert first["thumbnail"].startswith("data:image/jpeg;base64,")
    assert first["curve"] == [[100, 2.0], [200, 1.0]]
    page.write(found, tmp_path)
    assert (tmp_path / "index.html").read_text() == text
    assert not list(tmp_path.glob("*.tmp"))


def test_a_study_without_results_can_be_read(tmp_path):
    plan = experiment(space={"loss": choice("hinge")})
    study = storage.open_study(plan, {"base": "x"}, tmp_path)
    found = results.read(study, plan, "Which?", tmp_path)
    assert parsed(page.render(found, tmp_path))[1]["settings"] == []
    assert "Which?" in results.markdown(found)
