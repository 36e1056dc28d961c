"""experiments.sweep: what an experiment file may contain, the results of a study, and its workers."""

import csv
import html.parser
import itertools
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.sweep import Experiment, cases, choice, integers, log_uniform, space, uniform
from experiments.sweep.experiment import AUTO_POPULATION, config_flags, load_configs, load_experiment, trial_config
from gan.errors import UserError

optuna = pytest.importorskip("optuna")
from experiments import cli  # noqa: E402 (they need Optuna)
from experiments.sweep import __main__ as command  # noqa: E402
from experiments.sweep import page, population, population_size, results, storage, trial  # noqa: E402

BASE = "configs/dcgan.py:digits"
TINY = {name: value for name, value in runs.SMALL.items() if name not in ("log_every", "checkpoint_every", "steps")}
FILE = f'''"""Is a rate of 1e-2 too high?

A test's question.
"""
from experiments.sweep import Experiment, choice, cases, log_uniform, uniform

EXPERIMENT = Experiment(
    base="configs/dcgan.py:digits",
    fixed={ {name: value for name, value in TINY.items() if name != "generator.learning_rate"} },
    space={{"generator.learning_rate": choice(1e-3, 1e-2)}},
    seeds=(0, 1),
    minimize="training.generator_loss",
    budget_images=96,
    num_reports=3,
)
'''


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Configs are named from the repository's root."""
    monkeypatch.chdir(runs.ROOT)


def experiment(**fields):
    return Experiment(**{"base": BASE, "minimize": "fd", "num_reports": 5} | fields)


def sweep(*arguments, **environment):
    """Starts a worker."""
    environment = os.environ | {"XLA_FLAGS": os.environ["GAN_TEST_XLA_FLAGS"], "PYTHONUNBUFFERED": "1"} | environment
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.sweep", *map(str, arguments)],
        cwd=runs.ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def rejection(worker):
    """The one line with which a worker rejects its arguments."""
    output, errors = worker.communicate(timeout=60)
    assert worker.returncode == 2, errors
    assert not output
    assert errors.count("\n") == 1, errors
    assert errors.startswith("error: ")
    return errors


def written(tmp_path, text=FILE):
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "question.py"
    path.write_text(text)
    return path


# What an experiment may contain.


def test_a_grid_has_every_combination_and_no_case_with_fields_of_another():
    parts = {
        "loss": choice("hinge", "wasserstein"),
        "penalty": cases({"none": {}, "gp": {"penalties.wgan_gp": choice(1.0, 10.0), "discriminator_steps": 5}}),
        "microbatches": integers(1, 2),
    }
    load_configs(experiment(space=parts))
    found = list(space.grid(parts))
    assert len(found) == 2 * (1 + 2) * 2
    assert len({json.dumps(one, sort_keys=True) for one in found}) == len(found)
    assert sum("penalty=gp: penalties.wgan_gp" in one for one in found) == 2 * 2 * 2
    changes = [space.resolve(parts, lambda name, _, one=one: one[name]) for one in found]
    assert all(("penalties.wgan_gp" in change) == (change.get("discriminator_steps") == 5) for change in changes)
    assert not any("penalty" in change for change in changes)


@given(
    low=st.floats(1e-6, 1e3),
    factor=st.floats(1.01, 1e3),
    whole=st.integers(1, 50),
    values=st.lists(st.sampled_from(["hinge", "wasserstein", "minimax"]), min_size=1, max_size=3, unique=True),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25, deadline=None)
def test_settings_that_optuna_draws_are_in_the_space(low, factor, whole, values, seed):
    parts = {
        "loss": choice(*values),
        "generator.learning_rate": log_uniform(low, low * factor),
        "augment.p": uniform(low, low * factor),
        "batch_size": integers(whole, 2 * whole),
        "data.image_size": choice((8, 8), (16, 16)),
        "rule": cases({"a": {"top_k": uniform(0.5, 1.0)}, "b": {"weight_clip": 0.01}}),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    plan = experiment(space=parts, search="random", num_settings=1)
    changes = storage.resolve(study, plan, study.ask())
    assert changes["loss"] in values
    assert low <= changes["generator.learning_rate"] <= low * factor
    assert low <= changes["augment.p"] <= low * factor
    assert whole <= changes["batch_size"] <= 2 * whole
    assert isinstance(changes["batch_size"], int)
    assert changes["data.image_size"] in ((8, 8), (16, 16))
    assert ("top_k" in changes) != ("weight_clip" in changes)


def test_a_trials_flags_make_its_config():
    """What `gan.main` makes of the flags is the expected config, field by field."""
    parts = {"loss": choice("f_gan('kl')"), "data.image_size": choice((8, 12)), "generator.batch_norm": choice(False)}
    plan = experiment(space=parts, budget_images=6400, fixed={"evaluation.metrics": ("frechet", "kernel"), "top_k": 1})
    base, config = load_configs(plan, ["latent.prior=uniform(-1, 1)", "batch_size=32"])
    changes = space.resolve(parts, lambda name, labels: labels[0])
    expected = trial_config(plan, config, changes, seed=7)
    # 6,400 images of 32 in a batch are 200 steps, five reports of them one in 40.
    assert (expected.steps, expected.evaluate_every, expected.checkpoint_every, expected.seed) == (200, 40, 40, 7)
    code = (
        "import sys, json; from absl import flags; from gan.cli.flags import CONFIG; flags.FLAGS(sys.argv);"
        "print(json.dumps(CONFIG.value.to_dict()))"
    )
    flags = [f"--config={BASE}", *config_flags(base, expected)]
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads(json.dumps(expected.to_dict()))
    # And so does a population, for each of its members.
    parsed_config, folder = population.config_and_workdir(trial.command(BASE, "here", flags[1:])[3:])
    assert (parsed_config.to_dict(), str(folder)) == (expected.to_dict(), "here")


def test_a_training_metric_is_reported_when_the_run_logs():
    plan = experiment(minimize="", maximize="training.images_per_second", budget_images=640, num_reports=4)
    _, config = load_configs(plan)
    expected = trial_config(plan, config, {"discriminator_steps": 2}, seed=0)
    # 640 images, 2 batches of 64 in a step: 5 steps; ceil(5 / 4) = 2.
    assert (expected.steps, expected.log_every, expected.evaluate_every) == (5, 2, 0)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"space": {"generator.learning_rat": choice(1e-3)}}, "nearest: 'generator.learning_rate'"),
        ({"fixed": {"los": "hinge"}}, "nearest: 'loss'"),
        ({"space": {"loss": choice("hinge", 3)}}, "loss=3 is not of type str"),
        ({"space": {"batch_size": choice(8.5)}}, "batch_size=8.5 is not of type int"),
        ({"space": {"steps": uniform(1, 9)}, "search": "random", "num_settings": 2}, "steps=1.0 is not of type int"),
        ({"space": {"generator.batch_norm": choice(1)}}, "generator.batch_norm=1 is not of type bool"),
        ({"space": {"batch_size": choice(True)}}, "batch_size=True is not of type int"),
        ({"space": {"loss": "hinge"}}, "belongs in fixed"),
        ({"space": {"loss": cases({"hinge": {}})}}, "a name of its own"),
        ({"space": {"a": cases({"b": {"los": "hinge"}})}}, "nearest: 'loss'"),
        ({"space": {"loss": choice("hinge")}, "fixed": {"loss": "hinge"}}, "set twice"),
        ({"space": {"loss": choice("hinge"), "a": cases({"b": {"loss": "minimax"}})}}, "set twice"),
        ({"space": {"seed": choice(1, 2)}}, "set by the sweep"),
        ({"fixed": {"steps": 5}, "budget_images": 100}, "set by the sweep"),
        ({"num_reports": 0}, "evaluate_every is 0"),
        ({"base": "configs/dcgam.py"}, "nearest: 'dcgan'"),
        ({"base": "configs/toy.py:ring8:x:y", "fixed": {"data.name": 3}}, "data.name=3 is not of type str"),
    ],
)
def test_fields_that_do_not_fit_the_config_are_rejected(fields, message):
    with pytest.raises(UserError) as error:
        load_configs(experiment(**fields))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: experiment(minimize=""), "one objective"),
        (lambda: experiment(maximize="precision"), "one objective"),
        (lambda: experiment(search="gird"), "nearest: 'grid'"),
        (lambda: experiment(prune="medium"), "nearest: 'median'"),
        (lambda: experiment(search="tpe"), "at least 1"),
        (lambda: experiment(num_settings=3), "tries all settings"),
        (lambda: experiment(space={"top_k": uniform(0, 1)}), "cannot enumerate"),
        (lambda: experiment(seeds=(1, 1)), "no duplicates"),
        (lambda: experiment(seeds=()), "at least one"),
        (lambda: experiment(budget_images=1, budget_seconds=1), "one budget"),
        (lambda: experiment(budget_seconds=1), "does not apply"),
        (lambda: experiment(budget_images=-1), "negative"),
        (lambda: experiment(population=0), "population=0; expected: a whole number from 1 up, or 'auto'"),
        (lambda: experiment(population=True), "population=True; expected"),
        (lambda: experiment(population="many"), "population='many'; expected"),
        (lambda: experiment(population=2, budget_seconds=9, num_reports=0), "expected: population=1 or 'auto'"),
        (lambda: uniform(1, 1), "empty"),
        (lambda: uniform(0, math.inf), "no end"),
        (lambda: log_uniform(0, 1), "no logarithm"),
        (lambda: integers(0.5, 3), "whole"),
        (lambda: uniform("a", 1), "not of numbers"),
        (choice, "has no values"),
        (lambda: cases({"a": 1}), "takes"),
    ],
)
def test_an_invalid_experiment_is_rejected(make, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make()


SHIPPED = [
    path for path in sorted((runs.ROOT / "experiments/studies").glob("*.py")) if "EXPERIMENT = " in path.read_text()
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_experiments_are_valid(path):
    plan, question = load_experiment(str(path))
    base, config = load_configs(plan)
    assert question.splitlines()[0].endswith("?")
    assert f"python -m experiments.sweep experiments/studies/{path.name}" in question
    for parameters in space.grid(plan.space):
        changes = space.resolve(plan.space, lambda name, _, parameters=parameters: parameters[name])
        assert config_flags(base, trial_config(plan, config, changes, 1))


def test_a_shipped_experiment_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = load_experiment(str(runs.ROOT / "experiments/studies/learning_rates.py"))
    for name in ("learning_rates", "experiments/studies/learning_rates.py"):
        assert load_experiment(name)[1] == expected[1]
    with pytest.raises(UserError, match="the experiment: learning_rats is not a file"):
        load_experiment("learning_rats")


def test_the_experiment_of_the_document_is_valid(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", (runs.ROOT / "docs" / "sweeps.md").read_text(), re.DOTALL)
    plan, question = load_experiment(str(written(tmp_path, block)))
    load_configs(plan)
    assert question == "Does R1 help, and at which weight?"


# The results of a study.


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


def made_up(tmp_path, **fields):
    """A study of two settings and three seeds whose results are made up: 1, 2, 3 and 11, 12, diverged."""
    plan = experiment(space={"loss": choice("hinge", "</script><b>")}, seeds=(0, 1, 2), **fields)
    study = storage.open_study(plan, {"base": "x"}, tmp_path)
    with storage.planning(tmp_path):
        assert storage.plan(study, plan, tmp_path) == "run"
    for _ in range(6):
        asked = study.ask()
        changes = storage.resolve(study, plan, asked)
        value = 1.0 + asked.user_attrs["seed"] + 10 * (changes["loss"] != "hinge")
        asked.set_user_attr("curve", [[100, 2 * value], [200, value]])
        if value == 13.0:
            asked.set_user_attr("why", "diverged: step 3: discriminator_loss is nan")
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(asked, value)
    return plan, study


def test_tables_by_closed_form(tmp_path):
    plan, study = made_up(tmp_path)
    with storage.planning(tmp_path):
        assert storage.plan(study, plan, tmp_path) == "done"
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


class Page(html.parser.HTMLParser):
    """The links of a page, and the data in it."""

    def __init__(self):
        super().__init__()
        self.links, self.open, self.data = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.open.append((tag, dict(attributes)))
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        if self.open and self.open[-1][1].get("type") == "application/json":
            self.data += data


def parsed(text):
    page_found = Page()
    page_found.feed(text)
    return page_found, json.loads(page_found.data)


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


# How workers share a study.


def test_an_objective_is_found_by_the_prefix_of_its_name(tmp_path):
    others = {"kd_x": 1.0, "kd_x_std": 2.0, "infinity_fd_classifier": 3.0, "fd_classifier_sampling_std": 4.0}
    lines = [{"step": step, "fd_classifier": 9.0 - step, **others} for step in (1, 2)]
    (tmp_path / "evaluations.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 3, "fre')
    assert trial.reports(tmp_path, experiment()) == [(1, 8.0), (2, 7.0)]
    assert trial.reports(tmp_path, experiment(minimize="kd")) == [(1, 1.0), (2, 1.0)]
    assert trial.value_of(trial.reports(tmp_path, experiment()), experiment(best=True)) == 7.0
    assert trial.value_of([trial.Report(1, 3.0), trial.Report(2, 5.0)], experiment(best=True)) == 3.0
    assert trial.value_of([trial.Report(1, 3.0), trial.Report(2, 5.0)], experiment()) == 5.0
    with pytest.raises(UserError, match="no trial reports the objective 'fd_clasifier'.*nearest: 'fd_classifier'"):
        trial.reports(tmp_path, experiment(minimize="fd_clasifier"))


def test_training_time_excludes_start_up_and_evaluations(tmp_path):
    # 10 steps of 0.5 s, then 20 of 0.25 s: 10 s, however long start-up and evaluations took.
    lines = [{"step": 10, "images": 80, "seconds": 31.0, "seconds_per_step": 0.5},
             {"step": 30, "images": 240, "seconds": 99.0, "seconds_per_step": 0.25}]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert trial.progress(tmp_path) == (240, 10.0)


def test_settings_do_not_depend_on_the_workers(tmp_path):
    """Two workers draw the settings of one that asks one by one or for several; each setting once with each seed."""
    plan = experiment(space={"top_k": uniform(0.1, 1)}, search="random", num_settings=3, seeds=(4, 5))

    def drawn(folder, workers, most=1, is_compatible=lambda changes, seed: True):
        studies = [storage.open_study(plan, {"base": "x"}, folder) for _ in range(workers)]
        for number in range(100):
            study = studies[number % workers]
            with storage.planning(folder):
                if storage.plan(study, plan, folder) == "done":
                    break
                asked = study.ask()
                storage.resolve(study, plan, asked)
                others = storage.ask_compatible(study, plan, is_compatible) if most > 1 else ()
                taken = [asked, *itertools.islice(others, most - 1)]
            for asked in taken:
                study.tell(asked, 1.0)
        trials = [one for one in studies[0].get_trials() if one.state != optuna.trial.TrialState.FAIL]
        assert len(trials) == 6
        assert sorted(storage.current_trials(trials)) == [(number, seed) for number in range(3) for seed in (4, 5)]
        return storage.settings_of(trials)

    settings = drawn(tmp_path / "one", 1)
    assert drawn(tmp_path / "two", 2) == settings
    assert drawn(tmp_path / "three", 1, most=5) == settings
    # A setting that is not compatible with the others is drawn all the same, and queued.
    assert drawn(tmp_path / "four", 2, 5, lambda changes, seed: changes["top_k"] > 0.5 and seed == 4) == settings


@pytest.mark.parametrize("kind", ["journal", pytest.param("database", marks=pytest.mark.slow)])
def test_the_trial_of_a_dead_worker_is_queued_again(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(storage, "HEARTBEAT_SECONDS", 1)
    url = "" if kind == "journal" else f"sqlite:///{tmp_path}/study.db"
    folder = tmp_path / "study"
    plan = experiment(space={"loss": choice("hinge", "minimax")})
    study = storage.open_study(plan, {"base": "x"}, folder, url)
    with storage.planning(folder):
        storage.plan(study, plan, folder)
        dead = study.ask()
        storage.resolve(study, plan, dead)
    if kind == "database":
        study._storage.record_heartbeat(dead._trial_id)  # its last one
        with storage.planning(folder):
            storage.plan(study, plan, folder)
        assert study.trials[dead.number].state == optuna.trial.TrialState.RUNNING
        time.sleep(6)
    else:
        with storage.lease(folder, storage.name_of(dead)), storage.planning(folder):
            storage.plan(study, plan, folder)
            assert study.trials[dead.number].state == optuna.trial.TrialState.RUNNING
    with storage.planning(folder):
        assert storage.plan(study, plan, folder) == "run"
    assert study.trials[dead.number].state == optuna.trial.TrialState.FAIL
    waiting = study.get_trials(states=(optuna.trial.TrialState.WAITING,))
    assert sorted(storage.name_of(one) for one in waiting) == ["000-seed0", "001-seed0"]


def test_seeds_can_be_added_and_crashed_trials_retried(tmp_path):
    plan, study = made_up(tmp_path)
    more = experiment(space=plan.space, seeds=(0, 1, 2, 3))
    study = storage.open_study(more, {"base": "x"}, tmp_path)
    with storage.planning(tmp_path):
        storage.plan(study, more, tmp_path)
        waiting = study.get_trials(states=(optuna.trial.TrialState.WAITING,))
        assert [storage.name_of(one) for one in waiting] == ["000-seed3", "001-seed3"]
        crashed = study.ask()
        crashed.set_user_attr("why", "exit 1: bug")
        study.tell(crashed, state=optuna.trial.TrialState.FAIL)
        study.tell(study.ask(), 1.0)
        assert storage.plan(study, more, tmp_path) == "done"
        storage.retry(study, crashed=False)
        assert storage.plan(study, more, tmp_path) == "done"
        storage.retry(study, crashed=True)
        assert storage.plan(study, more, tmp_path) == "run"
    assert storage.name_of(study.ask()) == "000-seed3"


def test_another_study_is_rejected_and_a_wrong_objective_can_be_corrected(tmp_path):
    plan = experiment(space={"loss": choice("hinge")})
    before = {"space: loss": "hinge", "minimize": "'fdd'"}
    study = storage.open_study(plan, before, tmp_path)
    with pytest.raises(UserError, match="holds another study; space: loss: hinge -> minimax; use a new --workdir"):
        storage.open_study(plan, before | {"space: loss": "minimax"}, tmp_path)
    corrected = before | {"minimize": "'fd'"}
    study = storage.open_study(plan, corrected, tmp_path)
    study.enqueue_trial({})
    study.tell(study.ask(), 1.0)
    with pytest.raises(UserError, match="minimize: 'fd' -> 'kd'"):
        storage.open_study(plan, before | {"minimize": "'kd'"}, tmp_path)
    with pytest.raises(UserError, match="storage is the journal in its folder, not a database"):
        storage.open_study(plan, corrected, tmp_path, f"sqlite:///{tmp_path}/x.db")
    (tmp_path / storage.JOURNAL).write_text("not a journal\nat all\n")
    with pytest.raises(UserError, match="study.journal cannot be opened"):
        storage.open_study(plan, corrected, tmp_path)


def test_a_database_has_one_folder_for_a_study(tmp_path):
    plan, url = experiment(), f"sqlite:///{tmp_path}/study.db"
    storage.open_study(plan, {"base": "x"}, tmp_path / "one" / "name", url)
    with pytest.raises(UserError, match="of another folder"):
        storage.open_study(plan, {"base": "x"}, tmp_path / "two" / "name", url)


def test_a_password_is_not_printed():
    assert storage._without_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert storage._without_password("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"


@pytest.mark.parametrize(
    "flags, line",
    [
        (["{folder}/none.py"], "is not a file"),
        (["{path}", "--workdri=x"], "--workdri=x"),
        (["{path}", "--workdir={folder}", "--override", "generator.widht=3"], "nearest: 'generator.width'"),
        (
            ["{path}", "--workdir={folder}", "--storage=postgresql://me:secret@nowhere.invalid/db"],
            "postgresql://me:***@nowhere.invalid/db cannot be opened",
        ),
        (["{path}", "--workdir=/proc/no"], "not writable"),
    ],
)
def test_the_command_rejects_in_one_line(flags, line, tmp_path, monkeypatch, capsys):
    path = written(tmp_path)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # a failure of the machine sets another
    monkeypatch.setattr(sys, "argv", ["", *(flag.format(path=path, folder=tmp_path / "study") for flag in flags)])
    with pytest.raises(SystemExit) as end:
        cli.run(command.main)
    shown, error = capsys.readouterr()
    assert end.value.code == 2 and not shown
    assert error.startswith("error: ") and error.count("\n") == 1 and line in error and "secret" not in error


def test_a_process_without_optuna_rejects_in_one_line(tmp_path):
    path = written(tmp_path)
    (tmp_path / "optuna.py").write_text("raise ModuleNotFoundError(\"No module named 'optuna'\", name='optuna')")
    assert "needs Optuna: pip install" in rejection(sweep(path, PYTHONPATH=str(tmp_path)))


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


def test_small_networks_are_trained_together_on_a_cpu():
    """8x8 with width 4; 16x16 with 64: D's second layer has 4^2 * 64 * 128 * 4^2 * 64 = 1.3e8 products in each pass."""
    assert population_size.best(runs.config()) == AUTO_POPULATION
    large = {"discriminator.width": 64, "generator.width": 64, "data.image_size": (16, 16), "batch_size": 64}
    assert population_size.best(runs.config(**large)) == 1
    assert population_size.best(runs.config(data__on_device="never")) == 1


@pytest.mark.slow
def test_the_population_size_is_chosen_in_a_process_of_its_own(tmp_path):
    command = ["python", "-m", "gan.main", *runs.flags(tmp_path, {})]
    assert trial.best_population(command) == AUTO_POPULATION
    assert trial.best_population([*command, "--config.loss=none"]) == 1


def test_members_end_as_runs_do(tmp_path):
    """Two runs in one process: one is stopped at once, one diverges."""
    changes = [{}, {"seed": 1, "discriminator.learning_rate": 1e38}]
    base, _ = load_configs(experiment())
    members = [
        trial.command(BASE, tmp_path / str(number), config_flags(base, runs.config(**change)))[3:]
        for number, change in enumerate(changes)
    ]
    done = subprocess.run(
        [sys.executable, "-m", trial.POPULATION], input=json.dumps(members) + "\n0\n", cwd=runs.ROOT,
        env=os.environ | {"XLA_FLAGS": os.environ["GAN_TEST_XLA_FLAGS"]}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stopped, (diverged, message) = json.loads(done.stdout)
    assert (stopped, diverged) == ([130, ""], 3)
    assert message.startswith("diverged: step ") and message.endswith("There is no checkpoint yet")
    assert [line["step"] for line in runs.logged(tmp_path / "0")] == [4]
    assert runs.final_digests(tmp_path / "0")[0] == 4
    for number, change in enumerate(changes):
        recorded = json.loads((tmp_path / str(number) / "config.json").read_text())["config"]
        assert recorded == json.loads(json.dumps(runs.config(**change).to_dict()))


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


def with_population(count, text=FILE):
    return text.replace("num_reports=3", f"num_reports=3, population={count}")


@pytest.mark.slow  # a minute
def test_a_study_of_populations_has_the_results_of_single_trials(tmp_path):
    rows = {}
    for count in (1, 3):
        text = with_population(count, FILE.replace("choice(1e-3, 1e-2)", "choice(1e-3, 1e30)"))
        worker = sweep(written(tmp_path, text), f"--workdir={tmp_path / str(count)}")
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors
        rows[count] = list(csv.DictReader((tmp_path / str(count) / "table.csv").open()))
    assert [row["remarks"] for row in rows[3]] == [row["remarks"] for row in rows[1]] == ["", "2 diverged"]
    for name in ("mean", "std", "seed0", "seed1"):
        mine, alone = (float(rows[count][0][f"training.generator_loss_{name}"]) for count in (3, 1))
        np.testing.assert_allclose(mine, alone, rtol=2e-3, atol=1e-4)
    # Three of the four are trained together, the last one alone; each can be resumed alone as any run.
    outputs = [(tmp_path / f"3/trials/{name}/output.txt").read_text() for name in ("000-seed1", "001-seed1")]
    assert ["in one population with others" in output for output in outputs] == [True, False]
    run = tmp_path / "3/trials/000-seed1"
    typed = (run / "output.txt").read_text().splitlines()[0].removeprefix("$ ")
    longer = runs.command(*shlex.split(typed)[3:], "--config.steps=16")
    _, errors = longer.communicate(timeout=300)
    assert longer.returncode == 0 and "resumed from step 12 of 16" in errors, errors


@pytest.mark.slow  # half a minute, or two where one core is shared
@pytest.mark.parametrize("population", [1, 2])
def test_two_workers_complete_a_study_though_one_is_killed(tmp_path, population):
    path, folder = written(tmp_path, with_population(population)), tmp_path / "study"
    # Samples at every step make the runs long enough to be killed.
    changes = ["--override", "sample_every=1"]
    first, second = (sweep(path, f"--workdir={folder}", *changes) for _ in range(2))
    start = time.monotonic()
    while not (checkpointed := sorted(folder.glob("trials/*/checkpoints/4"))):
        assert time.monotonic() - start < 300
        time.sleep(0.05)
    run = checkpointed[0].parent.parent
    holder = int((folder / "leases" / run.name / ".lock").read_text())
    killed, other = (first, second) if holder == first.pid else (second, first)
    child = int((run / ".lock").read_text())
    os.kill(killed.pid, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)  # as when a machine fails
    _, errors = other.communicate(timeout=300)
    killed.communicate()
    assert other.returncode == 0, errors
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert [row["n"] for row in rows] == ["2", "2"]
    assert len(list(folder.glob("trials/*"))) == 4
    assert "resumed from step" in (run / "output.txt").read_text()
    # The killed run ends as an undisturbed one: its own command, in another folder.
    typed = (run / "output.txt").read_text().splitlines()[0].removeprefix("$ ")
    flags = [f"--config.{name}" for name in re.findall(r"--config\.([^=]+=(?:\([^)]*\)|[^ ']+))", typed)]
    alone = runs.command("--config=configs/dcgan.py:digits", f"--workdir={tmp_path / 'alone'}", *flags)
    _, errors = alone.communicate(timeout=300)
    assert alone.returncode == 0, errors
    if population == 1:
        assert runs.final_digests(run) == runs.final_digests(tmp_path / "alone")
    mine, others = runs.logged(run)[-1], runs.logged(tmp_path / "alone")[-1]
    assert (mine["step"], mine["images"]) == (others["step"], others["images"])
    np.testing.assert_allclose(mine["generator_loss"], others["generator_loss"], rtol=2e-3)
    content, data = parsed((folder / "index.html").read_text())
    assert {run["state"] for run in data["runs"]} == {"done"}


@pytest.mark.slow  # half a minute
@pytest.mark.parametrize("population", [1, 2])
def test_a_stopped_worker_resumes_and_failed_trials_are_reported(tmp_path, population):
    text = FILE.replace("choice(1e-3, 1e-2)", "choice(1e-3, 1e30)").replace("seeds=(0, 1)", "seeds=(0,)")
    text = with_population(population, text).replace("images=96", "images=1600")
    text = text.replace("num_reports=3", "num_reports=50")  # 200 steps, saved every 4
    path, folder = written(tmp_path, text), tmp_path / "study"
    worker = sweep(path, f"--workdir={folder}", "--override", "sample_every=1")
    start = time.monotonic()
    while not list(folder.glob("trials/*/checkpoints/4")):
        assert time.monotonic() - start < 300
        time.sleep(0.05)
    worker.send_signal(signal.SIGTERM)
    _, errors = worker.communicate(timeout=120)
    assert worker.returncode == 128 + signal.SIGTERM, errors
    assert "the same command continues the study" in errors
    assert "SIGINT: saved at step" in (folder / "trials/000-seed0/output.txt").read_text()
    worker = sweep(path, f"--workdir={folder}", "--override", "sample_every=1")
    _, errors = worker.communicate(timeout=300)
    assert worker.returncode == 0, errors
    assert "resumed from step" in (folder / "trials/000-seed0/output.txt").read_text()
    assert re.search(r"\| 0 \| 0.001 \| [0-9.]+ \| 1 \|", (folder / "table.md").read_text())
    assert "1 diverged" in (folder / "table.md").read_text()
    # Another space is rejected. An objective that no trial reports is an error, and the trials are kept.
    path.write_text(text.replace("1e30", "1e-4"))
    assert "holds another study" in rejection(sweep(path, f"--workdir={folder}", "--override", "sample_every=1"))
    path.write_text(text.replace("generator_loss", "generator_los"))
    worker = sweep(path, f"--workdir={tmp_path / 'other'}")
    _, errors = worker.communicate(timeout=120)
    assert worker.returncode == 2
    assert "nearest: 'generator_loss'" in errors.splitlines()[-1]
    assert "Traceback" not in errors
