"""experiments.sweep: how workers share a study, and real workers."""

import csv
import itertools
import json
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
from sweeps import BASE, FILE, experiment, made_up, parsed, rejection, sweep, written

from experiments.sweep import choice, uniform
from experiments.sweep.experiment import AUTO_POPULATION, config_flags, load_configs
from gan.errors import UserError

optuna = pytest.importorskip("optuna")
from experiments import cli  # noqa: E402 (they need Optuna)
from experiments.sweep import __main__ as command  # noqa: E402
from experiments.sweep import planning, population_size, storage, trial  # noqa: E402

pytestmark = pytest.mark.usefixtures("at_the_root")


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
            with storage.locked(folder):
                if planning.plan(study, plan, folder) == "done":
                    break
                asked = study.ask()
                planning.resolve(study, plan, asked)
                others = planning.ask_compatible(study, plan, is_compatible) if most > 1 else ()
                taken = [asked, *itertools.islice(others, most - 1)]
            for asked in taken:
                study.tell(asked, 1.0)
        trials = [one for one in studies[0].get_trials() if one.state != optuna.trial.TrialState.FAIL]
        assert len(trials) == 6
        assert sorted(planning.current_trials(trials)) == [(number, seed) for number in range(3) for seed in (4, 5)]
        return planning.settings_of(trials)

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
    with storage.locked(folder):
        planning.plan(study, plan, folder)
        dead = study.ask()
        planning.resolve(study, plan, dead)
    if kind == "database":
        study._storage.record_heartbeat(dead._trial_id)  # its last one
        with storage.locked(folder):
            planning.plan(study, plan, folder)
        assert study.trials[dead.number].state == optuna.trial.TrialState.RUNNING
        time.sleep(6)
    else:
        with planning.lease(folder, planning.name_of(dead)), storage.locked(folder):
            planning.plan(study, plan, folder)
            assert study.trials[dead.number].state == optuna.trial.TrialState.RUNNING
    with storage.locked(folder):
        assert planning.plan(study, plan, folder) == "run"
    assert study.trials[dead.number].state == optuna.trial.TrialState.FAIL
    waiting = study.get_trials(states=(optuna.trial.TrialState.WAITING,))
    assert sorted(planning.name_of(one) for one in waiting) == ["000-seed0", "001-seed0"]


def test_seeds_can_be_added_and_crashed_trials_retried(tmp_path):
    plan, study = made_up(tmp_path)
    more = experiment(space=plan.space, seeds=(0, 1, 2, 3))
    study = storage.open_study(more, {"base": "x"}, tmp_path)
    with storage.locked(tmp_path):
        planning.plan(study, more, tmp_path)
        waiting = study.get_trials(states=(optuna.trial.TrialState.WAITING,))
        assert [planning.name_of(one) for one in waiting] == ["000-seed3", "001-seed3"]
        crashed = study.ask()
        crashed.set_user_attr("why", "exit 1: bug")
        study.tell(crashed, state=optuna.trial.TrialState.FAIL)
        study.tell(study.ask(), 1.0)
        assert planning.plan(study, more, tmp_path) == "done"
        planning.retry(study, crashed=False)
        assert planning.plan(study, more, tmp_path) == "done"
        planning.retry(study, crashed=True)
        assert planning.plan(study, more, tmp_path) == "run"
    assert planning.name_of(study.ask()) == "000-seed3"


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


@pytest.mark.slow
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
def test_a_stopped_worker_resumes_and_failed_trials_are_reported(tmp_path):
    text = FILE.replace("choice(1e-3, 1e-2)", "choice(1e-3, 1e30)").replace("seeds=(0, 1)", "seeds=(0,)")
    text = with_population(2, text).replace("images=96", "images=1600")
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
    path.write_text(text.replace("1e30", "1e-4"))
    assert "holds another study" in rejection(sweep(path, f"--workdir={folder}", "--override", "sample_every=1"))


@pytest.mark.slow
def test_an_objective_that_no_trial_reports_is_an_error(tmp_path):
    path = written(tmp_path, FILE.replace("generator_loss", "generator_los"))
    worker = sweep(path, f"--workdir={tmp_path / 'study'}")
    _, errors = worker.communicate(timeout=120)
    assert worker.returncode == 2
    assert "nearest: 'generator_loss'" in errors.splitlines()[-1]
    assert "Traceback" not in errors
