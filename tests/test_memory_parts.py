"""gan.train.memory: in which games microbatches change the numbers, as the steps themselves show."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from flax import linen as nn
from players import batches, changed, hyperparams, point_game
from twins import jit

from configs import r3gan
from gan import losses, state, steps
from gan.augment import AUGMENTS
from gan.build import make_game
from gan.estimators import finite_difference
from gan.networks import stylegan2
from gan.networks.layers.dropout import Dropout
from gan.networks.layers.normalization import BatchNorm
from gan.optimizers import sgd
from gan.train import memory


class Still(nn.Module):
    """A generator of two pixels by two that may normalize, drop out, or do neither."""

    batch_norm: bool = False
    dropout: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latent, label, train):
        x = nn.Dense(8)(latent)
        x = nn.relu(BatchNorm(self.axis_name)(x, train) if self.batch_norm else x)
        x = Dropout(self.dropout, self.axis_name)(x, train)
        return nn.Dense(4)(x).reshape(-1, 2, 2, 1)


class Critic(nn.Module):
    @nn.compact
    def __call__(self, image, label, train):
        return nn.Dense(1)(nn.tanh(nn.Dense(8)(image.reshape(len(image), -1))))[:, 0]


def small(*, generator=None, discriminator=None, **changes):
    return point_game(
        generator={"module": Still(), "optimizer": sgd, **(generator or {})},
        discriminator={"module": Critic(), "optimizer": sgd, **(discriminator or {})},
        image_shape=(2, 2, 1),
        **changes,
    )


def in_groups(size):
    return stylegan2.Discriminator((2, 2, 1), widths=(4,), group_size=size)


class Styled(nn.Module):
    styles: ClassVar[bool] = True

    @nn.compact
    def __call__(self, latent, label, train):
        styles = self.perturb("styles", jnp.broadcast_to(latent[:, None], (len(latent), 2, latent.shape[-1])))
        return nn.Dense(4)(jnp.tanh(styles[:, 0]) * styles[:, 1]).reshape(-1, 2, 2, 1)


QUICK = ("penalties", "batch normalization", "averages")
CASES = {
    "penalties": (
        "discriminator",
        small(
            loss=losses.relativistic(), augment=AUGMENTS["apa"](), discriminator={"penalties": ("r1", "r2", "lecam")}
        ),
        "",
    ),
    "finite differences": (
        "discriminator",
        small(discriminator={"penalties": ("r1", "r2")}, gradient_estimator=finite_difference(sigma=1.0, every=2)),
        "",
    ),
    "groups of one": ("discriminator", small(discriminator={"module": in_groups(1)}), ""),
    "groups": ("discriminator", small(discriminator={"module": in_groups(4)}), "the discriminator compares the"),
    "batch normalization": ("generator", small(generator={"module": Still(True)}), "the generator keeps statistics"),
    "dropout": ("generator", small(generator={"module": Still(False, 0.3)}), "the generator draws random numbers"),
    "spectral norm": ("discriminator", small(discriminator={"spectral_norm": True}), "the discriminator has spectral"),
    "averages": ("generator", small(loss=losses.relativistic_average()), "the loss compares"),
    "contrast": ("discriminator", small(loss=losses.dual_contrastive()), "the loss compares"),
    "top k": ("generator", small(selects_top=True), "top_k"),
    "normalized": ("generator", small(normalizes_gradient=True), "normalize_gradient divides"),
    "paths": ("generator", small(generator={"penalties": ("path_length",)}), ""),
    "paths of styles": (
        "generator",
        small(generator={"penalties": ("path_length",), "module": Styled()}),
        "penalties.path_length",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_said_what_parts_change(case):
    _, game, reason = CASES[case]
    found = memory.what_parts_change(game)
    assert found.startswith(reason) and bool(found) == bool(reason)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_parts_change_the_gradient_where_it_is_said_and_only_there(case):
    player, game, reason = CASES[case]
    names = game.discriminator.penalties + game.generator.penalties
    numbers = hyperparams(1.0, top_k=0.125, p=0.5, **dict.fromkeys(names, 0.5))
    update = steps.discriminator_step if player == "discriminator" else steps.generator_step

    @jit
    def moves():
        start = state.create(game, numbers, seed=0)
        batch = jax.tree.map(lambda leaf: leaf[0], batches(game, size=8))
        return [update(start, batch, numbers, game=changed(game, microbatches=parts))[0] for parts in (1, 2)]

    # Gradient descent at rate 1: parameters move by the gradient. What is kept beside them counts too.
    whole, parts = (jax.tree.leaves((getattr(after, player), after.running_stats)) for after in moves())
    apart = max(float(np.max(np.abs(a - b), initial=0)) for a, b in zip(whole, parts, strict=True))
    assert apart > 1e-4 if reason else apart < 2e-6


def test_r3gan_can_be_cut_and_a_dcgan_with_batch_normalization_cannot():
    whole = make_game(r3gan.get_config("cifar10"), image_shape=(32, 32, 3), num_classes=10)
    assert memory.what_parts_change(whole) == ""
    assert "batches (BatchNorm_0" in memory.what_parts_change(make_game(runs.config(), image_shape=(8, 8, 1)))
