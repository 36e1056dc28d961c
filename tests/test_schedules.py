"""gan.schedules: values at known image counts, in and out of a compiled program, and refusals."""

import jax
import numpy as np
import pytest

from configs import default
from gan.build import make_schedules
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
