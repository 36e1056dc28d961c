"""A small generator of every network family, with random weights: no training, no checkpoint, nothing compiled."""

import dataclasses
import functools
import math

import jax
import numpy as np

from configs import biggan, conv_gan, dcgan, flag_gan, gat, mlp_gan, r3gan, sagan, sngan, stylegan2, toy
from gan import build
from gan.inference.model import Model

CLASSES = ("cat", "dog", "bird")


@dataclasses.dataclass(frozen=True)
class Family:
    """The config of a network family, made small."""

    config: object
    """Without the changes."""
    generator: dict
    discriminator: dict
    image_shape: tuple = (16, 16, 3)
    class_names: tuple = ()


WIDTHS = {"widths": (8, 12, 8)}
EQUAL = {"widths": (8, 8, 8)}
ATTENTIVE = {"attention": (8,)}
HALVED = {"halvings": 1}
TRANSFORMER = {"width": 16, "depth": 4, "heads": 2, "patch_size": 4, "levels": 4}
FAMILIES = {
    "dcgan": Family(
        dcgan.get_config("digits"), {"width": 4, "depth": 2, "conditioning": "concat"}, {"width": 4, "depth": 2},
        (14, 10, 3), CLASSES,
    ),
    "mlp": Family(mlp_gan.get_config(), {"width": 16}, {"width": 16}, (8, 8, 1)),
    "points": Family(toy.get_config(), {"width": 16}, {"width": 16}, (1, 1, 2)),
    "conv_gan": Family(conv_gan.get_config(), {"width": 4}, {"width": 4}, (28, 28, 1)),
    "flag": Family(flag_gan.get_config("small"), {"channels": (8, 6, 4)}, {"channels": (4, 4)}, (32, 32, 1)),
    "r3gan": Family(r3gan.get_config(), WIDTHS | {"group_width": 4}, WIDTHS | {"group_width": 4}),
    "resnet": Family(sngan.get_config(), WIDTHS, WIDTHS | HALVED),
    "resnet_conditional": Family(sngan.get_config("conditional"), WIDTHS, WIDTHS | HALVED, class_names=CLASSES),
    "sagan": Family(sagan.get_config(), WIDTHS | ATTENTIVE, WIDTHS | HALVED | ATTENTIVE, class_names=CLASSES),
    "biggan": Family(biggan.get_config(), WIDTHS | ATTENTIVE, WIDTHS | HALVED | ATTENTIVE, class_names=CLASSES),
    "biggan_deep": Family(
        biggan.get_config("small_deep"), EQUAL | ATTENTIVE, EQUAL | HALVED | ATTENTIVE, class_names=CLASSES
    ),
    "stylegan2": Family(
        stylegan2.get_config(), WIDTHS | {"mapping_layers": 2, "style_width": 8}, WIDTHS | {"group_size": 2}
    ),
    "gat": Family(
        gat.get_config(), TRANSFORMER, TRANSFORMER | {"label_width": 8}, (8, 12, 3), CLASSES
    ),
}  # fmt: skip
FAST = ("dcgan", "stylegan2")
"""The families that every test runs over; the others are slow."""
SLOW = tuple(name for name in FAMILIES if name not in FAST)


@functools.cache
def model(name):
    """The generator of a family as `gan.load` gives it."""
    family = FAMILIES[name]
    config = family.config.copy_and_resolve_references()
    config.update({"generator": family.generator, "discriminator": family.discriminator})
    config.update({"batch_size": 4, "latent": {"size": 12}})
    setup = build.setup(config, image_shape=family.image_shape, num_classes=len(family.class_names))
    noise = np.random.default_rng(0)

    def drawn(path, leaf):
        if "var" in jax.tree_util.keystr(path):
            return (0.5 + noise.random(leaf.shape)).astype(np.float32)
        fan_in = math.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 4
        return (noise.standard_normal(leaf.shape) / math.sqrt(fan_in)).astype(np.float32)

    ema = jax.tree.map(jax.numpy.asarray, jax.tree_util.tree_map_with_path(drawn, setup.shapes.ema))
    return Model(setup.game, config, family.class_names, 3, ema, name)
