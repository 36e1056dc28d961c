"""A generator as an ONNX file, by the package jax2onnx, which needs an environment of its own (docs/export.md)."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gan.data import is_point
from gan.errors import UserError
from gan.export import program
from gan.game import stated
from gan.inference.model import Model
from gan.io import atomic
from gan.networks.conv.plain import without_primitives

FILE = "generator.onnx"
"""The file of the ONNX graph."""

SIZE = "B"
"""The name of the batch size in the graph."""


def save(model: Model, path: Path) -> None:
    """Writes the ONNX graph of a generator, for any batch size, with its weights, which are float32.

    Its inputs are `latent` float32 [B, Z]; of a conditional generator `label` int32 [B]; and of one with styles `psi`
    float32 [], the truncation. Its outputs are `images` uint8 [B, H, W, C] and `values` float32 [B, H, W, C] in the
    range of the game; for points in the plane, `values` alone.

    Raises `UserError` where jax2onnx is not installed.
    """
    try:
        from jax2onnx import to_onnx  # late: it needs an environment of its own
    except ImportError as error:
        raise UserError(
            "--format=onnx needs the package jax2onnx, in an environment of its own: see docs/export.md"
        ) from error
    function, inputs = graph(in_float32(model))
    outputs = ("values",) if is_point(model.game.image_shape) else ("images", "values")
    with without_primitives():
        # Constants such as the fixed noise are computed now, before jax2onnx replaces functions of JAX.
        jax.eval_shape(function, *(array_of(spec, 2) for spec in inputs.values()))
        given = [array_of(spec, SIZE) for spec in inputs.values()]
        names = {"input_names": tuple(inputs), "output_names": outputs}
        proto = to_onnx(function, given, model_name="generator", **names)
    with atomic.replacing(path) as tmp:
        tmp.write_bytes(proto.SerializeToString())


def graph(model: Model) -> tuple[Callable, dict[str, tuple[tuple[str | int, ...], type]]]:
    """The function that becomes the graph, and its inputs: {name: (shape, type)}, with `SIZE` for the batch size."""
    game = model.game
    inputs: dict[str, tuple[tuple[str | int, ...], type]] = {"latent": ((SIZE, game.latent_size), jnp.float32)}
    if game.is_conditional:
        inputs["label"] = ((SIZE,), jnp.int32)
    if game.has_styles:
        inputs["psi"] = ((), jnp.float32)
    generate = (program.function_of_psi if game.has_styles else program.function)(model)

    def function(*arrays: jax.Array) -> tuple[jax.Array | np.ndarray, ...]:
        given = dict(zip(inputs, arrays, strict=True))
        latent = given["latent"]
        label = given["label"] if game.is_conditional else jnp.zeros(latent.shape[0], jnp.int32)
        images, values = generate(latent, label, *([given["psi"]] if game.has_styles else []))
        return (values,) if is_point(game.image_shape) else (images, values)

    return function, inputs


def array_of(spec: tuple[tuple[str | int, ...], type], size: str | int) -> jax.ShapeDtypeStruct:
    """The shape and type of an input, with this batch size."""
    shape, dtype = spec
    return jax.ShapeDtypeStruct(tuple(size if axis == SIZE else axis for axis in shape), dtype)


def in_float32(model: Model) -> Model:
    """The model that computes in float32: ONNX Runtime has no bfloat16 on CPUs."""
    game = dataclasses.replace(model.game, compute_dtype="float32")
    if stated(game.generator.module, "bfloat16_stages", 0):
        module = game.generator.module.clone(bfloat16_stages=0)
        game = dataclasses.replace(game, generator=dataclasses.replace(game.generator, module=module))
    return dataclasses.replace(model, game=game)
