"""gan.train.population: members are the runs that they would have been alone, in folders of their own."""

import functools
import json
import signal
import time

import jax
import numpy as np
import pytest
import runs

from gan.errors import UserError
from gan.inference.model import load
from gan.io import checkpoint
from gan.parallel import sharding
from gan.train import population

CHANGES = [
    {"seed": 0},
    {"seed": 1, "generator.learning_rate": 1e-3},
    {"seed": 2, "discriminator.beta1": 0.0},
    {"seed": 2, "schedules.generator.learning_rate": "linear(0, 100)", "ema_halflife": 50.0},
]
ALONE = {"steps": 8, "log_every": 4, "checkpoint_every": 4}


def statuses(*arguments):
    """How a population's members end."""
    return [end.status for end in population.train(*arguments)]


def configs(changes=tuple(CHANGES), **overrides):
    return [runs.config(**ALONE | overrides | change) for change in changes]


def folders(path, count=4):
    return [path / f"member{number}" for number in range(count)]


def metrics_of(folder):
    """What a run logged, without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "images_per_second", "seconds_per_step", "share_waiting_for_data")
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def check_same_run(folder, other):
    """Equal but for the order of sums: a step of Adam follows a gradient's sign, and magnifies what is near zero."""
    ours, theirs = metrics_of(folder), metrics_of(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for line, their in zip(ours, theirs, strict=True):
        assert line.keys() == their.keys()
        np.testing.assert_allclose(list(line.values()), list(their.values()), rtol=2e-3, atol=1e-5)
    check_same_end(folder, other)


def check_same_end(folder, other):
    ours, theirs = load(folder), load(other)
    assert ours.step == theirs.step
    for leaf, their in zip(jax.tree.leaves(ours.ema), jax.tree.leaves(theirs.ema), strict=True):
        np.testing.assert_allclose(leaf, their, rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of each member's run, by itself, which is trained when it is asked for."""
    path = tmp_path_factory.mktemp("alone")

    @functools.cache
    def trained(number):
        assert runs.train(folders(path)[number], **ALONE | CHANGES[number]) == 0
        return folders(path)[number]

    return trained


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """All of them in one population, a member on each of the four devices."""
    path = tmp_path_factory.mktemp("together")
    assert sharding.device_mesh().size == len(CHANGES)
    assert statuses(configs(), folders(path), time.monotonic()) == [0] * 4
    return path


@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_a_member_is_the_run_that_it_would_have_been_alone(alone, together, number):
    check_same_run(folders(together)[number], alone(number))


def test_members_differ(together):
    losses = [metrics_of(folder)[-1]["generator_loss"] for folder in folders(together)]
    assert len(set(losses)) == len(CHANGES)


@pytest.mark.slow
def test_a_run_begun_alone_goes_on_among_others_that_are_further_and_those_that_are_done(alone, tmp_path):
    # Member 0 was at step 4, member 1 not started, member 2 complete; three members on four devices are not split.
    first, second, third = folders(tmp_path, 3)
    runs.train(first, **ALONE | CHANGES[0] | {"steps": 4})
    runs.train(third, **ALONE | CHANGES[2])
    before = (third / "metrics.jsonl").stat().st_mtime_ns
    assert statuses(configs(CHANGES[:3]), [first, second, third], time.monotonic()) == [0, 0, 0]
    for number, folder in enumerate((first, second)):
        check_same_run(folder, alone(number))
    assert (third / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_member_that_diverges_or_is_given_up_leaves_the_others_as_they_are(alone, tmp_path):
    asked = []

    def keep(member, step):
        asked.append((member, step))
        return member != 2

    changes = [CHANGES[0], {"seed": 1, "discriminator.learning_rate": 1e38}, CHANGES[2]]
    ends = population.train(configs(changes, log_every=2), folders(tmp_path, 3), time.monotonic(), keep)
    assert [end.status for end in ends] == [0, 3, 0]
    assert ends[1].why.startswith("diverged: step ")
    # 1 ends at its first metrics or those after; 2 is given up at the first, and saved; 0 continues to the end.
    assert [step for member, step in asked if member == 0] == [2, 4, 6]
    assert [step for member, step in asked if member == 2] == [2]
    assert checkpoint.open_manager(folders(tmp_path)[2] / "checkpoints", read_only=True).latest_step() == 2
    check_same_end(folders(tmp_path)[0], alone(0))


@pytest.mark.slow
def test_a_signal_saves_every_member_and_the_next_launch_goes_on(alone, tmp_path):
    def interrupt(member, step):
        if (member, step) == (0, 4):
            signal.raise_signal(signal.SIGTERM)
        return True

    assert statuses(configs(CHANGES[:2]), folders(tmp_path, 2), time.monotonic(), interrupt) == [143, 143]
    assert statuses(configs(CHANGES[:2]), folders(tmp_path, 2), time.monotonic()) == [0, 0]
    # A logged metric is the mean since the last log or launch, so that metrics after a stop between two logs differ.
    for number, folder in enumerate(folders(tmp_path, 2)):
        check_same_end(folder, alone(number))


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"batch_size": 16}, "members of a population differ in config.batch_size; expected: seed, and numbers"),
        ({"loss": "hinge"}, "differ in config.loss"),
        ({"steps": 9}, "differ in config.steps"),
        ({"penalties.lecam": 1.0}, "differ in config.penalties.lecam"),
    ],
)
def test_another_game_cannot_be_a_member(tmp_path, changes, line):
    with pytest.raises(UserError, match=line):
        population.train(configs([{}, changes]), folders(tmp_path, 2), time.monotonic())
    assert not list(tmp_path.iterdir())


def test_streamed_data_are_refused(tmp_path):
    with pytest.raises(UserError, match="needs data that are resident; expected: config.data.on_device='always'"):
        population.train(configs([{}], **{"data.on_device": "never"}), folders(tmp_path, 1), time.monotonic())
