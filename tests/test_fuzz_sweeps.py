"""Bad input to `experiments.sweep`, by hypothesis: experiments, overrides, and damaged studies on the disk."""

import itertools
import json
import math
import shutil

import pytest
from fuzzing import CALLS, DAMAGE, EXTREMES, LOSS, damage_file, fuzzed, one_line, over, rejected_or
from hypothesis import strategies as st

from experiments.sweep import Experiment, cases, choice, integers, log_uniform, space, uniform
from experiments.sweep.experiment import config_flags, load_configs, load_experiment, record, trial_config
from gan.config.flattening import flatten
from gan.config.overrides import override
from gan.errors import UserError

optuna = pytest.importorskip("optuna")
from experiments.sweep import page, planning, results, storage, trial  # noqa: E402 (they need Optuna)

BASE = "configs/dcgan.py:digits"
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from([(), [], {}, (1,), "grid", "random", "tpe", "median", "auto", "frechet", "training.x", object,
                     math.inf, 10**400]),
)  # fmt: skip
SPACES = st.one_of(
    VALUES,
    st.lists(VALUES, max_size=3).map(lambda values: choice(*values) if values else 3),
    st.sampled_from([uniform(0, 1), log_uniform(1, 2), integers(1, 3), integers(1, 10**9),
                     cases({"a": {}, "b": {"seed": 1}}),
                     cases({"a": {"loss": choice("hinge", "minimax")}}), cases({"a": {"x": cases({"y": {"z": 1}})}})]),
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("at_the_root")


@fuzzed(150, 1400)
def test_experiments(examples):
    """What an experiment file may contain, up to the configs of its trials."""
    _, known = load_configs(Experiment(base=BASE, minimize="fd", num_reports=5))
    names = sorted(flatten(known))
    fields = st.fixed_dictionaries(
        {},
        optional={name: VALUES for name in Experiment.__dataclass_fields__ if name not in ("space", "fixed", "base")}
        | {
            "space": st.dictionaries(st.sampled_from(names) | st.text(max_size=3), SPACES, max_size=3) | VALUES,
            "fixed": st.dictionaries(st.sampled_from(names), VALUES, max_size=3) | VALUES,
            "base": st.sampled_from([BASE, "configs/toy.py:x", "configs", "", "a\0b", "x" * 5000, BASE + ":nothing"]),
        },
    )

    @over(examples, given=fields, changed=st.integers(0, 3))
    def check(given, changed):
        whole = {"base": BASE, "minimize": "frechet", "num_reports": 5}
        kept = dict(itertools.islice(given.items(), 1 + changed))
        plan = rejected_or(lambda: Experiment(**whole | kept))
        configs = plan and rejected_or(load_configs, plan)
        if configs is None:
            return
        base, config = configs
        record(plan, config)
        for parameters in itertools.islice(space.grid(plan.space) if plan.search == "grid" else [{}], 3):

            def choose(name, what, parameters=parameters):
                return parameters.get(name, what.low if isinstance(what, space.Range) else what[0])

            changes = space.resolve(plan.space, choose)
            made = rejected_or(trial_config, plan, config, changes, 0)
            if made is not None:
                config_flags(base, made)


@fuzzed(150, 800)
def test_overrides_of_a_sweep(examples):
    base, _ = load_configs(Experiment(base=BASE, minimize="fd", num_reports=5))
    names = sorted(flatten(base))

    @over(
        examples,
        field=st.sampled_from(names) | st.text(max_size=9),
        equals=st.sampled_from(["=", "=", "=", "", "=="]),
        text=CALLS | st.sampled_from(EXTREMES) | st.text(max_size=9) | st.floats().map(repr),
    )
    def check(field, equals, text):
        config = base.copy_and_resolve_references()
        try:
            override(config, [f"{field}{equals}{text}"])
        except UserError as error:
            one_line(error)
        rejected_or(load_configs, Experiment(base=BASE, minimize="fd", num_reports=5), [f"{field}{equals}{text}"])


FILES = st.text(max_size=60) | st.sampled_from([
    "", "'''Which?'''", "'''Which?'''\nEXPERIMENT = 3", "import sys\nsys.exit(3)", "raise KeyError", "raise SystemExit",
    "'''Which?'''\nfrom experiments.sweep import *\nEXPERIMENT = Experiment(base='configs/dcgan.py:digits',"
    " minimize='x', budget_images='y')",
    "'''Which?'''\nfrom experiments.sweep import *\nEXPERIMENT = Experiment(base=3, minimize='x')",
    "from experiments.sweep import *\nEXPERIMENT = Experiment(base='x', minimize='x')",
    "'''Which?'''\nfrom experiments.sweep import *\nEXPERIMENT = Experiment()", "\0", "def f(): f()\nf()",
    "'''Which?'''\nfrom experiments.sweep import *\nEXPERIMENT = Experiment(nothing=1)", "(" * 300,
])  # fmt: skip


@fuzzed(60, 1500)
def test_files_of_experiments(examples, tmp_path):
    @over(examples, text=FILES)
    def check(text):
        path = tmp_path / "question.py"
        path.write_bytes(text.encode(errors="surrogatepass"))
        loaded = rejected_or(load_experiment, str(path))
        if loaded is not None:
            rejected_or(load_configs, loaded[0])


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory):
    """A study of four trials whose values are made up: 1 to 4."""
    folder = tmp_path_factory.mktemp("studies") / "study"
    plan = Experiment(base=BASE, minimize="fd", num_reports=5, space={"loss": choice("hinge", "minimax")}, seeds=(0, 1))
    study = storage.open_study(plan, {"base": "x"}, folder)
    with storage.locked(folder):
        planning.plan(study, plan, folder)
    for number in range(4):
        asked = study.ask()
        planning.resolve(study, plan, asked)
        asked.set_user_attr("curve", [[100, 2.0]])
        asked.set_user_attr("images", 100)
        asked.set_user_attr("seconds", 1.0)
        study.tell(asked, 1.0 + number)
    return folder, plan


@fuzzed(80, 800)
def test_a_study_on_the_disk(examples, study_folder, tmp_path):
    """A damaged study is rejected, or returns for each trial its value, or no value if it is to be trained again."""
    folder, plan = study_folder
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    values = {
        run.name: run.value
        for run in results.read(storage.open_study(plan, {"base": "x"}, folder), plan, "?", folder).runs
    }
    assert sorted(values.values()) == [1.0, 2.0, 3.0, 4.0]

    @over(examples, place=st.floats(0, 0.999), damage=DAMAGE | LOSS)
    def check(place, damage):
        copy = tmp_path / folder.name
        shutil.copytree(folder, copy)
        path = copy / paths[int(place * len(paths))]
        text = path.read_text()
        damage_file(path, damage)

        def read():
            study = storage.open_study(plan, {"base": "x"}, copy)
            with storage.locked(copy):
                planning.plan(study, plan, copy)
            found = results.read(study, plan, "Which?", copy)
            results.write_tables(found, copy)
            page.write(found, copy)
            return found

        try:
            found = rejected_or(read)
            # A journal has no checksums: a flipped digit may change a value. A truncation must not.
            if found is not None and damage[0] in ("cut", "delete", "whole") and path.name == storage.JOURNAL:
                for run in found.runs:
                    assert run.value is None or run.value == values[run.name], (damage, text)
        finally:
            shutil.rmtree(copy)


def test_an_unfinished_line_of_a_killed_worker_damages_no_other(study_folder, tmp_path):
    """Optuna would append to it, and could then read neither of the two lines."""
    folder, plan = study_folder
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    journal = copy / storage.JOURNAL
    whole = journal.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in (last + 1, (last + len(whole)) // 2, len(whole) - 1):
        journal.write_bytes(whole[:cut])
        study = storage.open_study(plan, {"base": "x"}, copy)
        with storage.locked(copy):
            planning.plan(study, plan, copy)
        assert journal.read_bytes().startswith(whole[:last])
        # If it held the last of the four values, its trial is trained again.
        values = {run.value for run in results.read(study, plan, "?", copy).runs} - {None}
        assert {1.0, 2.0, 3.0} <= values <= {1.0, 2.0, 3.0, 4.0}


@fuzzed(300, 1400)
def test_the_reports_of_a_trial(examples, tmp_path):
    """All reports, or a prefix of them; never some with others missing in between."""
    lines = [
        json.dumps({"step": step, "fd_x": 9.0 - step, "images": 8 * step, "seconds_per_step": 1.0})
        for step in range(1, 9)
    ]
    plan = Experiment(base=BASE, minimize="fd", num_reports=5)

    @over(examples, damage=DAMAGE, name=st.sampled_from(["evaluations", "metrics"]))
    def check(damage, name):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(lines) + "\n")
        damage_file(path, damage)
        if name == "metrics":
            rejected_or(trial.progress, tmp_path)
            return
        found = rejected_or(trial.reports, tmp_path, plan)
        if found and damage[0] in ("cut", "zeros", "whole"):
            assert [report.step for report in found] == list(range(1, len(found) + 1))
