"""What the tests of experiments.sweep share: an experiment file, workers, and a study with made-up results."""

import html.parser
import json
import os
import subprocess
import sys

import pytest
import runs

from experiments.sweep import Experiment, choice

optuna = pytest.importorskip("optuna")
from experiments.sweep import planning, storage  # noqa: E402

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


def made_up(tmp_path, **fields):
    """A study of two settings and three seeds whose results are made up: 1, 2, 3 and 11, 12, diverged."""
    plan = experiment(space={"loss": choice("hinge", "</script><b>")}, seeds=(0, 1, 2), **fields)
    study = storage.open_study(plan, {"base": "x"}, tmp_path)
    with storage.locked(tmp_path):
        assert planning.plan(study, plan, tmp_path) == "run"
    for _ in range(6):
        asked = study.ask()
        changes = planning.resolve(study, plan, asked)
        value = 1.0 + asked.user_attrs["seed"] + 10 * (changes["loss"] != "hinge")
        asked.set_user_attr("curve", [[100, 2 * value], [200, value]])
        if value == 13.0:
            asked.set_user_attr("why", "diverged: step 3: discriminator_loss is nan")
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(asked, value)
    return plan, study


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
