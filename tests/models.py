"""Models with random weights, without a run: for what is computed from a generator alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from configs import default
from gan import build
from gan.game import initial_variables
from gan.inference.model import Model
from gan.state import GeneratorEMA


def model_of(config, *, image_shape, class_names=()):
    """A model with random weights: positive, as variances are, and neither constants nor zeros of an initialization."""
    game = build.make_game(config, image_shape=image_shape, num_classes=len(class_names))
    keys = jax.random.split(jax.random.key(0))
    shapes, _ = jax.eval_shape(functools.partial(initial_variables, game), *keys)
    draw = np.random.default_rng(0)

    def drawn(path, leaf):
        is_mapping = "Mapping_0" in jax.tree_util.keystr(path)
        scale = 0.3 if not game.has_styles else 100.0 if is_mapping else 1.0  # as StyleGAN2 is initialized
        return draw.normal(size=leaf.shape, scale=scale)

    variables = {
        "params": jax.tree_util.tree_map_with_path(drawn, shapes["params"]),
        "batch_stats": jax.tree.map(lambda leaf: draw.uniform(0.5, 1.5, leaf.shape), shapes["batch_stats"]),
    }
    ema = GeneratorEMA(**jax.tree.map(jnp.float32, variables))
    return Model(game=game, config=config, class_names=class_names, step=0, ema=ema, source="made")


def made(network, *, class_names=(), image_shape=(8, 8, 1), latent=8, prior="normal", **options):
    """The model of a network with these fields."""
    config = default.get_config()
    config.generator = default.player(network=network, **options)
    config.discriminator = default.player(network="mlp", width=2)
    config.latent.size, config.latent.prior = latent, prior
    return model_of(config, image_shape=image_shape, class_names=class_names)
