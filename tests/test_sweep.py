"""experiments.sweep: what an experiment file may contain."""

import json
import math
import re
import subprocess
import sys

import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeps import BASE, experiment, written

from experiments.sweep import cases, choice, integers, log_uniform, space, uniform
from experiments.sweep.experiment import config_flags, load_configs, load_experiment, trial_config
from gan.errors import UserError

optuna = pytest.importorskip("optuna")
from experiments.sweep import planning, population, trial  # noqa: E402

pytestmark = pytest.mark.usefixtures("at_the_root")


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
    changes = planning.resolve(study, plan, study.ask())
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
