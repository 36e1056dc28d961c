"""Fine-tuning: runs that begin with another run's networks, frozen layers, and checkpoints that are kept for ever."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from absl.testing import flagsaver
from PIL import Image
from players import batches, changed, hyperparams, noisy_game, point_game

from gan import build, state, steps
from gan.cli import flags
from gan.errors import UserError
from gan.evaluation import command, curve
from gan.export import command as export
from gan.game import SPECTRAL_NORM
from gan.inference.model import checkpoint_steps, load
from gan.io import checkpoint
from gan.networks import dcgan
from gan.optimizers import adamw, sgd
from gan.parallel import sharding
from gan.train import initialize_from

discriminator_step = jax.jit(steps.discriminator_step, static_argnames="game")
WIDE = {"data__image_size": (8, 12)}
"""Of the small DCGAN, other shapes have G's first kernel, 100 x 8 x 12 instead of 100 x 8 x 8, and D's last."""


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def same(before, after):
    """Whether each leaf kept its bits, by its path."""
    return {path: np.array_equal(leaf, leaves(after)[path]) for path, leaf in leaves(before).items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of 8 steps that keeps every second checkpoint, and one of step 3 that it need not."""
    folder = tmp_path_factory.mktemp("source")
    runs.train(folder, steps=8, keep_every=2, checkpoint_every=3)
    return folder


def restored(folder, step):
    """The state of a run at a step."""
    config = runs.config()
    setup = build.setup(config, image_shape=(8, 8, 1), num_classes=10)
    target = sharding.abstract(setup.shapes, sharding.replicated(sharding.device_mesh()))
    with checkpoint.open_manager(folder / "checkpoints", read_only=True) as manager:
        return checkpoint.restore_players(manager, target, step).replace(
            ema=checkpoint.restore_ema(manager, target.ema, step)[1]
        )


def initialized(**overrides):
    """The state before the first step of a small run with these fields, and what became of each array."""
    overrides = {name.replace("__", "."): value for name, value in overrides.items()}
    config = runs.config(**overrides)
    setup = build.setup(config, image_shape=(*config.data.image_size, 1), num_classes=10)
    whole = sharding.replicated(sharding.device_mesh())
    return initialize_from.first_state(config, setup, whole, None), setup.initial_state(whole)


# Kept checkpoints


@pytest.mark.slow
def test_checkpoints_of_some_steps_are_kept_beside_the_last_three(source, tmp_path):
    # Saved at multiples of 2 and of 3: 2 3 4 6 8. The last three are 4 6 8, and 2 is kept.
    assert checkpoint_steps(source) == [2, 4, 6, 8]
    shutil.copytree(source, tmp_path / "run")
    # Now multiples of 5: what was kept stays, 5's are kept, and 9 and 12 are two of the last three.
    runs.train(tmp_path / "run", steps=12, keep_every=5, checkpoint_every=3)
    assert checkpoint_steps(tmp_path / "run") == [2, 4, 6, 8, 9, 10, 12]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["changes"] == [
        {"step": 8, "field": "keep_every", "from": 2, "to": 5}
    ]
    runs.train(tmp_path / "run", steps=18, checkpoint_every=2)
    assert checkpoint_steps(tmp_path / "run") == [2, 4, 6, 8, 10, 12, 14, 16, 18]


# Networks of another run


def test_what_fits_is_taken_and_the_rest_is_initialized(source):
    found, fresh = initialized(initialize_from=f"{source}@4", **WIDE)
    there, outcomes = restored(source, 4), {row.path: row.outcome for row in found.rows}
    assert [path for path, outcome in outcomes.items() if outcome != "taken"] == [
        "generator/params/Dense_0/kernel", "discriminator/params/Dense_0/kernel", "ema/params/Dense_0/kernel"
    ]  # fmt: skip
    assert outcomes["generator/params/Dense_0/kernel"] == "initialized: in the source it is 100x64"
    for part in ("generator", "discriminator", "ema"):
        expected = leaves(getattr(there, part).variables)
        other = leaves(fresh.ema.variables if part == "ema" else getattr(fresh, part).variables)
        for path, leaf in leaves(getattr(found.state, part).variables).items():
            np.testing.assert_array_equal(leaf, other[path] if "Dense_0" in path else expected[path], err_msg=path)
    assert (int(found.state.step), int(found.state.images)) == (0, 0)
    for player in ("generator", "discriminator"):
        assert all(same(getattr(found.state, player).opt_state, getattr(fresh, player).opt_state).values())
    assert found.source["step"] == 4 and found.source["arrays_initialized"] == 3
    table = initialize_from.table(found.rows).splitlines()
    assert len(table) == len(found.rows) and "100x96" in table[5]


def test_an_average_that_is_not_taken_begins_as_the_generator(source):
    found, fresh = initialized(initialize_from=str(source), initialize_parts=("generator",))
    assert found.source["step"] == 8
    assert all(same(found.state.ema.variables, found.state.generator.variables).values())
    assert all(same(found.state.generator.variables, restored(source, 8).generator.variables).values())
    assert all(same(found.state.discriminator.variables, fresh.discriminator.variables).values())


def test_an_export_gives_both_generators_and_no_discriminator(source, tmp_path):
    export.export(source, tmp_path / "export", formats=(), step=4)
    found, fresh = initialized(initialize_from=str(tmp_path / "export"))
    expected = load(source, step=4).ema.variables
    assert all(same(expected, found.state.generator.variables).values())
    assert all(same(expected, found.state.ema.variables).values())
    assert all(same(fresh.discriminator.variables, found.state.discriminator.variables).values())
    assert {row.outcome for row in found.rows if row.path.startswith("discriminator")} == {
        "initialized: not in the source, which has no discriminator"
    }
    assert found.source["step"] == 4
    with pytest.raises(UserError, match="is an export, which has one step; expected: the folder without @4"):
        initialized(initialize_from=f"{tmp_path}/export@4")


def test_what_the_source_has_alone_is_listed(source):
    found, _ = initialized(initialize_from=str(source), generator__batch_norm=False, initialize_parts=("generator",))
    outcomes = {row.outcome for row in found.rows}
    assert outcomes == {"taken", "initialized: not in the source", "left out: in the source alone"}


@pytest.mark.slow
def test_a_fine_tuned_run_of_n_and_n_steps_is_one_of_2n_and_needs_no_source(source, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    given = {"freeze": "discriminator:1", "seed": 3, **WIDE}
    runs.train(tmp_path / "whole", initialize_from=f"{tmp_path}/source@4", **given)
    runs.train(tmp_path / "parts", steps=6, initialize_from=f"{tmp_path}/source@4", **given)
    shutil.copytree(tmp_path / "parts", tmp_path / "begun")
    for step in (4, 6):
        shutil.rmtree(tmp_path / "begun" / "checkpoints" / str(step))  # what is left is that of step 0
    shutil.rmtree(tmp_path / "source")
    for name in ("parts", "begun"):
        runs.train(tmp_path / name, **given)
        assert runs.final_digests(tmp_path / name) == runs.final_digests(tmp_path / "whole")
    records = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("whole", "parts")]
    assert records[0]["initialized_from"] == records[1]["initialized_from"]
    assert records[0]["config"] == records[1]["config"]
    with pytest.raises(UserError, match=r"another config: config\.initialize_from"):
        runs.train(tmp_path / "whole", initialize_from="elsewhere", steps=20, **given)


def test_a_source_that_changed_before_the_first_checkpoint_is_an_error(source, tmp_path):
    found, _ = initialized(initialize_from=f"{source}@4")
    config = runs.config(initialize_from=f"{source}@6")
    setup = build.setup(config, image_shape=(8, 8, 1), num_classes=10)
    with pytest.raises(UserError, match=r"has changed since the run was created: the digest of step 4 was"):
        initialize_from.first_state(config, setup, sharding.replicated(sharding.device_mesh()), found.source)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"initialize_from": "{source}@5"}, r"config\.initialize_from='.*@5': .* no checkpoint of step 5; nearest: 4"),
        ({"initialize_from": "{source}@last"}, r"expected after @: the step of a checkpoint, or best"),
        ({"initialize_from": "{source}@best"}, r"there is no checkpoint in .*best"),
        ({"initialize_from": "nowhere"}, r"config\.initialize_from='nowhere' is not a folder; expected"),
        ({"initialize_from": "tests"}, r"config\.initialize_from='tests': tests holds no run"),
        (
            {"initialize_from": "{source}", "initialize_parts": ("discriminator",), "discriminator.width": 8},
            r"nothing in it fits this run: none of 2 arrays; discriminator/params/Conv_0/kernel, 4x4x1x8, would be "
            r"initialized: in the source it is 4x4x1x4",
        ),
        (
            {"initialize_from": "{source}", "freeze": "discriminator:1", "discriminator.width": 8},
            r"config\.freeze='discriminator:1' freezes discriminator/params/Conv_0/kernel, which is initialized: in",
        ),
        (
            {"initialize_from": "{source}", "freeze": "discriminator:1", "initialize_parts": ("ema",)},
            r"freezes discriminator/params/Conv_0/kernel, which is initialized: the discriminator is not taken",
        ),
        ({"freeze": "discriminator:1"}, r"config\.initialize_from is empty; expected: config\.initialize_from=FOLDER"),
    ],
)
def test_mistakes_are_one_line(source, overrides, message):
    overrides = {
        name: value.format(source=source) if isinstance(value, str) else value for name, value in overrides.items()
    }
    with pytest.raises(UserError, match=message) as caught:
        initialized(**overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"initialize_parts": ("generator", "critic")}, "expected: one or more of generator, discriminator, ema"),
        ({"initialize_parts": ()}, "expected: one or more of generator, discriminator, ema"),
        ({"keep_every": -1}, r"config\.keep_every=-1 must not be negative"),
        *(
            (
                {"freeze": freeze},
                r"expected: nothing, or discriminator:N with N from 1 to 1, the layers of this 'dcgan'",
            )
            for freeze in ("discriminator:2", "discriminator:0", "generator:1", "discriminator", "discriminator:one")
        ),
    ],
)
def test_fields_are_checked_before_a_run(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        runs.train(tmp_path, **overrides)


# Frozen layers


def test_a_network_that_does_not_state_its_layers_cannot_be_frozen(monkeypatch):
    monkeypatch.delattr(dcgan.Discriminator, "layers_from_image")
    with pytest.raises(UserError, match="the discriminator of network 'dcgan' has no method layers_from_image"):
        build.make_game(runs.config(freeze="discriminator:1"), image_shape=(8, 8, 1))


def first_batch(game):
    return jax.tree.map(lambda leaf: leaf[0], batches(game))


def frozen_game(**rules):
    return point_game(discriminator={"frozen": ("Dense_0",), **rules})


def test_frozen_layers_keep_their_bits_and_have_no_moments():
    game = frozen_game(optimizer=adamw, penalties=("r1",))
    game = changed(game, clips_weights=True)
    settings = hyperparams(0.1, weight_decay=0.5, clip_norm=0.1, weight_clip=0.01, r1=1.0)
    start = state.create(game, settings, seed=0)
    after, _ = discriminator_step(start, first_batch(game), settings, game=game)
    kept = same(start.discriminator.params, after.discriminator.params)
    assert kept == {path: "Dense_0" in path for path in kept} and len(kept) == 6
    assert float(jnp.abs(after.discriminator.params["Dense_0"]["kernel"]).max()) > 0.01  # the bound of the others
    moments = leaves(after.discriminator.opt_state)
    assert all(np.any(leaf) != ("Dense_0" in path) for path, leaf in moments.items() if "kernel" in path)


def test_the_other_layers_are_trained_as_if_none_was_frozen_and_the_norm_is_theirs():
    settings = hyperparams(0.1)
    game, whole = frozen_game(optimizer=sgd), point_game(discriminator={"optimizer": sgd})
    start = state.create(whole, settings, seed=0)
    (frozen, metrics), (free, free_metrics) = (
        discriminator_step(start, first_batch(game), settings, game=each) for each in (game, whole)
    )
    for layer in ("Dense_1", "Dense_2"):
        for name in ("kernel", "bias"):
            given, expected = (side.discriminator.params[layer][name] for side in (frozen, free))
            np.testing.assert_allclose(given, expected, rtol=1e-6, atol=1e-8)
    # Gradient descent with rate 0.1: a gradient is minus ten times the change.
    change = optax.tree.sub(frozen.discriminator.params, start.discriminator.params)
    np.testing.assert_allclose(metrics["discriminator_gradient_norm"], 10 * optax.tree.norm(change), rtol=1e-4)
    layers = [free.discriminator.params["Dense_0"], start.discriminator.params["Dense_0"]]
    whole_norm = np.hypot(metrics["discriminator_gradient_norm"], 10 * optax.tree.norm(optax.tree.sub(*layers)))
    np.testing.assert_allclose(free_metrics["discriminator_gradient_norm"], whole_norm, rtol=1e-4)


def test_statistics_of_frozen_layers_are_updated_as_always():
    rules = {"spectral_norm": True, "frozen": ("Dense_0", "BatchNorm_0")}
    game, settings = noisy_game(discriminator=rules), hyperparams()
    start = state.create(game, settings, seed=0)
    after, _ = discriminator_step(start, first_batch(game), settings, game=game)
    before, now = (leaves(each.discriminator.batch_stats) for each in (start, after))
    assert any(SPECTRAL_NORM in path for path in before) and not any(
        np.array_equal(leaf, now[path]) for path, leaf in before.items() if "Dense_1" not in path
    )
    assert all(same(*(each.discriminator.params["Dense_0"] for each in (start, after))).values())


def test_a_frozen_run_keeps_the_layers_of_its_source(source, tmp_path):
    runs.train(tmp_path, initialize_from=str(source), freeze="discriminator:1", steps=4)
    before, after = load(source).discriminator["params"], load(tmp_path).discriminator["params"]
    assert np.array_equal(before["Conv_0"]["kernel"], after["Conv_0"]["kernel"])
    assert not np.array_equal(before["Dense_0"]["kernel"], after["Dense_0"]["kernel"])


# Metrics of all checkpoints


def test_all_steps_are_for_an_evaluation():
    flags.flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(step="all"), pytest.raises(UserError, match="last, or best; all is for --mode=evaluate$"):
        flags.checkpoint()


def test_every_checkpoint_is_evaluated(source, tmp_path):
    shutil.copytree(source, tmp_path / "run")
    given = {"count": 20, "seed": 0, "extractor": "pixels"}
    curve.evaluate_steps(tmp_path / "run", **given)
    lines = [json.loads(line) for line in (tmp_path / "run" / "evaluations_by_step.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    command.evaluate(tmp_path / "run", step=4, **given)
    alone = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert lines[1] == {"step": 4, **alone["checkpoints"]["step_4"]["metrics"]}
    record = json.loads((tmp_path / "run" / "evaluations_by_step.json").read_text())
    assert record["protocol"] == alone["protocol"] and set(record["warnings"]) == {"2", "4", "6", "8"}
    assert record["real_training_images"] == alone["real_training_images"]
    assert Image.open(tmp_path / "run" / "evaluations_by_step.png").size[0] > 400
