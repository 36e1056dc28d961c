"""experiments.sweep: how simulated trials are chosen, pruned, grouped and reported."""

import csv
import json
import math
import re
import sys

import numpy as np
import pytest
from sweeps import BASE, written

optuna = pytest.importorskip("optuna")
from experiments import cli  # noqa: E402 (they need Optuna)
from experiments.sweep import __main__ as command  # noqa: E402
from experiments.sweep import trial  # noqa: E402

pytestmark = pytest.mark.usefixtures("at_the_root")


def simulated(monkeypatch, tmp_path, simulate, groups=None, **fields):
    """A study whose runs are simulated: `simulate(value of the one parameter)` returns its reports and exit status.

    The values that were trained together are appended to `groups`. More than three at once crash.
    """
    calls = []

    def train(runs, stop_signal):
        if groups is not None:
            groups.append([value_of(run.command) for run in runs])
        if len(runs) > 3:
            return [trial.End(-9, False, "killed")] * len(runs)
        return [train_one(*run) for run in runs]

    def value_of(command):
        return float((re.search(r"top_k=([0-9.]+)", " ".join(command)) or [0, 1])[1])  # 1 is the config's default

    def train_one(command, folder, should_stop):
        value = value_of(command)
        calls.append(value)
        folder.mkdir(parents=True, exist_ok=True)
        reported, status = simulate(value)
        for step, value in enumerate(reported, 1):
            for name, metrics in {
                "evaluations": {"fd_x": value},
                "metrics": {"images": 64 * step, "seconds_per_step": 10.0},
            }.items():
                with open(folder / f"{name}.jsonl", "a") as lines:
                    lines.write(json.dumps({"step": step} | metrics) + "\n")
            if should_stop():
                return trial.End(130, True, "saved")
        return trial.End(status, False, "its last message")

    monkeypatch.setattr(trial, "train", train)
    values = ", ".join(map(str, fields.pop("values")))
    fields = {"base": BASE, "minimize": "fd", "num_reports": 3} | fields
    rest = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    text = '"""Which?"""\nfrom experiments.sweep import Experiment, choice\n'
    text += f'EXPERIMENT = Experiment(space={{"top_k": choice({values})}}, {rest})\n'
    monkeypatch.setattr(sys, "argv", ["", str(written(tmp_path, text)), f"--workdir={tmp_path / 'study'}"])
    with pytest.raises(SystemExit) as end:
        cli.run(command.main)
    table = tmp_path / "study" / "table.csv"
    return end.value.code, {float(row["top_k"]): row for row in csv.DictReader(table.open())}, calls


@pytest.mark.parametrize("prune", ["median", "halving"])
def test_bad_trials_are_pruned(tmp_path, monkeypatch, prune):
    """Each of nine settings reports its own constant; the later, the worse."""
    values = [round(0.1 * place, 1) for place in range(1, 10)]
    status, rows, calls = simulated(monkeypatch, tmp_path, lambda value: ([value] * 3, 0), values=values, prune=prune)
    assert status == 0
    assert calls == values
    done = [value for value, row in rows.items() if row["n"] == "1"]
    # The median prunes from the sixth trial on, halving from the second; all of these are worse.
    assert done == (values[:5] if prune == "median" else values[:1])
    assert all(row["remarks"] == "1 pruned" for value, row in rows.items() if value not in done)


def test_good_trials_are_not_pruned(tmp_path, monkeypatch):
    """The same, the later the better: none is pruned; the value of each is its best report."""
    values = [round(0.1 * place, 1) for place in range(1, 10)]
    fields = {"minimize": "", "maximize": "fd", "best": True, "prune": "halving"}
    _, rows, _ = simulated(
        monkeypatch, tmp_path, lambda value: ([value, value + 0.25, value - 0.05], 0), values=values, **fields
    )
    np.testing.assert_allclose(
        [float(row["fd_mean"]) for row in rows.values()], [value + 0.25 for value in reversed(values)]
    )


def test_failures_of_trials_are_reported(tmp_path, monkeypatch):
    ends = {
        0.1: ([5.0, 4.0], 0),
        0.2: ([5.0], 3),  # diverged
        0.3: ([5.0], 1),  # crashed
        0.4: ([5.0, math.inf], 0),
        0.5: ([], -9),
    }
    status, rows, calls = simulated(monkeypatch, tmp_path, ends.get, values=ends)
    assert (status, calls) == (0, list(ends))
    assert [rows[value]["remarks"] for value in ends] == ["", "1 diverged", "1 crashed", "1 diverged", "1 crashed"]
    assert rows[0.1]["fd_mean"] == "4.0"
    text = (tmp_path / "study" / "table.md").read_text()
    assert "001-seed0: diverged: its last message" in text
    assert "004-seed0: crashed: exit -9: its last message" in text
    assert "fd is inf" in text
    # The same command again resumes the run that was killed, and no other; with --retry, those that crashed, too. This
    # time the killed run ends as it should.
    ends[0.5] = ([2.0], 0)
    for flags, retried in ([], [0.5]), ([], []), (["--retry"], [0.3]):
        calls.clear()
        monkeypatch.setattr(sys, "argv", sys.argv[:3] + flags)
        with pytest.raises(SystemExit) as end:
            cli.run(command.main)
        assert (end.value.code, calls) == (0, retried)


def test_a_budget_of_seconds_stops_a_trial(tmp_path, monkeypatch):
    """Ten seconds a step: the third one exceeds 25 s."""
    fields = {"values": [0.5], "budget_seconds": 25.0, "num_reports": 0, "fixed": {"evaluate_every": 1}}
    status, rows, _ = simulated(monkeypatch, tmp_path, lambda value: ([9.0, 8.0, 7.0, 6.0], 0), **fields)
    assert status == 0
    assert (rows[0.5]["fd_mean"], rows[0.5]["seconds"]) == ("7.0", "30.0")


def test_compatible_trials_are_trained_together(tmp_path, monkeypatch):
    """top_k=1 is not compatible with the others: it means no top-k at all."""
    values, groups = [0.5, 0.7, 1.0, 0.9, 0.3], []
    fields = {"values": values, "seeds": (0, 1), "minimize": "", "maximize": "fd"}
    ends = {value: ([value, 2 * value], 0) for value in values} | {0.9: ([0.1], 3)}
    status, rows, _ = simulated(monkeypatch, tmp_path / "three", ends.get, groups, population=3, **fields)
    # Of the queue, seed by seed, the first and those compatible with it: 1 with its other seed.
    assert groups == [[0.5, 0.7, 0.9], [1.0, 1.0], [0.3, 0.5, 0.7], [0.9, 0.3]]
    assert status == 0
    groups.clear()
    _, alone, _ = simulated(monkeypatch, tmp_path / "one", ends.get, groups, **fields)
    assert groups == [[value] for value in 2 * values]
    assert rows == alone
    assert rows[0.9]["remarks"] == "2 diverged"


def test_a_population_that_crashes_is_trained_one_by_one(tmp_path, monkeypatch, capsys):
    values, groups = [0.1, 0.2, 0.3, 0.4, 0.5], []
    ends = {value: ([value], 1 if value == 0.2 else 0) for value in values}
    _, rows, _ = simulated(monkeypatch, tmp_path, ends.get, groups, values=values, population=4)
    assert groups == [[0.1, 0.2, 0.3, 0.4], [0.1], [0.2], [0.3], [0.4], [0.5]]
    assert [rows[value]["remarks"] for value in values] == ["", "1 crashed", "", "", ""]
    assert "the population crashed, exit -9: killed; trials now run one by one" in capsys.readouterr().err


@pytest.mark.parametrize("fields", [{"budget_seconds": 25.0, "num_reports": 0}, {"fixed": {"data.on_device": "never"}}])
def test_auto_is_one_by_one_with_a_budget_of_seconds_or_streamed_data(tmp_path, monkeypatch, fields):
    groups = []
    fields = {"values": [0.1, 0.2], "population": "auto"} | fields
    fields["fixed"] = fields.get("fixed", {}) | ({"evaluate_every": 1} if "budget_seconds" in fields else {})
    simulated(monkeypatch, tmp_path, lambda value: ([value], 0), groups, **fields)
    assert groups == [[0.1], [0.2]]


@pytest.mark.parametrize(("best", "expected"), [(3, [[0.1, 0.2, 0.3], [0.4]]), (1, [[0.1], [0.2], [0.3], [0.4]])])
def test_auto_is_the_size_that_is_fastest(tmp_path, monkeypatch, best, expected):
    groups, asked = [], []
    monkeypatch.setattr(trial, "best_population", lambda command: asked.append(command) or best)
    simulated(monkeypatch, tmp_path, lambda value: ([value], 0), groups, values=[0.1, 0.2, 0.3, 0.4], population="auto")
    assert groups == expected
    assert len(asked) == 1


def test_a_study_without_a_value_says_so(tmp_path, monkeypatch, capsys):
    status, _, _ = simulated(monkeypatch, tmp_path, lambda value: ([], 2), values=[0.5])
    assert status == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("has a value; exit 2: its last message")


def test_an_objective_that_no_trial_reports_is_corrected_in_the_file(tmp_path, monkeypatch, capsys):
    status, _, _ = simulated(monkeypatch, tmp_path, lambda value: ([3.0], 0), values=[0.5], minimize="fdx")
    assert status == 2
    assert "no trial reports the objective 'fdx'; nearest: 'fd_x'" in capsys.readouterr().err.splitlines()[-1]
    status, rows, _ = simulated(monkeypatch, tmp_path, lambda value: ([3.0], 0), values=[0.5])
    assert (status, rows[0.5]["fd_mean"]) == (0, "3.0")
