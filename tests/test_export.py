"""`--mode=export`: what is written of a generator gives the run's own samples."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import runs

import gan
from gan.errors import UserError
from gan.export import card, command, web
from gan.inference import exported
from gan.io import weights, workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    conditioning = {"generator.conditioning": "concat", "discriminator.conditioning": "projection"}
    config = runs.config(**conditioning, evaluation__standing_batches=2)
    runs.save(folder, config, image_shape=(8, 8, 1), class_names=tuple("0123456789"), step=7)
    return folder


@pytest.fixture(scope="module")
def export(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "export"
    command.export(run, out, formats=["safetensors"])
    return out


def edited(record, **changes):
    """The record of an export with other values in its entry."""
    return record | {"export": record["export"] | changes}


def test_an_export_is_loaded_as_the_run_is(run, export):
    model, expected = gan.load(export), gan.load(run)
    assert (model.step, model.class_names, model.source) == (7, tuple("0123456789"), str(export))
    chosen = {"seed": 3, "classes": ["3", "8"]}
    np.testing.assert_array_equal(model.sample(6, **chosen), expected.sample(6, **chosen))
    stored = weights.read(export / "model.safetensors")
    # The standing statistics are in the file: loading does not compute them again.
    for name, leaf in weights.flat({"generator": expected.ema}).items():
        np.testing.assert_array_equal(stored[name], leaf)
    assert any(name.startswith("generator/batch_stats/") for name in stored)
    with pytest.raises(UserError, match="holds the generator alone"):
        model.discriminate(model.generate(model.latents(1)))


def test_bfloat16_halves_the_weights(run, export, tmp_path):
    command.export(run, tmp_path, formats=(), dtype="bfloat16")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (export, tmp_path)]
    assert sizes[1] < 0.6 * sizes[0]
    rounded = command.stored_as(gan.load(run), "bfloat16")
    np.testing.assert_array_equal(gan.load(tmp_path).sample(4), rounded.sample(4))


def test_orbax_is_not_loaded(export):
    program = "import sys, gan; gan.load(sys.argv[1]).sample(1); assert not [m for m in sys.modules if 'orbax' in m]"
    subprocess.run([sys.executable, "-c", program, str(export)], cwd=runs.ROOT, check=True)


def test_the_cache_of_the_hub_is_read(export, tmp_path):
    repository, name = tmp_path / "models--someone--digits", "0123abc"
    for folder in ("blobs", "refs", f"snapshots/{name}"):
        (repository / folder).mkdir(parents=True)
    for index, file in enumerate(sorted(export.iterdir())):
        (repository / "blobs" / str(index)).write_bytes(file.read_bytes())
        os.symlink(f"../../blobs/{index}", repository / "snapshots" / name / file.name)
    (repository / "refs" / "main").write_text(name)
    expected = gan.load(export).sample(2)
    for path in (repository, repository / "snapshots" / name):
        np.testing.assert_array_equal(gan.load(path).sample(2), expected)
    (repository / "refs" / "main").write_text("../../elsewhere")
    with pytest.raises(UserError, match="does not say which snapshot"):
        gan.load(repository)


def test_the_truncation_of_an_export_is_that_of_its_samples(run, tmp_path):
    command.export(run, tmp_path, formats=(), truncation=0.5)
    assert float(abs(gan.load(tmp_path).latents(50)).max()) <= 0.5
    np.testing.assert_array_equal(gan.load(tmp_path).sample(3), gan.load(run).sample(3, truncation=0.5))
    command.export(tmp_path, tmp_path / "again", formats=())
    assert exported.record_of(tmp_path / "again").truncation == 0.5


def evaluation(step, **protocol):
    """An `evaluation.json` of one checkpoint."""
    metrics = {"fd_pixels": 12.345678, "points": [1, 2]}
    checkpoint = {"step": step, "metrics": metrics, "warnings": ["few samples"], "seconds": 1.0}
    return {
        "checkpoints": {"best": checkpoint},
        "real_training_images": {"fd_pixels": 1.5},
        "protocol": {"num_samples": 50, "extractor": "pixels"} | protocol,
    }


def test_the_card_says_what_the_records_say(run, tmp_path):
    (run / "evaluation.json").write_text(json.dumps(evaluation(step=7)))
    command.export(run, tmp_path / "a", formats=())
    text = (tmp_path / "a" / "README.md").read_text()
    front = text.split("---\n")[1].splitlines()
    assert front[:2] == ["library_name: flaxgan", "pipeline_tag: unconditional-image-generation"]
    assert not any(line.startswith("license:") for line in front)
    assert {'- "dcgan"', '- "made"', '- "fd_pixels"'} <= set(front)
    for line in (
        "| fd_pixels | 12.346 | 1.5 |",
        "- few samples",
        "- num_samples: `50`",
        "![Samples of seed 0](samples.png)",
        "generator.width = 4",
    ):
        assert line in text
    assert 'gan.load("FOLDER")' in text and "deserialize" not in text  # no program was exported
    assert (tmp_path / "a" / "samples.png").stat().st_size > 100
    # An export of the export has the evaluation, and one of another truncation has not.
    command.export(tmp_path / "a", tmp_path / "b", formats=())
    assert "| fd_pixels | 12.346 | 1.5 |" in (tmp_path / "b" / "README.md").read_text()
    command.export(tmp_path / "a", tmp_path / "c", formats=(), truncation=0.5)
    assert "This checkpoint was not evaluated." in (tmp_path / "c" / "README.md").read_text()
    assert card.evaluation_of(evaluation(step=6), 7, None) is None
    assert card.evaluation_of(evaluation(step=7, truncation=0.5), 7, 0.5) is not None


def test_formats_are_added_to_an_export(run, tmp_path):
    command.export(run, tmp_path, formats=())
    command.export(tmp_path, tmp_path, formats=["stablehlo"])
    command.export(tmp_path, tmp_path, formats=["safetensors"])
    assert exported.record_of(tmp_path).formats == ("safetensors", "stablehlo")
    assert "export.deserialize" in (tmp_path / "README.md").read_text()
    assert command.chosen(["web"]) == ("safetensors", "onnx", "web")
    with pytest.raises(UserError, match="--format=jpeg is unknown; expected: safetensors, stablehlo, onnx, web"):
        command.export(run, tmp_path, formats=["jpeg"])


def test_the_page_is_given_names_as_data(run, tmp_path, monkeypatch):
    model = dataclasses.replace(gan.load(run), class_names=("</script><script>", *"123456789"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="expected: npm install onnxruntime-web"):
        web.check(model)
    for name in web.RUNTIME_FILES:
        (tmp_path / web.RUNTIME / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / web.RUNTIME / name).write_bytes(b"runtime")
    web.check(model)
    (tmp_path / "generator.onnx").write_bytes(b"graph")
    web.save(model, tmp_path / "generator.onnx", tmp_path / "web", truncation=0.5)
    page = (tmp_path / "web" / "index.html").read_text()
    assert page.count("</script>") == 2  # of the page itself
    start = page.index(">", page.index('id="settings"')) + 1
    settings = json.loads(page[start : page.index("</script>", start)])
    assert settings["classNames"][0] == "</script><script>" and settings["truncation"] == 0.5
    assert settings["prior"] == {"mean": 0.0, "sd": 1.0} and settings["imageShape"] == [8, 8, 1]
    text = page + (tmp_path / "web" / "page.mjs").read_text()
    named = set(re.findall(r'(?: src=| href=|from )"(?:\./)?([^":,]+)"', text))
    assert {"page.mjs", "page.css", "ort.wasm.bundle.min.mjs"} == named
    assert named <= {path.name for path in (tmp_path / "web").iterdir()}
    assert not re.search(r"https?://", page)


def test_what_is_not_an_export_is_one_line(run, export, tmp_path):
    for out in (run, export.parent, run / "config.json"):
        with pytest.raises(UserError, match="expected: a new folder, or that of an earlier export"):
            command.export(run, out)
    with pytest.raises(UserError, match="is an export of step 7 alone"):
        gan.load(export, step=6)
    with pytest.raises(UserError, match="is an export of step 7 alone"):
        gan.load(export, checkpoint="best")
    assert gan.load(export, checkpoint="last").step == 7
    record = workdir.read(export)
    with pytest.raises(UserError, match="holds an export, which cannot be trained further"):
        workdir.continue_with(export, record, record["config"], record["dataset"])
    for changes in ({"step": -1}, {"step": "7"}, {"dtype": "int8"}, {"truncation": float("nan")}, {"more": 1}):
        (tmp_path / "config.json").write_text(json.dumps(edited(record, **changes)))
        with pytest.raises(UserError, match="its export is not described"):
            gan.load(tmp_path)


def damages(content):
    """Safetensors files that are damaged, or are of something else, and what is said of each."""
    return {
        "incomplete": content[:-4],
        "does not match": content[:-1] + bytes([content[-1] ^ 1]),
        "too small": b"",
        "invalid header length": b"\x80\x04\x95" + bytes(40),  # how a pickle begins
        "has no 'generator/params": content.replace(b"generator/params/", b"generator/others/"),
        "unknown variant": content.replace(b'"F32"', b'"I99"'),
    }


def test_damaged_weights_are_one_line(export, tmp_path):
    (tmp_path / "config.json").write_text((export / "config.json").read_text())
    for reason, content in damages((export / "model.safetensors").read_bytes()).items():
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=reason) as error:
            gan.load(tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="No such file"):
        gan.load(tmp_path)


def test_a_changed_byte_is_found_or_changes_nothing(export, tmp_path):
    content = (export / "model.safetensors").read_bytes()
    target = {"generator": gan.load(export).ema}
    expected = weights.flat(target)
    header = 8 + int.from_bytes(content[:8], "little")
    random = np.random.default_rng(0)
    for position in (*random.integers(0, header, 150), *random.integers(header, len(content), 50)):
        changed = bytearray(content)
        changed[position] ^= 1 << int(random.integers(8))
        (tmp_path / "model.safetensors").write_bytes(changed)
        try:
            found = weights.flat(weights.restore(tmp_path / "model.safetensors", target))
        except UserError as error:
            assert "\n" not in str(error)
            continue
        assert position < header  # a name in the metadata
        for key, leaf in expected.items():
            np.testing.assert_array_equal(found[key], leaf)


def test_weights_of_another_network_are_one_line(run, export, tmp_path):
    record = workdir.read(export)
    record["config"]["generator"]["width"] = 8
    (tmp_path / "config.json").write_text(json.dumps(record))
    (tmp_path / "model.safetensors").write_bytes((export / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"is \[.*\]; expected: \["):
        gan.load(tmp_path)


def test_nothing_of_an_earlier_export_of_another_generator_stays(run, tmp_path):
    command.export(run, tmp_path, formats=["safetensors"])
    for name in ("generator.stablehlo", "generator.onnx", "evaluation.json", "notes.txt"):
        (tmp_path / name).write_text("old")
    (tmp_path / "web").mkdir()
    command.export(run, tmp_path, formats=["safetensors"])
    left = {path.name for path in tmp_path.iterdir()} - {"evaluation.json"}  # which is written of an evaluated run
    assert left == {"README.md", "config.json", "model.safetensors", "notes.txt", "samples.png"}
    assert (tmp_path / "evaluation.json").exists() == (run / "evaluation.json").exists()


def test_weights_that_are_not_finite_are_one_line(export, tmp_path):
    (tmp_path / "config.json").write_text((export / "config.json").read_text())
    ema = gan.load(export).ema
    broken = ema.replace(params=jax.tree.map(lambda leaf: leaf * np.nan, ema.params))
    weights.save(tmp_path / "model.safetensors", {"generator": broken})
    with pytest.raises(UserError, match="holds values that are not finite"):
        gan.load(tmp_path)
