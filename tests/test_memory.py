"""gan.train.memory: "auto" takes the fewest microbatches that fit. Of which games: test_memory_parts."""

import functools
import json
import math
import time

import jax
import meshes
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st
from players import point_game
from test_configs import parsed
from test_toys import SMALL

from configs import toy
from experiments.sweep import Experiment, choice
from experiments.sweep.experiment import config_flags, load_configs, trial_config
from gan import data, losses
from gan.build import make_game
from gan.config import overrides, schema
from gan.errors import UserError
from gan.inference import command
from gan.parallel import processes, sharding
from gan.train import loop, memory, population, setup, sources

# The search.


@given(
    count=st.integers(1, 40), border=st.integers(0, 40), guesses=st.lists(st.integers(-2, 50), min_size=9, max_size=9)
)
@settings(max_examples=200, deadline=None)
def test_whatever_is_guessed_the_border_is_found_in_few_attempts(count, border, guesses):
    tried, guesses = [], iter(guesses)

    def fits(number):
        tried.append(number)
        return number >= border

    found = memory.smallest_that_fits(range(count), fits, lambda counts: next(guesses))
    assert found == (border if border < count else None)
    assert tried[0] == 0 and len(set(tried)) == len(tried) <= 2 + math.ceil(math.log2(count))


@pytest.mark.parametrize("border", range(10))
def test_a_right_guess_needs_no_more_than_the_first_the_border_and_the_one_before(border):
    tried = []
    memory.smallest_that_fits(range(11), lambda index: tried.append(index) or index >= border, lambda counts: border)
    assert set(tried) <= {0, border - 1, border}


def test_microbatches_leave_equal_parts_on_every_device():
    assert memory.candidates(512, 1) == [2**power for power in range(10)]
    assert memory.candidates(48, 4) == [1, 2, 3, 4, 6, 12]  # 12 examples on each
    assert memory.candidates(48, 4, period=4) == [1, 3]
    for number in memory.candidates(48, 4):
        make_game(runs.config(batch_size=48, microbatches=number), image_shape=(8, 8, 1))


class Compiled:
    """In place of a compiled train step: one whose temporary bytes are 1000 + 8000 / m."""

    def __init__(self, number):
        self.number = number

    def memory_analysis(self):
        found = type("Stats", (), {})()
        found.argument_size_in_bytes, found.output_size_in_bytes, found.alias_size_in_bytes = 500, 400, 300
        found.temp_size_in_bytes = 1000 + 8000 // self.number
        return found


def chosen(monkeypatch, device_bytes, *, compile_for=Compiled, game=None, in_use=0, **asked):
    """What is chosen for a batch of 64, and the numbers that were compiled."""
    monkeypatch.setattr(sharding, "device_memory_bytes", lambda: device_bytes)
    monkeypatch.setattr(sharding, "bytes_in_use", lambda: in_use)
    tried = []

    def attempt(number):
        tried.append(number)
        return memory.compiled_within_memory(lambda: compile_for(number))

    fit = memory.choose(game or point_game(), batch_size=64, devices=1, attempt=attempt, **asked)
    return fit, tried


@pytest.mark.parametrize(
    "device_bytes, in_use, number, tried",
    [
        # 500 arguments + 100 new outputs + 1000 + 8000 = 9600 of 9 / 10 of the memory.
        (10_667, 0, 1, [1]),
        (10_666, 0, 2, [1, 2]),
        # 5900 - 600 = 5300 are left: 8000 / m and 1000 are that from m = 1.9 on, by the first metrics alone 1.7.
        (6556, 0, 2, [1, 2]),
        # 2200 are left for 1000 + 8000 / m, m = 8 (6.7). By the first 9000 / m it would be 4.1.
        (3112, 0, 8, [1, 8, 4]),
        # The same, where 1500 bytes on the device are arguments but for 1000: they do not count twice.
        (4223, 1500, 8, [1, 8, 4]),
    ],
)
def test_the_fewest_that_fit_are_chosen(monkeypatch, device_bytes, in_use, number, tried):
    fit, compiled = chosen(monkeypatch, device_bytes, in_use=in_use)
    assert (fit.microbatches, compiled) == (number, tried)
    assert fit.compiled.number == number
    assert fit.footprint == (500, 100, 1000 + 8000 // number)
    assert fit.record()["bytes"]["total"] == 600 + 1000 + 8000 // number


def test_what_does_not_compile_does_not_fit(monkeypatch):
    def compile_for(number):
        if number < 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes")
        return Compiled(number)

    assert chosen(monkeypatch, 10_000, compile_for=compile_for)[0].microbatches == 4

    def broken(number):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        chosen(monkeypatch, 10_000, compile_for=broken)


def test_what_was_recorded_is_kept_where_it_fits_and_else_more(monkeypatch, caplog):
    assert chosen(monkeypatch, 100_000, recorded=8)[1] == [8]
    fit, tried = chosen(monkeypatch, 3112, recorded=2)
    assert (fit.microbatches, tried[0]) == (8, 2)
    fit, tried = chosen(monkeypatch, 100_000, recorded=128)  # of another batch a device
    assert (fit.microbatches, tried) == (1, [1])
    assert "microbatches=128, which the run had" in caplog.text


def test_where_none_fits_one_line_says_what_a_step_needs(monkeypatch):
    with pytest.raises(UserError) as refused:
        chosen(monkeypatch, 2**20, compile_for=lambda number: Compiled(number / 2**20))
    line = str(refused.value)
    assert "none fits. With 64" in line and "a step needs 125.00 MiB" in line and "a device has 1.00 MiB" in line
    assert "data.on_device='never'" in line and "\n" not in line


def test_where_parts_change_the_numbers_the_batch_is_whole_or_refused(monkeypatch):
    game = point_game(loss=losses.relativistic_average())
    assert chosen(monkeypatch, 10_667, game=game)[0].microbatches == 1
    assert chosen(monkeypatch, 10_667, game=game, recorded=4)[0].microbatches == 4  # the user's own, before
    with pytest.raises(UserError) as refused:
        chosen(monkeypatch, 6000, game=game)
    line = str(refused.value)
    assert "the loss compares the examples of a batch" in line and "config.microbatches=2, or another number" in line


# A run.


def config(**overrides):
    """A tiny run on points, streamed, of 50 examples a step, with "auto" microbatches."""
    config = toy.get_config("unbalanced")
    changes = {"batch_size": 50, "data.on_device": "never", "microbatches": "auto", "checkpoint_every": 4}
    changes |= {name.replace("__", "."): value for name, value in overrides.items()}
    config.update_from_flattened_dict(SMALL | changes)
    return config


def train(folder, **overrides):
    """Trains it on two devices."""
    with meshes.on(2):
        return loop.train(config(**overrides), folder, time.monotonic())


def opened(folder, **overrides):
    """The run, as it is opened on two devices."""
    folder.mkdir(exist_ok=True)
    with meshes.on(2):
        run = config(**overrides)
        found = setup.prepare_run(run, folder, data.open_dataset(run.data), sharding.device_mesh())
        found.manager.close()
        return found


@pytest.fixture(scope="module")
def needs(tmp_path_factory):
    """The bytes that the run's train step needs, by its number of microbatches."""

    @functools.cache
    def of(number):
        run = opened(tmp_path_factory.mktemp("needs"), microbatches=number)
        with meshes.on(2):
            mesh = sharding.device_mesh()
            source = sources.Streamed(data.open_dataset(run.config.data), run.setup.options, mesh)
            compiled = loop.compile_setup(run.setup, run.state, source, mesh).compile(run.state, source.abstract(1))
        return memory.footprint(compiled).total

    return of


@pytest.fixture
def limit(monkeypatch):
    """Makes the device as large as needed for so many bytes."""

    def set_to(size):
        monkeypatch.setattr(sharding, "device_memory_bytes", lambda: math.ceil(size / memory.SHARE))

    return set_to


@pytest.fixture
def compilations():
    """The compilations of train steps so far."""
    events = []

    def note(name, seconds, **details):
        if name.endswith("backend_compile_duration") and "steps" in details.get("fun_name", ""):
            events.append(details["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(note)
    yield events
    jax.monitoring.unregister_event_duration_listener(note)


def record(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.slow
def test_a_run_takes_what_fits_and_compiles_it_once(tmp_path, needs, limit, compilations, caplog):
    sizes = {number: needs(number) for number in (1, 5)}  # of 1, 5 and 25, for 25 examples on each device
    assert sizes[1] > sizes[5]
    limit(sizes[5])
    compilations.clear()
    with caplog.at_level("INFO", "gan"):
        train(tmp_path / "auto", steps=2)
    left = record(tmp_path / "auto")
    assert left["config"]["microbatches"] == 5
    assert left["memory"]["asked"] == "auto" and left["memory"]["microbatches"] == 5
    assert left["memory"]["bytes"]["total"] == sizes[5]
    assert left["changes"] == []
    assert "microbatches=auto: 5; a step needs" in caplog.text
    assert len(compilations) in (2, 3)  # 1, which does not fit, 5, which does, and perhaps 25; the run compiles no more
    command.sample(tmp_path / "auto", count=2, seed=0)  # samples know a number

    # On a larger device the number stays, so that the bits do: those of a run with a number of the user's own.
    limit(sizes[1])
    compilations.clear()
    train(tmp_path / "auto", steps=4)
    train(tmp_path / "five", steps=4, microbatches=5)
    assert len(compilations) == 2
    assert "memory" not in record(tmp_path / "five")
    assert runs.final_digests(tmp_path / "auto") == runs.final_digests(tmp_path / "five")

    # On a smaller one it is chosen again, and recorded.
    limit(sizes[5] - 1)
    train(tmp_path / "auto", steps=6)
    left = record(tmp_path / "auto")
    assert left["config"]["microbatches"] == 25 and left["memory"]["bytes"]["total"] < sizes[5]
    assert left["changes"] == [{"step": 4, "field": "microbatches", "from": 5, "to": 25}]
    assert "microbatches=5, which the run had: a step needs" in caplog.text
    # A number given later changes the memory alone, and is recorded.
    opened(tmp_path / "five", steps=6, microbatches=2)
    assert record(tmp_path / "five")["changes"] == [{"step": 4, "field": "microbatches", "from": 5, "to": 2}]


def test_a_run_whose_numbers_would_change_is_cut_by_its_user_alone(tmp_path, limit, caplog):
    """It may have to: its device may be smaller than that which it began on."""
    averages = {"loss": "relativistic_average"}
    opened(tmp_path / "whole", **averages, microbatches=1)
    opened(tmp_path / "whole", **averages, microbatches=2)
    assert record(tmp_path / "whole")["changes"] == [{"step": 0, "field": "microbatches", "from": 1, "to": 2}]
    assert "config.microbatches changes more than rounding here: the loss compares the examples" in caplog.text
    limit(2**12)
    with pytest.raises(UserError, match="'auto' does not divide the batch.* the loss compares the examples"):
        train(tmp_path / "auto", **averages)
    assert not (tmp_path / "auto" / "config.json").exists()


def test_what_cannot_choose_says_so(tmp_path):
    with pytest.raises(UserError, match=r"'auto' needs config\.parallel='jit'"):
        train(tmp_path, parallel="pmap")
    configs = [config(seed=seed, data__on_device="always") for seed in (0, 1)]
    with pytest.raises(UserError, match="'auto' cannot be chosen for a population"):
        population.train(configs, [tmp_path / "0", tmp_path / "1"], time.monotonic())
    for value in ("Auto", 1.5, True, None):
        with pytest.raises(UserError, match="a whole number or 'auto'"):
            schema.check_kind("config.microbatches", value, schema.COUNT_OR_AUTO)


def test_the_first_process_measures_and_all_must_fit(monkeypatch):
    measured = []
    monkeypatch.setattr(
        processes,
        "broadcast_from_primary",
        lambda action: measured.append(action()) or json.loads(json.dumps(measured[-1])),
    )
    monkeypatch.setattr(
        processes, "all_succeed", lambda succeeded: succeeded and len(measured) > 5
    )  # another has less memory
    fit, tried = chosen(monkeypatch, 100_000)
    assert fit.microbatches == tried[-1] > 1
    assert fit.footprint == (500, 100, 1000 + 8000 // fit.microbatches)


# The field.


def test_auto_and_numbers_can_be_typed_and_set():
    path = runs.ROOT / "configs/dcgan.py:digits"
    for typed, value in (("auto", "auto"), ("4", 4)):
        assert parsed(path, f"--config.microbatches={typed}").microbatches == value
        found = overrides_of(f"microbatches={typed}")
        assert found.microbatches == value and type(found.microbatches) is type(value)
    schema.check(parsed(path, "--config.microbatches=auto"))
    again = overrides_of("microbatches=auto", "microbatches=2")
    assert again.microbatches == 2
    for wrong in ("x", "1.5", "-"):
        with pytest.raises(UserError, match="a whole number or 'auto'"):
            overrides_of(f"microbatches={wrong}")
    assert make_game(overrides_of("microbatches=auto"), image_shape=(32, 32, 1)).microbatches == 1


def overrides_of(*changes):
    from configs import dcgan

    config = dcgan.get_config("digits").copy_and_resolve_references()
    overrides.override(config, changes)
    return config


def test_a_sweep_may_vary_it_and_plays_such_trials_one_by_one():
    plan = Experiment(
        base=str(runs.ROOT / "configs/dcgan.py:digits"), minimize="training.generator_loss", search="grid",
        budget_images=640, space={"microbatches": choice(2, "auto")}, population=4,
    )  # fmt: skip
    base, typed = load_configs(plan)
    assert plan.max_population(typed) == 4
    for value in (2, "auto"):
        trial = trial_config(plan, typed, {"microbatches": value}, seed=0)
        assert f"--config.microbatches={value}" in config_flags(base, trial)
    assert plan.max_population(overrides_of("microbatches=auto")) == 1
