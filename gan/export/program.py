"""A generator as a function of arrays with its weights inside, and as a program that JAX alone runs.

The function has no primitive of this package, no random numbers and no power iteration: what does not depend on the
latents and labels is a constant of it.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.data import is_point, to_uint8
from gan.game import SPECTRAL_NORM, Game
from gan.inference.model import Model
from gan.io import atomic
from gan.networks.conv.plain import without_primitives
from gan.networks.layers import spectral
from gan.networks.layers.styles import STYLE_MEAN

PLATFORMS = ("cpu", "cuda", "tpu")
"""The platforms that one exported program runs on."""

PROGRAM = "generator.stablehlo"
"""The file of the program."""

Function = Callable[..., tuple[Array | np.ndarray, Array]]


def function(model: Model) -> Function:
    """The function `(latent [B, Z], label int32 [B]) -> (images, values)` of a generator.

    `images` are uint8 [B, H, W, C], `values` float32 [B, H, W, C] in the range of the game. Both are the same float32
    points for points in the plane. The truncation of the model's styles is part of the function.
    """
    game, variables = folded(model)

    def generate(latent: Array, label: Array) -> tuple[Array | np.ndarray, Array]:
        return _results(game, game.generate(variables, latent, label, train=False)[0])

    return generate


def function_of_psi(model: Model) -> Function:
    """As `function`, for a generator with styles, with the truncation psi, float32 [], as the third argument."""
    game, variables = folded(dataclasses.replace(model, game=model.game.truncated(1.0)))
    means = variables["batch_stats"][STYLE_MEAN]

    def generate(latent: Array, label: Array, psi: Array) -> tuple[Array | np.ndarray, Array]:
        styles, mean = game.styles(variables, latent, label), means[None, None]
        if means.ndim == 2:  # one for each class
            mean = means[label][:, None]
        return _results(game, game.synthesize(variables, mean + psi * (styles - mean)))

    return generate


def folded(model: Model) -> tuple[Game, dict]:
    """The game and variables of a generator whose spectral normalization has been applied to its parameters."""
    game, variables = model.game, model.ema.variables
    if not game.generator.spectral_norm:
        return game, variables
    batch_stats = dict(variables["batch_stats"])
    params, _ = spectral.normalized(variables["params"], batch_stats.pop(SPECTRAL_NORM))
    player = dataclasses.replace(game.generator, spectral_norm=False)
    return dataclasses.replace(game, generator=player), {"params": params, "batch_stats": batch_stats}


def save(model: Model, path: Path) -> None:
    """Writes the program of `function`, for any batch size and for `PLATFORMS`, as `jax.export` serializes it.

    JAX runs it in versions that are up to six months newer, and in those that are up to three weeks older
    (docs.jax.dev, "Exporting and serializing staged-out computations").
    """
    from jax import export  # late: it needs flatbuffers, which nothing else does

    (size,) = export.symbolic_shape("b")
    latent = jax.ShapeDtypeStruct((size, model.game.latent_size), jnp.float32)
    label = jax.ShapeDtypeStruct((size,), jnp.int32)
    with without_primitives():
        exported = export.export(jax.jit(function(model)), platforms=PLATFORMS)(latent, label)
    with atomic.replacing(path) as tmp:
        tmp.write_bytes(exported.serialize())


def _results(game: Game, values: Array) -> tuple[Array | np.ndarray, Array]:
    return (values if is_point(game.image_shape) else to_uint8(values, game.output.image_range)), values
