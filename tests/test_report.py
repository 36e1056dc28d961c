"""gan.io.writer, gan.io.plots and gan.train.diagnostics: every step is written once, grids are exact, one warning."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from gan.io import atomic, plots, writer
from gan.train.diagnostics import CHANCE_WINDOW, WINDOW, Diagnostics, diversity

METRICS = {"discriminator_loss": 1.0, "generator_loss": 2.0, "images_per_second": 3.0, "seconds_per_step": 0.1,
           "share_waiting_for_data": 0.0}  # fmt: skip


def test_a_resumed_run_removes_what_was_written_after_its_step(tmp_path):
    first = writer.RunWriter(tmp_path, step=0, total=10)
    for step in (2, 4, 6):
        first.metrics(step, METRICS)
    first.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "ima')  # a process that was killed while writing
    resumed = writer.RunWriter(tmp_path, step=4, total=10)
    resumed.metrics(6, METRICS)
    resumed.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [2, 4, 6]
    assert (tmp_path / "losses.png").stat().st_size > 1000


def test_nothing_of_an_abandoned_history_stays(tmp_path):
    for folder in ("samples", "best/4", "best/12"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("samples/00000004.png", "samples/00000012.png", "training.gif", "losses.png"):
        (tmp_path / name).write_bytes(b"")
    lines = [json.dumps({"step": step, "seconds": seconds}) + "\n" for step, seconds in ((4, 60.0), (8, 90.0))]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    resumed = writer.RunWriter(tmp_path, step=4, total=16)
    assert resumed.seconds == 60.0  # this launch counts on from here
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if "tensorboard" not in str(path))
    assert left == ["best", "best/4", "metrics.jsonl", "samples", "samples/00000004.png"]
    assert (tmp_path / "metrics.jsonl").read_text() == lines[0]
    resumed.close()


def test_a_grid_has_every_image_in_reading_order():
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 8, 1), np.uint8)
    sheet = plots.grid(images)
    # Six images of 4x8: columns = ceil(sqrt(6 * 4 / 8)) = 2, rows 3; each with a line of one pixel.
    assert sheet.shape == (3 * 5 + 1, 2 * 9 + 1, 1)
    for index in range(6):
        top, left = index // 2 * 5 + 1, index % 2 * 9 + 1
        np.testing.assert_array_equal(sheet[top : top + 4, left : left + 8], images[index])
    assert (sheet[0] == 128).all()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "record.json"
    atomic.write_json(path, {"step": 1})
    with pytest.raises(KeyError), atomic.replacing(path) as tmp:
        tmp.write_text('{"st')
        assert json.loads(path.read_text()) == {"step": 1}
        raise KeyError
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]
    with atomic.replacing(path) as one, atomic.replacing(path) as other:  # two writers do not disturb each other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"


def test_color_and_gray_grids_are_written_as_png(tmp_path):
    for channels, mode in ((1, "L"), (3, "RGB")):
        plots.save_png(tmp_path / "grid.png", np.zeros((10, 10, channels), np.uint8))
        assert Image.open(tmp_path / "grid.png").mode == mode


def test_an_animation_shows_few_small_frames_the_first_and_the_last_among_them(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "MAX_FRAMES", 3)
    (tmp_path / "samples").mkdir()
    for step in range(6):
        image = np.full((1280, 1000, 1), 40 * step, np.uint8)
        image[-1, -1] = 255  # of one color it would be reduced to few pixels
        plots.save_png(tmp_path / "samples" / f"{step:08d}.png", image)
    plots.draw_animation(tmp_path)
    with Image.open(tmp_path / "training.gif") as animation:
        assert animation.size == (500, 640)
        shown = []
        for frame in range(animation.n_frames):
            animation.seek(frame)
            shown.append(animation.convert("L").getpixel((0, 0)))
    assert shown == [0, 80, 200]  # 0, 2 = floor(5 / 2), 5


HEALTHY = {"discriminator_gradient_norm": 1.0, "generator_gradient_norm": 0.1,
           "discriminator_relative_update": 2e-3, "generator_relative_update": 1e-3}  # fmt: skip


def observe(diagnostics, real, fake, losses, times=WINDOW, **changes):
    for step in range(times):
        d, g = losses(step)
        logged = {"discriminator_real": real, "discriminator_fake": fake, "discriminator_loss": d, "generator_loss": g}
        diagnostics.observe_metrics(step, HEALTHY | logged | changes)


def moving(step):
    return 1.0 + 0.1 * step, 0.9 - 0.01 * step


REAL = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1)).astype(np.uint8)


def test_a_saturated_discriminator_is_reported_once(caplog):
    diagnostics = Diagnostics(REAL)
    observe(diagnostics, 0.999, 0.001, lambda step: (0.1 / (step + 1), 5 + step), times=2 * WINDOW)
    assert caplog.text.count("D is saturated") == 1


def test_constant_losses_are_reported(caplog):
    observe(Diagnostics(REAL), 0.5, 0.5, lambda step: (1.386, 0.693))
    assert "both losses are constant" in caplog.text


def test_a_healthy_run_has_no_warning(caplog):
    diagnostics = Diagnostics(REAL)
    observe(diagnostics, 0.7, 0.3, lambda step: (1.0 + 0.1 * step, 0.9 - 0.1 * step), times=20)
    for step in range(5):
        diagnostics.observe_samples(step, REAL)
    assert caplog.text == ""


DEAD = (
    # The published case: StyleGAN2 with spectral norm, D 1.386, G 0.693, for ever.
    ({"real": 0.50001, "fake": 0.49999, "generator_gradient_norm": 2e-5, "times": CHANCE_WINDOW}, "D is at chance"),
    ({"generator_gradient_norm": 1e-9, "generator_relative_update": 0.0}, "G's gradient vanishes (1e-09)"),
    ({"discriminator_gradient_norm": 0.0, "discriminator_relative_update": 0.0}, "D's gradient vanishes (0)"),
    ({"generator_relative_update": 0.0}, "G's weights do not change.*Raise config.generator.learning_rate"),
    ({"generator_relative_update": np.array([1e-3, 1.6e6, 1e-3]), "times": 1}, "G's update was 1.6e.06 times as large"),
    ({"discriminator_relative_update": 5.0, "times": 1}, "Lower config.discriminator.learning_rate and start again"),
)


@pytest.mark.parametrize("changes, line", DEAD)
def test_what_is_broken_is_named_once(caplog, changes, line):
    observe(Diagnostics(REAL), **{"real": 0.7, "fake": 0.3, "losses": moving} | changes)
    assert len(caplog.records) == 1
    assert re.search(line.replace("(", "[(]").replace(")", "[)]"), caplog.text)


def test_a_generator_that_has_overshot_is_not_answered_by_slowing_the_discriminator(caplog):
    diagnostics = Diagnostics(REAL)
    observe(diagnostics, 0.7, 0.3, moving, times=1, generator_relative_update=1e6)
    dead = {"generator_gradient_norm": 0.0, "generator_relative_update": 0.0}
    observe(diagnostics, 0.999, 0.001, moving, **dead)
    assert "lower D's rate" not in caplog.text
    assert "D is saturated" in caplog.text and "lower G's and start again" in caplog.text
    assert "its weights are out of range: lower its learning rate" in caplog.text


def test_clipped_weights_a_short_time_at_chance_and_convergence_are_no_failure(caplog):
    flat = {"generator_gradient_norm": 2e-5}
    observe(Diagnostics(REAL, clips_weights=True), 0.5, 0.5, moving, times=2 * CHANCE_WINDOW, **flat)
    observe(Diagnostics(REAL), 0.5, 0.5, moving, times=CHANCE_WINDOW - 1, **flat)
    observe(Diagnostics(REAL), 0.5007, 0.4996, moving, times=2 * CHANCE_WINDOW)  # a converged game: configs/toy.py
    assert caplog.text == ""


def test_a_saturated_output_is_reported_where_real_images_are_not_black_and_white(caplog):
    saturated = np.where(REAL > 127, 255, 0).astype(np.uint8)
    Diagnostics(saturated).observe_samples(1, saturated)
    Diagnostics(REAL.astype(np.float32)).observe_samples(1, REAL.astype(np.float32))  # points
    assert caplog.text == ""
    Diagnostics(REAL).observe_samples(1, saturated)
    assert "G's output is saturated: 100% of the values of samples are black or white, 1% of" in caplog.text


def test_a_collapse_is_reported_when_diversity_is_lost(caplog):
    diagnostics = Diagnostics(REAL)
    alike = np.repeat(REAL[:1], 64, axis=0)
    assert diagnostics.observe_samples(0, alike) == 0.0
    assert caplog.text == ""  # not yet: an untrained generator draws one blur
    assert diagnostics.observe_samples(1, REAL) == 1.0
    diagnostics.observe_samples(2, alike)
    assert "nearly identical, 0% of the diversity" in caplog.text


def test_diversity_is_the_standard_deviation_over_images():
    # Half black, half white: standard deviation 127.5 in every pixel.
    images = np.repeat(np.uint8([0, 255]), 3)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    assert diversity(images) == 127.5
