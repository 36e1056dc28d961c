"""Any loss, any penalty, any network: built or rejected with the reason, and one finite update of each player.

A pair of choices is tried where it stands in a case; the fast test has every choice but the network in some case,
on MLPs; the slow ones have every network, and every pair of a loss and a penalty, while augmentations, optimizers and
conditionings cycle beneath them.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from gan import state, steps
from gan.augment import AUGMENTS
from gan.build import make_game, make_schedules
from gan.errors import UserError
from gan.losses import LOSSES
from gan.networks import NETWORKS
from gan.optimizers import OPTIMIZERS
from gan.penalties import PENALTIES

BATCH, CLASSES = 8, 3
NETWORK_FIELDS = {
    "mlp": ((4, 4, 1), {"width": 8, "layers": (1,)}, {"width": 8, "layers": (1,)}),
    "dcgan": ((8, 8, 3), {"width": 4, "depth": 1}, {"width": 4, "depth": 2}),
    "conv_gan": ((28, 28, 1), {"width": 2}, {"width": 2}),
    "flag": ((8, 8, 1), {"channels": (4, 3), "dropout": 0.5}, {"channels": (3,), "hidden": 4, "dropout": 0.25}),
    "r3gan": ((8, 8, 1), {"widths": (4, 2), "blocks": 1, "group_width": 4}, {"widths": (4, 2), "group_width": 2}),
    "resnet": ((8, 8, 1), {"widths": (4, 3)}, {"widths": (3, 4), "halvings": 1, "layer_norm": True}),
    "sagan": ((8, 8, 1), {"widths": (4, 3), "attention": (8,)}, {"widths": (3, 4), "halvings": 1, "attention": (4,)}),
    "biggan": ((8, 8, 1), {"widths": (4, 3), "split_latent": False}, {"widths": (3, 4), "halvings": 1}),
    "biggan_deep": ((8, 8, 1), {"widths": (4, 3), "depth": 1}, {"widths": (3, 4), "depth": 1, "halvings": 1}),
    "stylegan2": (
        (8, 8, 1),
        {"widths": (4, 3), "style_width": 5, "mapping_layers": 1},
        {"widths": (3, 4), "group_size": 4, "mapping_layers": 1},
    ),
    "gat": (
        (4, 8, 1),
        {"width": 8, "depth": 2, "heads": 2, "levels": 2},
        {"width": 8, "depth": 2, "heads": 1, "levels": 2, "label_width": 4},
    ),
}
HAS_BATCH_STATISTICS = {
    "generator": {"dcgan", "conv_gan", "flag", "resnet", "sagan", "biggan", "biggan_deep"}, "discriminator": {"dcgan"},
}  # fmt: skip
CONDITIONINGS = [
    ("none", "none"), ("embedding", "projection"), ("concat", "projection"), ("concat_embedding", "projection"),
    ("embedding", "classifier"),
]  # fmt: skip
ESTIMATOR = " by "
"""The separator between a penalty and the estimator of its gradient in the name of a case."""
LOSS_TEXTS = [*LOSSES, *(f'f_gan("{name}")' for name in ("reverse_kl", "pearson", "jensen_shannon"))]


def configured(network, loss, penalty, augment, optimizer, conditioning):
    """A config, the shape of its images, and whether the game is a valid one."""
    shape, *fields = NETWORK_FIELDS[network]
    config = default.get_config()
    config.unlock()
    for player, own, given in zip(("generator", "discriminator"), fields, conditioning, strict=True):
        config[player] = default.player(network=network, optimizer=optimizer, **own)
        config[player].conditioning = given
    config.batch_size, config.latent.size, config.loss = BATCH, 9 if "concat" in conditioning else 8, loss
    penalty, _, estimator = penalty.partition(ESTIMATOR)
    config.gradient_estimator = estimator or "exact"
    if penalty and PENALTIES[penalty].needs_image_latents:
        config.latent.size = 0
        if network == "conv_gan" and conditioning[0] == "concat":  # 784 numbers and 3 of the label are no multiple of 4
            config.generator.conditioning = "embedding"
    if penalty:
        config.penalties[penalty] = 0.1
    if augment != "none":
        config.augment.policy, config.augment.p = augment, 0.5
    batch_statistics = penalty and network in HAS_BATCH_STATISTICS[PENALTIES[penalty].player]
    is_legal = not penalty or (
        not (PENALTIES[penalty].needs_input_gradient and batch_statistics)
        and not (PENALTIES[penalty].needs_class_logits and conditioning[1] != "classifier")
        and not (network == "gat" and penalty in ("wgan_gp", "wgan_lp"))
    )
    return config, shape, is_legal


def build(config, shape):
    return make_game(config, image_shape=shape, num_classes=CLASSES)


def update(current, batch, *, game, settings, axis_name, players):
    after_d, of_d, of_g = current, {}, {}
    if "discriminator" in players:
        after_d, of_d = steps.discriminator_step(current, batch, settings, game=game, axis_name=axis_name)
    after_g = after_d
    if "generator" in players:
        after_g, of_g = steps.generator_step(after_d, batch, settings, game=game, axis_name=axis_name)
    return after_d, after_g, of_d | of_g


def check(config, shape, wrapper, players=("discriminator", "generator")):
    """One update of these players is finite, and each changes its own player alone."""
    game, settings = build(config, shape), make_schedules(config)(0)
    start = jax.jit(functools.partial(state.create, game, settings, 0))()
    key = jax.random.key(1)
    batch = {
        "image": jax.random.uniform(key, (BATCH, *shape), minval=-1.0),
        "label": jnp.arange(BATCH) % CLASSES,
        "row": jnp.arange(BATCH),
    }
    if wrapper == "jit":
        step = jax.jit(functools.partial(update, game=game, settings=settings, axis_name=None, players=players))
    else:
        batch = jax.tree.map(lambda leaf: leaf.reshape(4, -1, *leaf.shape[1:]), batch)
        mapped = functools.partial(update, game=game, settings=settings, axis_name="data", players=players)
        step = jax.pmap(mapped, axis_name="data", in_axes=(None, 0), out_axes=None, devices=jax.devices()[:4])
    after_d, after_g, metrics = step(start, batch)
    for leaf in jax.tree.leaves((after_g.generator, after_g.discriminator, after_g.running_stats, metrics)):
        assert np.isfinite(leaf).all()
    assert same(after_d.generator, start.generator) and same(after_g.discriminator, after_d.discriminator)
    assert same(after_d.discriminator, start.discriminator) is ("discriminator" not in players)
    assert same(after_g.generator, after_d.generator) is ("generator" not in players)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize(
    "network, field, value, line",
    [
        (
            "stylegan2",
            "discriminator.spectral_norm",
            True,
            "discriminator.spectral_norm=True.*scale their weights thems",
        ),
        ("stylegan2", "generator.spectral_norm", True, "generator.spectral_norm=True.*far too small; expected: False"),
        ("stylegan2", "weight_clip", 0.01, "weight_clip=0.01 is far below.*of size 1.*expected: 0"),
        ("r3gan", "discriminator.spectral_norm", True, "discriminator.spectral_norm=True.*initially zero"),
        ("r3gan", "generator.spectral_norm", True, "generator.spectral_norm=True.*initially zero"),
        ("r3gan", "weight_clip", 0.01, None),
        ("dcgan", "generator.spectral_norm", True, None),
    ],
)
def test_weights_that_could_not_learn_are_rejected(network, field, value, line):
    config, shape, _ = configured(network, "non_saturating", "", "none", "adam", ("none", "none"))
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=line) if line else contextlib.nullcontext():
        build(config, shape)


def legal_or_refused(tried):
    """The config of the case, with an MLP where its network must be rejected."""
    config, shape, is_legal = configured(**tried)
    if not is_legal:
        penalty = tried["penalty"].partition(ESTIMATOR)[0]
        with pytest.raises(UserError, match=f"config.penalties.{penalty} needs"):
            build(config, shape)
        classifies = PENALTIES[penalty].needs_class_logits
        conditioning = CONDITIONINGS[-1] if classifies else tried["conditioning"]
        config, shape, is_legal = configured(**tried | {"network": "mlp", "conditioning": conditioning})
        assert is_legal
    return config, shape


def case(i, *, loss, penalty, networks=tuple(NETWORKS)):
    """A case of these two, with the other choices cycling at different periods."""
    return {
        "network": networks[i % len(networks)],
        "loss": loss,
        "penalty": penalty,
        "augment": list(AUGMENTS)[i // 2 % len(AUGMENTS)],
        "optimizer": list(OPTIMIZERS)[i % len(OPTIMIZERS)],
        "conditioning": CONDITIONINGS[i // 3 % len(CONDITIONINGS)],
    }


PENALTY_NAMES = [
    "", *PENALTIES, f"r1{ESTIMATOR}finite_difference(0.01)", f"r2{ESTIMATOR}finite_difference(0.1, every=2)",
]  # fmt: skip


def cases(networks):
    """Every loss and every penalty once or more, on these networks."""
    return [
        case(i, loss=LOSS_TEXTS[i % len(LOSS_TEXTS)], penalty=PENALTY_NAMES[i % len(PENALTY_NAMES)], networks=networks)
        for i in range(max(len(LOSS_TEXTS), len(PENALTY_NAMES)))
    ]


CASES = cases(("mlp",))
OF_EVERY_NETWORK = cases(tuple(NETWORKS))


def name(tried):
    return "-".join(str(part) for part in tried.values() if part and isinstance(part, str))


@pytest.mark.parametrize("tried", CASES, ids=name)
def test_each_choice_is_covered(tried):
    check(*legal_or_refused(tried), "jit")


@pytest.mark.slow
@pytest.mark.parametrize("tried", OF_EVERY_NETWORK, ids=name)
def test_every_network_with_some_choices(tried):
    """The last case of each network on four devices, the others on one."""
    last = {one["network"]: one for one in OF_EVERY_NETWORK}
    check(*legal_or_refused(tried), "pmap" if tried is last[tried["network"]] else "jit")


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_with_every_penalty(loss):
    """On MLPs, operation by operation: most pairs share these programs. Above, each choice is compiled as a whole.

    The other player's update does not have the penalty, and is that of the loss alone.
    """
    for i, penalty in enumerate(PENALTIES, start=LOSS_TEXTS.index(loss)):
        config, shape = legal_or_refused(case(i, loss=loss, penalty=penalty, networks=("mlp",)))
        with jax.disable_jit():
            check(config, shape, "jit", (PENALTIES[penalty].player,))


def test_every_choice_is_among_the_cases():
    for field, table in (("loss", LOSS_TEXTS), ("penalty", PENALTIES), ("augment", AUGMENTS),
                         ("optimizer", OPTIMIZERS), ("conditioning", CONDITIONINGS)):  # fmt: skip
        for tried in (CASES, OF_EVERY_NETWORK):
            assert {one[field] for one in tried} >= set(table), field
    assert {one["network"] for one in OF_EVERY_NETWORK} == set(NETWORKS)
    assert set(NETWORK_FIELDS) == set(NETWORKS)
