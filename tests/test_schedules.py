"""gan.schedules: values at known image counts, in and out of a compiled program, and refusals."""

import jax
import numpy as np
import pytest

from configs import default
from experiments.sweep import Experiment
from experiments.sweep.experiment import load_configs, trial_config
from gan import checks
from gan.build import make_schedules
from gan.cli import flags
from gan.config import loading
from gan.config.flattening import flatten
from gan.errors import UserError


@pytest.mark.parametrize(
    "schedule, images, expected",
    [
        ("", 1e9, 0.5),
        ("constant", 1e9, 0.5),
        ("linear(0.1, 1000)", 0, 0.5),
        ("linear(0.1, 1000)", 250, 0.4),  # 0.5 - 0.4 * 0.25
        ("linear(0.1, 1000)", 5000, 0.1),
        ("cosine(0.1, 1000)", 0, 0.5),
        ("cosine(0.1, 1000)", 500, 0.3),  # half way: the mean of both ends
        ("cosine(0.1, 1000)", 2000, 0.1),
        ("phases((100, 0.2), (200, 0.05))", 99, 0.5),
        ("phases((100, 0.2), (200, 0.05))", 100, 0.2),
        ("phases((100, 0.2), (200, 0.05))", 1e6, 0.05),
        ("warmup(1000)", 0, 0.0),
        ("warmup(1000)", 300, 0.15),
        ("warmup(1000)", 4000, 0.5),
        # A memory of t^g has the relative width sqrt((g + 1) / ((g + 2)^2 (g + 3))): sqrt(7 / (64 * 9)) for g = 6, and
        # a half-life of ln 2 / 7 of the images.
        ("power(0.11023964)", 1000, 99.02),
        ("rampup(0.01)", 10, 0.1),
        ("rampup(0.01)", 1000, 0.5),
    ],
)
def test_values(schedule, images, expected):
    config = default.get_config()
    config.generator.learning_rate = 0.5
    config.schedules.generator.learning_rate = schedule
    hyperparams = make_schedules(config)
    np.testing.assert_allclose(hyperparams(images).generator.learning_rate, expected, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(hyperparams)(images).generator.learning_rate, expected, rtol=1e-4)
    np.testing.assert_allclose(hyperparams(images).discriminator.learning_rate, 2e-4, rtol=1e-6)


@pytest.mark.parametrize(
    "schedule",
    ["linaer(0.1, 10)", "linear(0.1)", "linear(0.1, 0)", "cosine(0.1, -1)", "phases((2, 1), (1, 1))", "phases(1)",
     "linear('a', 10, 3)"],
)  # fmt: skip
def test_a_schedule_that_makes_no_sense_is_refused_in_one_line(schedule):
    config = default.get_config()
    config.schedules.generator.learning_rate = schedule
    with pytest.raises(UserError, match=r"config\.schedules\.generator\.learning_rate") as caught:
        make_schedules(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field, value",
    [
        ("generator.learning_rate", -1.0),
        ("generator.learning_rate", float("nan")),
        ("discriminator.beta1", 1.0),
        ("discriminator.beta2", -0.1),
        ("generator.epsilon", 0.0),
        ("ema_halflife", -5.0),
        ("penalties.r1", -1.0),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_in_one_line(field, value):
    config = default.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=f"config.{field}={value}; expected: "):
        make_schedules(config)


def test_a_decay_to_the_end_of_a_run_ends_with_it_however_long_it_is():
    decay = "schedules.generator.learning_rate"
    for name, changes, images in (
        ("sngan", [], 50_000 * 5 * 64),
        ("wgan_gp", [], 100_000 * 5 * 64),
        ("sngan", ["steps=1000", "batch_size=32"], 1000 * 5 * 32),
    ):
        assert flatten(loading.load(name, changes))[decay] == f"linear(0.0, {images})"
    typed, _ = flags.config_and_workdir(["--config=sngan", "--config.steps=1000", "--workdir=x"])
    assert flatten(typed)[decay] == f"linear(0.0, {1000 * 5 * 64})"
    assert loading.load("sngan", ["steps=9", f"{decay}=constant"]).schedules.generator.learning_rate == "constant"
    plan = Experiment(base="sngan", minimize="training.generator_loss", budget_images=64_000)
    _, config = load_configs(plan)
    assert flatten(trial_config(plan, config, {}, seed=0))[decay] == "linear(0.0, 64000)"


def test_the_rates_of_fast_mnist_fall_until_the_last_step_whatever_its_number():
    for changes, images in (([], 1500 * 64), (["steps=100"], 100 * 64), (["steps=100", "batch_size=128"], 100 * 128)):
        config = loading.load("fast_mnist", changes)
        schedules = make_schedules(config)
        for player, first in (("generator", 4e-3), ("discriminator", 2e-3)):
            rates = [float(getattr(schedules(seen), player).learning_rate) for seen in (0, images / 2, images - 64)]
            np.testing.assert_allclose(rates[:2], [first, (first + 5e-4) / 2], rtol=1e-4)  # half way: the mean of both
            assert 5e-4 < rates[2] < rates[1]
        np.testing.assert_allclose(float(schedules(images).discriminator.learning_rate), 5e-4, rtol=1e-4)
        assert float(schedules(images).penalties["r1"]) > 0  # what keeps D from winning


@pytest.mark.parametrize("horizon", ["minute", "five_minutes"])
def test_the_halflife_of_fast_mnist_is_a_twentieth_of_the_images_seen_until_its_last_step(horizon):
    config = loading.load(f"fast_mnist:{horizon}", [])
    schedules, last = make_schedules(config), config.steps * config.batch_size
    for seen in (64, last / 2, last):
        np.testing.assert_allclose(float(schedules(seen).ema_halflife), seen / 20, rtol=1e-6)
    np.testing.assert_allclose(float(schedules(1e6).ema_halflife), config.ema_halflife)  # a longer run reaches it


def test_a_learning_rate_that_is_zero_before_the_end_is_warned_of():
    def warnings(*changes):
        config = loading.load("dcgan", ["steps=100", *changes])
        return checks.warnings_on_schedules(config, make_schedules(config))

    decay = "schedules.discriminator.learning_rate"
    # 64 images a step: zero at 4,000 images is step 63 (4,032), and step 62 (3,968) is the last with a rate.
    (line,) = warnings(f"{decay}=linear(0.0, 4000)")
    assert line.startswith("config.discriminator.learning_rate is 0 from step 63 of 100 on, by its schedule 'linear(")
    assert not warnings(f"{decay}=linear(0.0, 6400)")  # as the shipped ones: zero at the end
    assert not warnings(f"{decay}=cosine(1e-5, 640)")


def test_a_wrong_call_shows_how_it_is_written():
    for text, line in (
        ("linear(0.0)", "missing a required argument: 'images_to_end'; expected: linear(end, images_to_end)"),
        ("phases(images=3)", "expected: phases(changes, ...)"),
    ):
        with pytest.raises(UserError) as error:
            make_schedules(loading.load("dcgan", [f"schedules.top_k={text}"]))
        assert str(error.value).endswith(line)
