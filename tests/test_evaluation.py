"""gan.evaluation: metrics of a run, of real images and of damaged ones; the best checkpoint; what is rejected."""

import json
import re
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from gan import data
from gan.errors import UserError
from gan.evaluation import command, memorization, reference, warnings
from gan.evaluation import evaluator as evaluators
from gan.evaluation.options import evaluation_options
from gan.inference import model, sampling
from gan.io import plots
from gan.parallel import sharding
from gan.train import loop

EVALUATION = {"evaluation.num_samples": 200, "evaluate_every": 4}


def create(config):
    return evaluators.create(evaluation_options(config), seed=0)


@pytest.fixture(scope="module")
def digits():
    """The evaluator of the digits at 8x8, and the real images with their labels."""
    config = runs.config(**{**EVALUATION, "evaluation.num_samples": 600})
    evaluator = create(config)
    images, labels = data.open_dataset(config.data).arrays()
    return evaluator, np.asarray(images), np.asarray(labels)


def test_real_images_have_better_metrics_than_noise(digits):
    evaluator, images, labels = digits
    baseline = evaluator.real_baseline()
    noise = np.random.default_rng(0).integers(0, 256, images[:600].shape, dtype=np.uint8)
    noise_metrics = evaluator.compute_from_images(noise, labels[:600])
    assert baseline["fd_classifier"] < 0.05 * noise_metrics["fd_classifier"]
    assert baseline["modes"] == 10 and baseline["precision"] > 0.95 and noise_metrics["precision"] < 0.2
    assert abs(baseline["kd_classifier"]) < 0.05 * noise_metrics["kd_classifier"]


@pytest.mark.parametrize("metrics, computed", [(("frechet",), 200), (("frechet", "memorization"), 1797)])
def test_features_of_all_training_images_are_computed_only_for_a_search(metrics, computed, monkeypatch):
    found = []

    def count(extractor, dataset, rows):
        found.append(len(rows))
        return reference.cached_features(extractor, dataset, rows)

    monkeypatch.setattr(memorization, "cached_features", count)
    create(runs.config(**EVALUATION | {"evaluation.metrics": metrics})).real_baseline()
    assert found == [computed]


def test_shuffled_pixels_increase_the_distance(digits):
    evaluator, images, labels = digits
    part = images[:600]
    order = np.random.default_rng(0).permutation(part[0].size)
    shuffled = part.reshape(len(part), -1)[:, order].reshape(part.shape)
    assert (
        evaluator.compute_from_images(shuffled, labels[:600])["fd_classifier"]
        > 10 * evaluator.compute_from_images(part, labels[:600])["fd_classifier"]
    )


def test_a_missing_class_and_a_single_repeated_image_are_detected(digits):
    evaluator, images, labels = digits
    whole = evaluator.compute_from_images(images[:600], labels[:600])
    without = evaluator.compute_from_images(images[labels != 3][:600], labels[labels != 3][:600])
    assert whole["modes"] == 10
    assert without["coverage"] < whole["coverage"] - 0.05 and without["reverse_kl"] > whole["reverse_kl"] + 0.02
    repeated = evaluator.compute_from_images(np.repeat(images[:1], 600, axis=0), labels[:600])
    assert repeated["modes"] == 1 and repeated["coverage"] < 0.1 and repeated["recall"] < 0.1
    np.testing.assert_allclose(
        repeated["reverse_kl"], np.log(10), rtol=0.05
    )  # all in one of ten equally frequent classes


def test_copies_of_training_images_are_distinguished_from_new_images(monkeypatch):
    monkeypatch.setattr(memorization, "BATCH", 300)  # a thousand training images in four batches
    held_out = {"data.split": "train[:1000]", "evaluation.split": "train[1000:1400]"}
    config = runs.config(**EVALUATION, **held_out, **{"evaluation.extractor": "pixels"})
    evaluator = create(config)
    training, fresh = (data.open_dataset(config.data, split).arrays() for split in (None, "train[1400:]"))
    copied = evaluator.compute_from_images(training[0][650:950], training[1][650:950])
    assert copied["nearest_training_ratio"] == 0.0 and copied["near_copies"] == 1.0
    np.testing.assert_array_equal(np.sort(copied.pairs.samples + 650), np.sort(copied.pairs.training))
    new = evaluator.compute_from_images(*fresh)
    np.testing.assert_allclose(new["nearest_training_ratio"], 1.0, atol=0.1)
    assert new["near_copies"] < 0.04  # 1% is expected, of 397
    half = [np.concatenate([old[:150], other[:150]]) for old, other in zip(training, fresh, strict=True)]
    mixed = evaluator.compute_from_images(*half)
    assert mixed["near_copies"] == pytest.approx(0.5, abs=0.02) and mixed["nearest_training_ratio"] > 0.0
    lines = [[line for line in found.warnings if "near copies" in line] for found in (copied, mixed, new)]
    assert [len(found) for found in lines] == [1, 1, 0] and "50" in lines[1][0] and "held-out" in lines[1][0]
    protocol = evaluator.protocol()["memorization"]
    assert (protocol["training_images"], protocol["held_out_images"], protocol["quantile"]) == (1000, 400, 0.01)
    assert protocol["held_out_near_copies"] == pytest.approx(0.01, abs=0.003) and protocol["near_copy_distance"] > 0
    # Where the reference is the training split, its images are at distance 0 from themselves.
    config.evaluation.split = "train[:1000]"
    evaluator = create(config)
    assert not {"nearest_training_ratio", "near_copies"} & set(evaluator.compute_from_images(*fresh))
    assert evaluator.protocol()["memorization"]["left_out"] == "the reference images are training images"


def test_authenticity_is_low_for_copies_and_that_of_held_out_images_for_new_ones():
    config = runs.config(**EVALUATION, **{"data.split": "train[:1000]", "evaluation.split": "train[1000:1400]",
        "evaluation.extractor": "pixels", "evaluation.metrics": ("authenticity",)})  # fmt: skip
    evaluator = create(config)
    training, fresh = (data.open_dataset(config.data, split).arrays() for split in (None, "train[1400:]"))
    noise = np.random.default_rng(0).integers(-2, 3, training[0][:300].shape)
    noisy = np.clip(training[0][:300] + noise, 0, 255).astype(np.uint8)
    half = np.concatenate([training[0][:150], fresh[0][:150]])
    found = [
        evaluator.compute_from_images(images, np.zeros(len(images), np.int32))["authenticity"]
        for images in (training[0][:300], noisy, half, fresh[0])
    ]
    expected = evaluator.protocol()["authenticity"]["held_out_authenticity"]
    assert 0.4 < expected < 0.9
    assert found[0] == 0.0 and found[1] < 0.02  # copies, and noise that moves no image as far as another one is
    assert found[2] == pytest.approx(expected / 2, abs=0.06) and found[3] == pytest.approx(expected, abs=0.08)
    assert "authenticity" not in evaluator.real_baseline()  # which are training images
    # The definition, with all distances: d(x, y) > d(y, y') for y nearest to x, and y' nearest to y.
    x, y = (np.asarray(part).reshape(len(part), -1) / 255.0 for part in (fresh[0], training[0]))
    between, within = (np.sqrt(np.square(a[:, None] - y[None]).sum(axis=-1)) for a in (x, y))
    np.fill_diagonal(within, np.inf)
    nearest = between.argmin(axis=1)
    authentic = between.min(axis=1) > within.min(axis=1)[nearest]
    assert found[3] == pytest.approx(np.mean(authentic), abs=0.01)  # of 397; pixels of 17 values have equal distances
    config.evaluation.split = "train[:1000]"  # no image is held out
    protocol = create(config).protocol()["authenticity"]
    assert protocol == {"training_images": 1000, "held_out_left_out": "the reference images are training images"}


NEW = ("frechet", "kernel", "prdc", "inception_score", "mode_coverage", "frechet_infinity", "mind", "vendi")


def test_every_metric_has_an_error_bar(digits):
    _, images, labels = digits
    noise = np.random.default_rng(0).integers(-60, 61, images.shape)
    images = np.clip(images + noise, 0, 255).astype(np.uint8)
    config = runs.config(**EVALUATION, **{"evaluation.error_bars": 20, "evaluation.metrics": NEW})
    evaluator = create(config)
    found = evaluator.compute_from_images(images[:400], labels[:400])
    names = [name for name in found if not name.endswith("_std")]
    assert [name for name in found if name.endswith("_sampling_std")] == [f"{name}_sampling_std" for name in names]
    assert {"infinity_fd_classifier", "mind_classifier", "vendi_classifier", "recall", "modes"} <= set(names)
    assert all(found[f"{name}_sampling_std"] > 0 for name in names if name != "modes")  # of ten, all are found
    assert found["modes_sampling_std"] == 0.0
    # Precision is a mean of zeros and ones: sqrt(p (1 - p) / 400), and 20 halves know it to a sixth.
    expected = np.sqrt(found["precision"] * (1 - found["precision"]) / 400)
    assert found["precision_sampling_std"] == pytest.approx(expected, rel=0.5)
    shown = evaluators.describe(found)
    assert "± " in shown and "_sampling_std" not in shown
    protocol = evaluator.protocol()
    assert "20 random halves" in protocol["error_bars"] and {"mind", "vendi", "frechet_infinity"} <= set(protocol)
    baseline = evaluator.real_baseline()
    assert set(baseline) == set(found)
    # The same values without error bars, which are left out of few samples.
    config.evaluation.error_bars = 0
    plain = create(config)
    assert plain.compute_from_images(images[:400], labels[:400]) == {
        name: value for name, value in found.items() if not name.endswith("_sampling_std")
    }
    assert "error_bars" not in plain.protocol()
    few = evaluator.compute_from_images(images[:90], labels[:90])
    assert not any(name.endswith("_sampling_std") for name in few)
    assert any("error bars: left out" in line for line in few.warnings)
    assert any("infinity_fd: 90 samples for 128 features" in line for line in few.warnings)


def test_a_dropped_mode_and_copies_lower_the_vendi_score_and_points_have_error_bars(digits):
    _, images, labels = digits
    config = runs.config(**EVALUATION, **{"evaluation.metrics": ("vendi",)})
    evaluator = create(config)
    scores = [
        evaluator.compute_from_images(part, np.zeros(len(part), np.int32))["vendi_classifier"]
        for part in (images[labels < 10][:600], images[labels < 8][:600], images[labels < 2][:600], images[[0] * 600])
    ]
    assert scores == sorted(scores, reverse=True) and scores[-1] == pytest.approx(1)
    points = create(runs.config(**{"data.name": "ring8", "data.image_size": (), "evaluation.num_samples": 500,
                                   "evaluation.error_bars": 10}))  # fmt: skip
    found = points.real_baseline()
    assert found["sliced_wasserstein_sampling_std"] > 0 and found["modes_sampling_std"] == 0
    assert "10 random halves" in points.protocol()["error_bars"]


def test_near_copies_are_shown_beside_their_training_images():
    images = np.arange(4 * 2 * 8 * 8, dtype=np.uint8).reshape(4, 2, 8, 8, 1)
    marked = np.array([True, False, True, False])
    picture = plots.draw_pairs(images, marked, "Two of these are near copies.")
    red = (picture == plots.MARK).all(axis=-1)
    # A pair of 16 x 8 pixels with lines of one pixel around it is 18 x 10, and has 2 * (18 + 8) = 52 pixels of lines.
    scale = picture.shape[1] // (18 * 2)
    assert red.sum() == 2 * 52 * scale**2
    assert (picture[:10] < 100).any() and (picture[:2] == 255).all()  # a caption on white
    clear = plots.draw_pairs(images, ~marked & marked, "None.")
    assert not (clear == plots.MARK).all(axis=-1).any()


def test_a_picture_shows_the_samples_that_were_compared(monkeypatch):
    given = EVALUATION | {"data.split": "train[:1000]", "evaluation.split": "train[1000:]",
                          "evaluation.extractor": "pixels", "evaluation.metrics": ("memorization",)}  # fmt: skip
    evaluator = create(runs.config(**given))
    images, labels = map(np.asarray, data.open_dataset(runs.config(**given).data).arrays())

    def draw(game, ema, *, rows=None, **_):
        rows = np.arange(200) if rows is None else rows
        return [{"image": images[::-1][rows], "label": labels[::-1][rows]}]  # sample i is training image 999 - i

    monkeypatch.setattr(sampling, "draw", draw)
    game = SimpleNamespace(is_conditional=False)
    metrics = evaluator.compute(game, None)
    np.testing.assert_array_equal(metrics.pairs.training, 999 - metrics.pairs.samples)
    shown = []
    monkeypatch.setattr(plots, "draw_pairs", lambda *given: shown.append(given))
    evaluator.nearest_training_images(game, None, metrics.pairs)
    pairs, marked, caption = shown[0]
    np.testing.assert_array_equal(pairs[:, 0], pairs[:, 1])
    assert len(pairs) == 64 and marked.all()
    assert "nearest of 1,000 training images" in caption and "100.0% of 200 samples are near copies" in caption


def test_wrong_labels_increase_the_intra_class_distance():
    config = runs.config(**EVALUATION, **{"data.split": "train[:1000]", "evaluation.split": "train[1000:]",
        "evaluation.extractor": "pixels", "evaluation.metrics": ("frechet", "intra_class"),
        "generator.conditioning": "embedding"})  # fmt: skip
    evaluator = create(config)
    images, labels = map(np.asarray, data.open_dataset(config.data).arrays())
    right, wrong = (
        evaluator.compute_from_images(images, labels),
        evaluator.compute_from_images(images, (labels + 1) % 10),
    )
    assert wrong["fd_pixels"] == right["fd_pixels"]
    assert wrong["intra_fd_pixels"] > 2 * right["intra_fd_pixels"]


def test_a_conditional_generator_is_given_the_training_data_s_labels(monkeypatch):
    """The first 1000 digits have 105, 97, 93, 107, 100, 102, 103, 95, 99 and 99 of each class."""
    given = EVALUATION | {"data.split": "train[:1000]", "evaluation.split": "train[1000:]",
                          "evaluation.num_samples": 1000, "evaluation.extractor": "pixels",
                          "evaluation.metrics": ("frechet",)}  # fmt: skip
    evaluator = create(runs.config(**given))
    images, labels = data.open_dataset(runs.config(**given).data).arrays()
    asked = []

    def draw(game, ema, *, labels, **_):
        asked.append(np.bincount(labels, minlength=10) if len(labels) else "default")
        return [{"image": images, "label": labels}]

    monkeypatch.setattr(sampling, "draw", draw)
    metrics = [evaluator.compute(SimpleNamespace(is_conditional=value), None) for value in (True, False)]
    assert metrics[0] == metrics[1] == evaluator.compute_from_images(images, labels)
    np.testing.assert_array_equal(asked[0], np.bincount(labels))
    assert asked[0][7] == 95 and asked[1] == "default"


def test_a_run_records_its_metrics_and_its_best_checkpoint(tmp_path):
    assert runs.train(tmp_path, **EVALUATION) == 0
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    best = min(lines, key=lambda line: line["fd_classifier"])
    assert model.load(tmp_path, checkpoint="best").step == best["step"]

    command.evaluate(tmp_path, count=None, seed=0)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["checkpoints"]["last"]["step"] == 12
    assert record["checkpoints"]["best"]["metrics"]["fd_classifier"] == pytest.approx(
        best["fd_classifier"], rel=1e-6
    )  # the same seed, the same samples
    protocol = record["protocol"]
    assert protocol["extractor"] == "classifier" and protocol["num_samples"] == 200
    assert protocol["classifier_test_accuracy"] > 0.5
    assert (tmp_path / "nearest_last.png").exists()
    assert record["real_training_images_warnings"] == []
    assert list(record["checkpoints"]["last"]) == ["step", "metrics", "warnings", "seconds"]
    assert record["real_training_images"]["fd_classifier"] < best["fd_classifier"]


def test_a_run_without_a_checkpoint_or_with_other_data_is_rejected_in_one_line(tmp_path):
    runs.begin(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    record["dataset"]["fingerprint"] = "0" * 8
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="checkpoints/4 is of another run than .*: data with the fingerprint"):
        command.evaluate(tmp_path, count=100, seed=0)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        command.evaluate(tmp_path, count=100, seed=0)


@pytest.mark.slow
def test_an_interrupted_run_has_the_same_metrics(tmp_path):
    runs.train(tmp_path / "whole", **EVALUATION)
    runs.train(tmp_path / "parts", **EVALUATION, steps=8)
    runs.train(tmp_path / "parts", **EVALUATION)
    whole, parts = ((tmp_path / name / "evaluations.jsonl").read_text() for name in ("whole", "parts"))
    assert whole == parts
    best = [model.load(tmp_path / name, checkpoint="best").step for name in ("whole", "parts")]
    assert best[0] == best[1]


def test_samples_are_sharded_over_devices_and_independent_of_the_batch_size(tmp_path):
    runs.begin(tmp_path)
    loaded = model.load(tmp_path)
    game, ema = loaded.game, loaded.ema
    assert sharding.device_mesh().size == 4

    def drawn(batch_size):
        batches = list(sampling.draw(game, ema, seed=5, count=22, batch_size=batch_size))
        return np.concatenate([batch["image"] for batch in batches])

    whole, parts = drawn(22), drawn(6)  # 24 and 8 at a time: multiples of the devices
    assert whole.shape == (22, 8, 8, 1)
    # Another batch size compiles another function: equal up to float rounding, at most 1 of 255.
    assert np.abs(whole.astype(int) - parts.astype(int)).max() <= 1
    rows = jax.device_put(np.arange(8, dtype=np.uint32), sharding.split_rows(sharding.device_mesh(), 0))
    image, _ = sampling._samples(ema, rows, jnp.zeros_like(rows, jnp.int32), jnp.uint32(5), None, game=game)
    assert len({shard.device for shard in image.addressable_shards}) == 4
    assert image.addressable_shards[0].data.shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
    "overrides, line",
    [
        ({"evaluation.metrics": ("fid",)}, "config.evaluation.metrics: 'fid' is unknown.*expected: frechet"),
        ({"evaluation.metrics": ("intra_class",)}, "'intra_class' needs samples of a given class.*concat, embedding"),
        ({"evaluation.error_bars": 1}, "config.evaluation.error_bars=1; expected: 2 or more, or 0 for no error bars"),
        ({"evaluation.error_bars": -5}, "config.evaluation.error_bars=-5; expected"),
        ({"evaluation.num_samples": 3}, "config.evaluation.num_samples=3 is too few; expected: 10 or more"),
        ({"evaluation.reference_samples": 4}, "give 4 images to compare with; expected: 10 or more"),
        ({"evaluation.extractor": "incepton"}, "config.evaluation.extractor='incepton'.*nearest: 'inception'"),
        ({"evaluation.extractor": "inception(size=3)"}, "config.evaluation.extractor='inception.size=3.'.*resize"),
        ({"evaluation.extractor": "pixels", "data.name": "ring8"}, "'pixels' has no meaning for points in the plane"),
        ({"evaluation.split": "testt"}, "config.evaluation.split='testt' is not a split of digits"),
        (
            {"evaluation.extractor": "pixels", "data.image_size": (640, 640), "evaluation.num_samples": 5000},
            "'pixels' has 409,600 features of an image.*5,000 images; expected: classifier or inception, or up to 2,6",
        ),
    ],
)
def test_invalid_options_are_rejected(overrides, line):
    with pytest.raises(UserError, match=line) as caught:
        create(runs.config(**EVALUATION | overrides))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides, line",
    [
        ({"evaluation.metrics": ("frechet,kernel",)}, "config.evaluation.metrics: 'frechet,kernel' is unknown"),
        ({"evaluation.extractor": "clip"}, "config.evaluation.extractor='clip' is unknown.*expected: .*inception"),
        ({"evaluation.split": "testt"}, "config.evaluation.split='testt' is not a split of digits"),
    ],
)
@pytest.mark.parametrize("evaluate_every", [0, 4])
def test_a_run_with_an_evaluation_that_cannot_be_does_not_start(tmp_path, monkeypatch, overrides, line, evaluate_every):
    monkeypatch.setattr(loop, "find_run", None)  # which compiles
    with pytest.raises(UserError, match=line):
        runs.train(tmp_path / "run", evaluate_every=evaluate_every, **overrides)


def test_the_command_checks_its_options_before_anything_slow(tmp_path, monkeypatch):
    runs.begin(tmp_path)
    monkeypatch.setattr(command, "load", None)
    for given, line in (({"extractor": "clip"}, "--extractor='clip' is unknown"), ({"count": 3}, "--num_samples=3 is")):
        with pytest.raises(UserError, match=line):
            command.evaluate(tmp_path, **{"count": None, "seed": 0} | given)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"split": "test"', '"split": "testt"'))
    with pytest.raises(UserError, match="config.evaluation.split='testt' is not a split of digits"):
        command.evaluate(tmp_path, count=None, seed=0)


def test_collapsed_copied_and_few_samples_are_flagged_beside_their_metrics(digits):
    evaluator, images, labels = digits
    order = np.random.default_rng(1).permutation(len(images))[:600]
    images, labels = images[order], labels[order]
    whole = evaluator.compute_from_images(images, labels)
    assert whole.warnings == () and "WARNING" not in evaluators.describe(whole)
    collapsed = evaluator.compute_from_images(np.repeat(images[:1], 600, axis=0), labels)
    assert collapsed["precision"] == 1.0  # of a constant set, a perfect one
    for line in ("samples hardly vary", "600 samples, 1 of them distinct", "collapsed generator"):
        assert any(line in warning for warning in collapsed.warnings), collapsed.warnings
        assert line in evaluators.describe(collapsed)
    few = evaluator.compute_from_images(images[:10], labels[:10])
    for line in (
        "10 samples are too few.*recall",
        "inception score: 10 splits of 1 samples",
        "10 samples for 10 modes",
    ):
        assert any(re.search(line, warning) for warning in few.warnings), few.warnings
    copied = evaluator.compute_from_images(np.repeat(images[:300], 2, axis=0), np.repeat(labels[:300], 2))
    assert any("600 samples, 300 of them distinct" in warning for warning in copied.warnings)


@pytest.mark.parametrize(
    "found, expected",
    [
        (warnings.of_copies(0.05, 10_000, 0.01, 10_000), True), (warnings.of_copies(0.03, 10_000, 0.01, 10_000), False),
        (warnings.of_copies(0.05, 200, 0.01, 300), False), (warnings.of_copies(0.1, 200, 0.01, 300), True),
        (warnings.of_infinity(1024, 128), False), (warnings.of_infinity(1023, 128), True),
        (warnings.of_halves(100), False), (warnings.of_halves(99), True),
        (warnings.of_score(500, 10), False), (warnings.of_score(90, 10), True), (warnings.of_score(9, 2), True),
        (warnings.of_modes(80, 8), False), (warnings.of_modes(79, 8), True),
        (warnings.of_precision({"precision": 1.0, "density": 5.0, "recall": 0.0, "coverage": 0.01}), True),
        (warnings.of_precision({"precision": 0.9, "density": 1.0, "recall": 0.5, "coverage": 0.01}), False),
        (warnings.of_precision({"precision": 0.1, "density": 0.1, "recall": 0.0, "coverage": 0.0}), False),
        (warnings.of_classes(np.repeat([0, 1], [5, 3]), 3), True),
        (warnings.of_classes(np.repeat([0, 1], [5, 4]), 3), False),
        (warnings.of_sets(np.arange(200.0).reshape(100, 2), np.arange(200.0).reshape(100, 2)), False),
        (warnings.of_sets(np.arange(198.0).reshape(99, 2), np.arange(200.0).reshape(100, 2)), True),
        (warnings.of_sets(np.arange(200.0).reshape(100, 2), np.ones((100, 2))), True),
    ],
)  # fmt: skip
def test_each_warning_has_its_bound(found, expected):
    assert bool(list(found)) == expected


def test_streamed_features_have_the_metrics_of_the_whole(digits):
    evaluator, images, labels = digits
    whole = evaluator.compute_from_images(images[:600], labels[:600])
    parts = [(evaluator._extractor.features(images[k : k + 150]), labels[k : k + 150]) for k in range(0, 600, 150)]
    streamed = evaluator._compute(parts)
    assert list(streamed) == list(whole)
    np.testing.assert_allclose(list(streamed.values()), list(whole.values()), rtol=1e-5, atol=1e-6)
