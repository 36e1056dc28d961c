"""R1 and R2 by finite differences: closed forms, the same draws in both passes, no second derivatives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from flax import linen as nn
from players import DropoutDiscriminator, batches, changed, hyperparams, noisy_game, point_game

from experiments.benchmarks import operations as step_operations
from experiments.studies import estimator_noise
from gan import build, penalties, state, steps
from gan.augment import AUGMENTS
from gan.build import make_game, make_schedules
from gan.errors import UserError
from gan.estimators import Exact, finite_difference, squared_gradient
from gan.game import initial_variables
from gan.io import workdir
from gan.rows import ALL, Rows
from gan.views import DiscriminatorView

discriminator_step = jax.jit(steps.discriminator_step, static_argnames="game")


def viewed(critic, real, fake, estimator, **fields):
    """The view of a discriminator's update of these images."""
    keys = jax.random.split(jax.random.key(1), len(real))
    view = DiscriminatorView(critic, real, fake, keys=keys, estimator=estimator, **fields)
    return view._replace(real_logits=view.critic(real), fake_logits=view.fake_critic_or_critic(fake))


@pytest.mark.parametrize("sigma, mean", [(0.1, 13.04), (1.0, 17.0)])
def test_the_mean_on_a_quadratic_critic_is_the_squared_gradient_plus_a_known_term(sigma, mean):
    # D(x) = a.x + x'Ax / 2 has grad D = a + Ax = g, and (D(x + s e) - D(x)) / s = g.e + s/2 e'Ae. The mean of g.e e'Ae
    # over e ~ N(0, I) is zero, an odd moment, and that of (e'Ae)^2 is 2 tr(AA) + tr(A)^2: the mean of the square is
    # |g|^2 + s^2/4 (2 tr(AA) + tr(A)^2). With a = (1, 2), A = ((2, 1), (1, 0)) and x = (1, -1): Ax = (1, 1), g = (2, 3)
    # and |g|^2 = 13; tr(A) = 2, AA = ((5, 2), (2, 1)) and tr(AA) = 6; 13 + s^2/4 (12 + 4) = 13 + 4 s^2.
    a, A = jnp.array([1.0, 2.0]), jnp.array([[2.0, 1.0], [1.0, 0.0]])

    def quadratic(images):
        x = images.reshape(-1, 2)
        return x @ a + jnp.sum(x * (x @ A), axis=1) / 2

    images = jnp.broadcast_to(jnp.array([1.0, -1.0]), (40_000, 1, 1, 2))
    drawn = penalties.r1(viewed(quadratic, images, images, finite_difference(sigma)))
    error = float(drawn.std()) / len(drawn) ** 0.5
    assert error < 0.2
    assert abs(float(drawn.mean()) - mean) < 4 * error
    np.testing.assert_allclose(squared_gradient(quadratic, images[:2]), 13.0, rtol=1e-6)


def test_each_penalty_uses_its_own_images_and_draws():
    images = jax.random.normal(jax.random.key(0), (6, 1, 1, 2))

    def linear(scale):
        return lambda images: scale * (images[:, 0, 0, 0] + 2 * images[:, 0, 0, 1])

    # D = 3 w.x: (3 w.e)^2 = 9 (w.e)^2 for all x. R2 draws with another name.
    view = viewed(linear(1.0), images, 100 + images, finite_difference(0.5))
    tripled = viewed(linear(3.0), images, 100 + images, finite_difference(0.5))
    of_fakes = viewed(linear(1.0), images, 100 + images, finite_difference(0.5), fake_critic=linear(3.0))
    for penalty in (penalties.r1, penalties.r2):
        np.testing.assert_allclose(penalty(tripled), 9 * penalty(view), rtol=1e-3)
    np.testing.assert_allclose(penalties.r1(of_fakes), penalties.r1(view), rtol=1e-3)
    np.testing.assert_allclose(penalties.r2(of_fakes), 9 * penalties.r2(view), rtol=1e-3)
    assert np.abs(penalties.r1(view) / penalties.r2(view) - 1).min() > 1e-3


def test_both_passes_are_differentiated_in_the_weights():
    images = 5.0 + jax.random.normal(jax.random.key(0), (4, 1, 1, 2))

    def mean(scale):
        critic = lambda images: scale * jnp.sum(images, axis=(1, 2, 3))  # noqa: E731
        return jnp.mean(penalties.r1(viewed(critic, images, images, finite_difference(0.1))))

    # s^2 (w.e)^2 has the derivative 2 s (w.e)^2, twice the penalty at s = 1; with a constant D(x) it would be
    # 2 (w.e) w.(x + 0.1 e) / 0.1, which is much larger for x = 5.
    value, gradient = jax.value_and_grad(mean)(1.0)
    np.testing.assert_allclose(gradient, 2 * value, rtol=1e-3)


@pytest.mark.parametrize("rows", [Rows(2), Rows(4), Rows(2, run=2), Rows(1, run=2)])
def test_rows_of_an_array_are_at_their_places(rows):
    taken = rows.of(jnp.arange(16))
    np.testing.assert_array_equal(taken, rows.places(len(taken)))
    assert len(taken) == 16 / rows.every
    np.testing.assert_array_equal(taken, [row for row in range(16) if row % rows.period < rows.run or rows.every == 1])


NETWORKS = {
    "mlp": ((4, 4, 1), {"width": 8, "layers": (1,), "dropout": 0.5}),
    "flag": ((8, 8, 1), {"channels": (3,), "hidden": 4, "dropout": 0.25}),
    "dcgan": ((8, 8, 3), {"width": 4, "depth": 2, "batch_norm": False}),
    "stylegan2": ((8, 8, 1), {"widths": (3, 4), "group_size": 2, "mapping_layers": 1}),
    "gat": ((4, 8, 1), {"width": 8, "depth": 2, "heads": 2, "levels": 2, "label_width": 4}),
}


def built(network, estimator, **overrides):
    """A game of this discriminator with a projection of the labels, R1 and R2."""
    shape, own = NETWORKS[network]
    config = runs.config(penalties__r1=1.0, penalties__r2=1.0, gradient_estimator=estimator, batch_size=16, **overrides)
    config.unlock()
    from configs import default

    config.discriminator = default.player(network=network, conditioning="projection", **own)
    config.generator = default.player(network="mlp", width=4, layers=(1,))
    return make_game(config, image_shape=shape, num_classes=3), make_schedules(config)(0)


@pytest.mark.parametrize(
    "network", [*NETWORKS][:1] + [pytest.param(name, marks=pytest.mark.slow) for name in [*NETWORKS][1:]]
)
def test_logits_of_a_part_of_the_rows_are_those_within_the_whole_batch(network):
    game, _ = built(network, "finite_difference(0.1, every=2)")
    rows = game.gradient_estimator.rows
    assert rows == Rows(2, run=2 if network == "stylegan2" else 1)
    _, variables = initial_variables(game, jax.random.key(0), jax.random.key(1))
    image = jax.random.normal(jax.random.key(2), (16, *game.image_shape))
    label = jnp.arange(16) % 3

    @functools.partial(jax.jit, static_argnames="rows")
    def logits(image, label, rows):
        return game.discriminate(variables, image, label, train=True, key=jax.random.key(3), rows=rows).logits

    together = rows.of(logits(image, label, ALL))
    alone = logits(rows.of(image), rows.of(label), rows)
    np.testing.assert_allclose(alone, together, atol=1e-5)
    if network in ("mlp", "flag", "gat"):  # negative control: without the rows other numbers are drawn
        assert np.abs(logits(rows.of(image), rows.of(label), ALL) - together).max() > 1e-3


@pytest.mark.slow
def test_dropout_and_augmentation_are_the_same_in_both_passes():
    # Other draws would change a logit by 1e-2 or more, much more than a step of 1e-3 does: a penalty of 100.
    game = noisy_game(
        discriminator={"module": DropoutDiscriminator(), "penalties": ("r1", "r2")},
        augment=AUGMENTS["diff_augment"](),
    )
    settings = hyperparams(r1=1.0, r2=1.0, p=1.0)
    start = state.create(game, settings, seed=0)
    batch = jax.tree.map(lambda leaf: leaf[0], batches(game, size=512))
    _, exact = discriminator_step(start, batch, settings, game=game)
    estimator = finite_difference(1e-3, every=2)
    _, estimated = discriminator_step(start, batch, settings, game=changed(game, gradient_estimator=estimator))
    for name in ("r1", "r2"):
        # A square of N(0, v) has the standard deviation sqrt(2) v: sqrt(2 / 256) = 9% of the
        # mean of 256. The tolerance is four of them.
        np.testing.assert_allclose(estimated[name], exact[name], rtol=0.36)
    np.testing.assert_allclose(estimated["discriminator_loss"], exact["discriminator_loss"], rtol=1e-5)


@pytest.mark.parametrize("penalty", ["r1", "r2"])
def test_an_estimate_costs_one_pass_of_the_discriminator_and_no_second_derivatives(penalty):
    game, settings = built("dcgan", "exact")
    start = jax.eval_shape(functools.partial(state.create, game, settings, 0))
    batch = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], batches(game)))

    def operations(estimator=None):
        names = (penalty,) if estimator else ()
        trained = changed(game, discriminator={"penalties": names}, gradient_estimator=estimator or Exact())
        return step_operations.count(functools.partial(steps.discriminator_step, game=trained), start, batch, settings)

    latent, label = jnp.zeros((16, game.latent_size)), jnp.zeros(16, jnp.int32)
    drawing = step_operations.count(
        lambda variables: game.generate(variables, latent, label, train=True)[0], start.generator.variables
    )
    # A plain update generates images, and discriminates real and fake images: two passes of D, and their gradients.
    one_pass = (operations() - drawing) / 2
    assert operations(finite_difference(0.01)) == operations() + one_pass
    assert operations(finite_difference(0.01, every=4)) == operations() + one_pass / 4
    assert operations(Exact()) > operations(finite_difference(0.01))


@pytest.mark.slow
def test_a_population_of_estimated_games_equals_separate_runs():
    game = point_game(discriminator={"penalties": ("r1",)}, gradient_estimator=finite_difference(0.1, every=2))
    settings, update = hyperparams(r1=1.0), functools.partial(steps.discriminator_step, game=game)
    batch = jax.tree.map(lambda leaf: leaf[0], batches(game))
    states = [state.create(game, settings, seed=seed) for seed in (0, 1)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    _, metrics = jax.jit(jax.vmap(update, in_axes=(0, None, None)))(together, batch, settings)
    for member, start in enumerate(states):
        _, alone = discriminator_step(start, batch, settings, game=game)
        np.testing.assert_allclose(metrics["r1"][member], alone["r1"], rtol=1e-4)


def test_a_discriminator_that_draws_needs_rows_for_a_part_of_the_batch():
    class Drawing(nn.Module):
        image_shape: tuple = ()
        num_classes: int = 0

        @nn.compact
        def __call__(self, image, label, train):
            x = nn.Dropout(0.5, deterministic=not train)(image.reshape(len(image), -1))
            return nn.Dense(1)(x)[:, 0]

    def made(every):
        config = runs.config(penalties__r1=1.0, gradient_estimator=f"finite_difference(0.01, every={every})")
        config.unlock()
        from configs import default

        config.discriminator = default.player(network="drawing", conditioning="none")
        return make_game(config, image_shape=(8, 8, 1))

    table = dict(build.NETWORKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "NETWORKS", table | {"drawing": table["dcgan"]._replace(discriminator=Drawing)})
        made(1)
        with pytest.raises(UserError, match="network='drawing' draws random numbers.* use every=1"):
            made(2)


def test_a_run_is_trained_with_it_and_resumes_with_no_other(tmp_path):
    recipe = {"discriminator__batch_norm": False, "penalties__r1": 1.0}
    runs.train(tmp_path / "run", gradient_estimator="finite_difference(0.01, every=2)", **recipe)
    logged = runs.logged(tmp_path / "run")
    assert all(0 < line["r1"] < 100 for line in logged)
    with pytest.raises(UserError, match="config.gradient_estimator: 'finite_difference.*' -> 'exact'"):
        runs.train(tmp_path / "run", **recipe)


def test_a_run_whose_record_lacks_the_field_is_not_resumed(tmp_path):
    config = runs.config().to_dict()
    older = {name: value for name, value in config.items() if name != "gradient_estimator"}
    dataset = {"name": "digits", "split": "train", "fingerprint": "f", "image_shape": [8, 8, 1], "class_names": []}
    workdir.write(tmp_path, {"config": older, "dataset": dataset})
    record = workdir.read(tmp_path)
    with pytest.raises(UserError, match="config.gradient_estimator: None -> 'exact'"):
        workdir.continue_with(tmp_path, record, config, dataset)
    workdir.write(tmp_path, {"config": config, "dataset": dataset})
    assert workdir.continue_with(tmp_path, workdir.read(tmp_path), config, dataset) == []


def test_noise_is_measured_on_a_linear_critic():
    # D = w.x with w = (3, 4): (w.e)^2 is 25 times a square of N(0, 1), of mean 1 and variance 2. A mean of 64 deviates
    # by sqrt(2 / 64) = 0.177. The gradient 2 (w.e) e has the covariance 4 (|w|^2 I + w w') with the trace
    # 4 * 3 |w|^2: a mean of 64 deviates by sqrt(12 / 64) |w|, which is 0.217 of 2 |w|, the norm of the exact gradient.
    def penalty(params, estimator, images, key):
        def critic(images):
            return images.reshape(-1, 2) @ params

        return jnp.mean(estimator(critic, images, critic(images), jax.random.split(key, 64), "r1"))

    row = estimator_noise.measure(penalty, jnp.array([3.0, 4.0]), jnp.zeros((64, 1, 1, 2)), 0.1, 100)
    # The standard deviation of 100 draws has an error of 1 / sqrt(200) = 7%, their mean of a tenth of the deviation.
    np.testing.assert_allclose([row["ratio_std"], row["gradient_std"]], [0.177, 0.217], rtol=0.28)
    assert abs(row["ratio"] - 1) < 4 * 0.0177 and row["gradient_bias"] < 4 * 0.0217


def test_a_game_with_it_is_hashable_and_differs_by_it():
    exact, estimated, other = (
        built("mlp", text)[0] for text in ("exact", "finite_difference(0.1)", "finite_difference(0.2)")
    )
    assert len({exact, estimated, other, dataclasses.replace(estimated)}) == 3
