"""experiments.results: the page is made of the records, and a record of another form or recipe is rejected."""

import dataclasses
import json

import pytest

from experiments.on_gpu import runs as on_gpu_runs
from experiments.results import __main__ as command
from experiments.results import entries, page, records, training
from experiments.results.entries import SECTIONS, Column, Entry, Section
from gan.config import schema
from gan.errors import Diverged, UserError

PROTOCOL = {"num_samples": 100, "seed": 0, "dataset": "mnist", "fingerprint": "abcdef0123", "reference_split": "test",
            "reference_examples": 50, "standing_batches": 0, "extractor": "classifier"}  # fmt: skip


def record(seed=0, **changes):
    """A record of mnist/dcgan."""
    entry = records.find("mnist", "dcgan")
    made = records.Record(
        section="mnist", entry="dcgan", config=entry.config, overrides=records._as_json(entry.overrides),
        settings=records.settings(entry.configured(seed)), seed=seed, status="done", failure="", steps=1000,
        images=64_000, seconds=90.0, cpu_seconds=60.0, together=3, hardware="2 cores",
        versions={"jax": "0.10.2", "git_commit": "0123456789"}, image_shape=[32, 32, 1],
        metrics={"fd_classifier": 10.0, "recall": 0.5}, real={"fd_classifier": 1.39}, warnings=[], protocol=PROTOCOL,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of records and a page in place of those of docs/."""
    monkeypatch.setattr(records, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(page, "PAGE", tmp_path / "results.md")
    return tmp_path / "results"


def row(text, name, section="MNIST, gray, 32x32"):
    """The cells of a recipe's line."""
    lines = text.partition(f"## {section}\n")[2].partition("\n## ")[0].splitlines()
    (line,) = (line for line in lines if line.startswith(f"| {name}"))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_page_of_this_checkout_is_what_its_records_give():
    assert command.main(["--check"]) == 0


def test_a_line_of_the_page_has_mean_and_deviation_over_seeds(folder):
    for seed, distance in enumerate((10.0, 12.0, 17.0)):
        records.write(record(seed, metrics={"fd_classifier": distance}, seconds=60.0 + 30.0 * seed), folder)
    assert command.main([]) == 0 and command.main(["--check"]) == 0
    text = page.PAGE.read_text()
    # Mean 39 / 3 = 13, deviation sqrt((9 + 1 + 16) / 2) = 3.61. Three runs share 90 and 60 seconds: 30 and 20 for each.
    assert row(text, "`dcgan`") == [
        "`dcgan`", "**done**", "64,000 (5%)", "13.0 ± 3.6", "", "", "", "", "30 (20)", "2 cores, jax 0.10.2", "0123456",
    ]  # fmt: skip
    assert row(text, "`sagan`")[:3] == ["`sagan`, labels", "not run", "64,000 (10%)"]
    assert row(text, "*real examples of `mnist`, 32x32*")[3] == "1.4"
    assert "Protocol: 100 samples with seed 0 against 50 examples of 32x32x1 of `mnist`, split `test`" in text
    assert "| [MNIST, gray, 32x32](#mnist-gray-32x32) | 15 | 1 | 14 |" in text


def test_seeds_that_are_missing_or_diverged_and_other_protocols_show(folder):
    records.write(record(0), folder)
    records.write(
        record(1, status="diverged", failure="step 9: NaN", metrics={}, real={}, protocol={}, steps=9), folder
    )
    other = record(2, protocol=PROTOCOL | {"num_samples": 77}, warnings=["they vary 0.1% of 1"])
    text = page.text(SECTIONS, [*records.read_all(folder), other])
    assert row(text, "`dcgan`")[1:4] == ["**done**, 1 diverged", "64,000 (5%)", "10.0 ± 0.0"]
    assert "- `dcgan`, seed 1: step 9: NaN." in text and "- `dcgan`, seed 2: they vary 0.1% of 1." in text
    assert text.count("- Protocol of `dcgan`: ") == 2
    text = page.text(SECTIONS, [dataclasses.replace(other, seed=0, warnings=["they vary 2e-3% of 7"]), other])
    assert "\n- `dcgan`, seed 0, 2: they vary 2e-3% of 7.\n" in text and "they vary 0.1%" not in text
    text = page.text(SECTIONS, [record(0)])
    assert row(text, "`dcgan`")[1:4] == ["1 of 3 seeds", "64,000 (5%)", "10.0"]


def test_a_stale_page_is_an_error(folder):
    with pytest.raises(UserError, match="is not what the records give; write it: python -m experiments.results"):
        command.main(["--check"])
    assert command.main([]) == 0
    records.write(record(), folder)
    with pytest.raises(UserError, match="is not what the records give"):
        command.main(["--check"])


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"format": 1}, "has format 1; expected: 2"),
        ({"seed": "0"}, "seed='0' is not of the type int"),
        ({"metrics": {"fd_classifier": float("nan")}}, "metrics.fd_classifier=nan is not a finite number"),
        ({"status": "good"}, "status='good'; expected: done, diverged"),
        ({"protocol": {}}, "protocol.num_samples is missing"),
        ({"notes": "mine"}, "the field 'notes' is unknown"),
        ({"seed": 1}, "holds the record of mnist-dcgan-seed1.json; rename it"),
        ({"steps": 999}, "is of another recipe than its entry in experiments/results/entries.py: 999 steps, not 1000"),
        ({"overrides": {"data.name": "mnist"}}, "data.channels=None, not 1"),
        ({"config": "sngan"}, "config='sngan', not 'dcgan:mnist'"),
        ({"settings": {"generator.width": 65}}, "generator.width was 65 in the run and is 32 now"),
    ],
)
def test_a_record_of_another_form_or_recipe_is_one_line(folder, changes, line):
    path = records.write(record(), folder)
    assert records.read(path) == record()
    found = json.loads(path.read_text()) | changes
    found["overrides"] = changes.get("overrides", found["overrides"])
    path.write_text(json.dumps(found))
    with pytest.raises(UserError) as error:
        command.main([])
    assert str(error.value).startswith(str(path)) and line in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_no_record_is_one_line(folder):
    path = records.write(record(), folder)
    for text in ("", "[]", "{}", '{"format": 2}'):
        path.write_text(text)
        with pytest.raises(UserError) as error:
            records.read_all(folder)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_every_entry_has_a_valid_config_and_a_name_of_its_own():
    names = [(section.name, entry.name) for section in SECTIONS for entry in section.entries]
    assert len(set(names)) == len(names)
    for section in SECTIONS:
        for entry in section.entries:
            config = entry.configured(1)
            schema.check(config)
            assert config.seed == 1
            if entry.images:  # to the step
                assert 0 <= entry.images - config.steps * entries.images_per_step(config) < 400


def test_entries_are_chosen_by_section_and_name():
    assert [entry.name for _, entry in entries.find("points,points/grid25")] == ["ring8", "grid25"]
    assert [(section.name, entry.name) for section, entry in entries.find("mnist/r3gan")] == [("mnist", "r3gan")]
    with pytest.raises(UserError, match="--only: 'mnist/r3gam' is unknown; nearest: 'mnist/r3gan'"):
        entries.find("mnist/r3gam")
    with pytest.raises(UserError, match="--only is missing"):
        command.main(["run"])


@pytest.fixture
def ring(monkeypatch):
    """A section with one entry: two seeds of a toy, for a few steps."""
    overrides = {"steps": 8, "batch_size": 8, "evaluation.num_samples": 100}
    overrides |= {f"{player}.width": 4 for player in ("generator", "discriminator")}
    entry = Entry("ring", "toy:ring8", overrides, seeds=(0, 1))
    section = Section("toys", "Toys", "", (Column("modes", "modes", ".1f"),), (entry,))
    monkeypatch.setattr(records, "SECTIONS", (section,))
    return section, entry


@pytest.mark.slow
def test_runs_without_a_record_are_trained_and_recorded(ring, tmp_path):
    folder, runs = tmp_path / "results", tmp_path / "runs"
    assert training.run([ring], runs, folder) == 0
    found = records.read_all(folder)
    assert [(one.seed, one.steps, one.images, one.together) for one in found] == [(0, 8, 64, 2), (1, 8, 64, 2)]
    assert found[0].metrics.keys() == found[0].real.keys() >= {"modes", "sliced_wasserstein"}
    assert found[0].metrics != found[1].metrics and found[0].cpu_seconds > 0 and found[0].versions["jax"]
    assert "**done**" in page.text((ring[0],), found)
    # A record that exists is kept, and a run that is complete is not trained again.
    kept = (folder / "toys-ring-seed0.json").read_bytes()
    (folder / "toys-ring-seed1.json").unlink()
    lines = (runs / "toys-ring-seed1" / "metrics.jsonl").read_bytes()
    assert training.run([ring], runs, folder) == 0
    assert (folder / "toys-ring-seed0.json").read_bytes() == kept
    assert (runs / "toys-ring-seed1" / "metrics.jsonl").read_bytes() == lines
    again = records.read(folder / "toys-ring-seed1.json")
    assert again.metrics == found[1].metrics and again.cpu_seconds == 0.0


def test_a_run_that_diverges_is_recorded_and_one_that_is_stopped_is_not(ring, tmp_path, monkeypatch):
    def diverge(config, folder, launched):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(
            '{"config": {}, "versions": {"jax": "0"}, "dataset": {"image_shape": [1, 1, 2]}}'
        )
        (folder / "metrics.jsonl").write_text('{"step": 4, "images": 32, "seconds": 1.0}\n')
        raise Diverged("step 5: generator_loss is nan")

    monkeypatch.setattr(training.population_size, "best", lambda config: 1)
    monkeypatch.setattr(training.loop, "train", diverge)
    folder = tmp_path / "results"
    assert training.run([ring], tmp_path / "runs", folder) == 0
    found = records.read_all(folder)
    assert [one.status for one in found] == ["diverged"] * 2 and found[0].images == 32
    assert found[0].failure == "diverged: step 5: generator_loss is nan"
    monkeypatch.setattr(training.loop, "train", lambda *_: 143)
    for path in folder.iterdir():
        path.unlink()
    assert training.run([ring], tmp_path / "others", folder) == 143 and not list(folder.iterdir())


def test_a_stage_on_a_gpu_writes_a_record(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(
        '{"config": {}, "versions": {"jax": "0"}, "dataset": {"image_shape": [28, 28, 3]}}'
    )
    (run / "metrics.jsonl").write_text('{"step": 100000, "images": 6400000, "seconds": 300.5}\n')
    evaluated = {"metrics": {"modes": 1000.0, "reverse_kl": 0.0501234567}, "warnings": []}
    evaluation = {"checkpoints": {"last": evaluated}, "real_training_images": {"modes": 1000.0}, "protocol": PROTOCOL}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    monkeypatch.setattr(on_gpu_runs, "gpus", lambda: ["NVIDIA H100 80GB HBM3, 81559 MiB, 580.1"])
    found = records.read(on_gpu_runs.write_record(run, tmp_path, "stacked_mnist", "dcgan"))
    assert (found.hardware, found.steps, found.seconds) == ("1 x NVIDIA H100 80GB HBM3", 100_000, 300.5)
    assert found.metrics == {"modes": 1000.0, "reverse_kl": 0.0501235}
    assert row(page.text(SECTIONS, [found]), "`dcgan`", "StackedMNIST")[3:5] == ["1000.0", "0.050"]
