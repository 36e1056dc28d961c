"""Directions in which a code can be moved to change an image: SeFa and PCA, and files of them.

A direction is a vector of the shape of a code, scaled so that strength 1 moves a code by one standard deviation of the
codes along it. With styles it moves the styles of chosen layers only.
"""

import dataclasses
import functools
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from flax import linen as nn
from jax import Array

from gan.config.flattening import flatten
from gan.errors import UserError
from gan.game import Game, stated
from gan.inference import codes
from gan.inference.model import Model
from gan.io import workdir
from gan.io.atomic import replacing

SAMPLES = 4096
"""Codes from which standard deviations and principal components are computed."""
MAX_JACOBIANS = 16
"""Examples over which SeFa's A^T A is averaged; one is exact where the layers are affine and know no labels."""


@dataclasses.dataclass(frozen=True, eq=False)
class Directions:
    """Directions of a generator's codes, the one of the largest effect first."""

    vectors: np.ndarray
    """float32 [K, Z], or [K, L, W] of styles: the move of strength 1."""
    shares: np.ndarray
    """float32 [K]: the eigenvalue of each direction over the sum of all eigenvalues."""
    method: str
    """"sefa" or "pca"."""
    config: Mapping[str, Any]
    """The fields of the run's config that its parameters depend on; none where they are unknown."""

    def save(self, path: Path) -> None:
        """Writes an NPZ file with the arrays `vectors`, `shares` and `method`, and `config` as JSON."""
        texts: dict[str, Any] = {"method": np.array(self.method), "config": np.array(json.dumps(self.config))}
        with replacing(path) as tmp, open(tmp, "wb") as file:
            np.savez_compressed(file, vectors=self.vectors, shares=self.shares, **texts)


def load(path: str | Path) -> Directions:
    """The directions of a file that `Directions.save` wrote. Raises `UserError` for any other file."""
    try:
        if Path(path).is_file() and not zipfile.is_zipfile(path):
            raise ValueError("no NPZ file")
        with np.load(path, allow_pickle=False) as arrays:
            found = Directions(
                np.asarray(arrays["vectors"], np.float32),
                np.asarray(arrays["shares"], np.float32),
                str(arrays["method"]),
                dict(json.loads(str(arrays["config"]))) if "config" in arrays else {},
            )
        if found.vectors.ndim not in (2, 3) or found.shares.shape != found.vectors.shape[:1]:
            raise ValueError("unexpected shapes")
        if not np.isfinite(found.vectors).all():
            raise ValueError("values that are not finite")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} holds no directions ({error}); expected: an NPZ file of the view 'directions'"
        ) from None
    return found


def sefa(model: Model, count: int = 10, *, layers: Iterable[int] | None = None) -> Directions:
    """The directions that change the first layers most: unit eigenvectors of A^T A (closed form, equation 7).

    The layers are affine in the code, y = A x + b, and A is all of their weights together: of a latent the layers that
    it enters first, split latents and the linear maps of modulated normalizations included; of styles the affine maps
    of the chosen layers. A is the Jacobian of the network, so that spectral normalization and the scales of a label are
    in it. Where it depends on the example (on the label, or on the latent where a ReLU precedes the layer) A^T A is the
    mean over examples of all classes. The largest entry of a vector is positive.

    Args:
      count: number of directions K, at most the size of a code.
      layers: indices of the styles that a direction moves; None: all of them.

    Raises:
      UserError: a network that does not state its first layers, layers without styles, or layers out of range.

    Reference: Shen and Zhou 2021, arXiv:2007.06600.
    """
    examples = max(1, min(model.game.num_classes, MAX_JACOBIANS)) if model.game.is_conditional else 1
    examples = max(examples, 8 if not model.game.has_styles else 1)
    latents = model.latents(examples)
    labels = jnp.arange(examples, dtype=jnp.int32) % max(model.game.num_classes, 1)
    points, moves = codes.encode(model, latents, labels), _moves(model, layers)
    gram = _gram(model.ema.variables, points, labels, moves, game=model.game, pattern=_first_layers(model))
    values, vectors = np.linalg.eigh(np.asarray(gram, np.float64))
    values, vectors = np.maximum(values[::-1], 0.0), vectors.T[::-1]
    return _scaled(model, values[:count] / values.sum(), vectors[:count], moves, "sefa")


def pca(model: Model, count: int = 10, *, layers: Iterable[int] | None = None, layer: str | None = None) -> Directions:
    """The principal components of activations, as directions of the code.

    With styles they are those of the styles w. Without, they are those of the activations y of a layer, and the
    direction of component k is its regression on the latents: with p_k(y) the coordinate of y along the component, in
    standard deviations, it is the mean of p_k(y) (z - mean z). For an affine first layer of independent latents these
    are the directions of SeFa on that layer alone, up to the noise of SAMPLES latents.

    Args:
      count: number of directions K, at most the size of a code.
      layers: as in `sefa`.
      layer: a regular expression for the path of the layer; None: the first layer.

    Raises:
      UserError: as `sefa`, or a layer that the generator has not.

    Reference: Härkönen et al. 2020, arXiv:2004.02546, section 2.
    """
    moves, latents = _moves(model, layers), np.asarray(model.latents(SAMPLES))
    labels = np.arange(SAMPLES, dtype=np.int32) % max(model.game.num_classes, 1)
    if model.game.has_styles:
        activations = np.concatenate([
            np.asarray(model.styles(latents[rows], labels[rows])[:, 0]) for rows in _batches(SAMPLES)
        ])  # fmt: skip
    else:
        pattern = layer or _first_layers(model)
        activations = np.concatenate([
            np.asarray(_activations(model.ema.variables, latents[rows], labels[rows], game=model.game, pattern=pattern))
            for rows in _batches(SAMPLES)
        ])  # fmt: skip
    components, coordinates, shares = principal_components(activations, min(count, codes.shape(model)[-1]))
    if model.game.has_styles:
        return _scaled(model, shares, components, moves, "pca")
    vectors = coordinates.T @ (latents - latents.mean(axis=0, keepdims=True)) / SAMPLES
    vectors *= _signs(vectors)[:, None]
    return Directions(vectors.astype(np.float32), shares.astype(np.float32), "pca", _fields(model))


def principal_components(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `count` directions of largest variance of x [N, F], and the coordinates of x along them.

    Returns unit vectors [K, F], whose largest entry is positive; coordinates [N, K] in standard deviations; and the
    shares [K] of the total variance. K is at most min(N, F) - 1.
    """
    centered = (x - x.mean(axis=0, keepdims=True)).astype(np.float64)
    count = min(count, min(x.shape) - 1)
    left, values, right = scipy.sparse.linalg.svds(centered, k=count, v0=np.ones(min(x.shape)), solver="arpack")
    order = np.argsort(values)[::-1]
    values, right, left = values[order], right[order], left[:, order]
    signs = _signs(right)
    shares = np.square(values) / max(np.square(centered).sum(), np.finfo(float).tiny)
    return right * signs[:, None], left * signs[None] * np.sqrt(len(x)), shares


def move(code: Array, directions: Directions, index: int, strengths: Array | Sequence[float]) -> Array:
    """Codes [S, ...]: a code [...] moved along direction `index` by each of the strengths [S]."""
    vector = jnp.asarray(directions.vectors[index])
    return code[None] + jnp.reshape(jnp.asarray(strengths), (-1, *[1] * vector.ndim)) * vector[None]


def check(found: Directions, model: Model, what: str = "the directions") -> None:
    """Raises `UserError`, which begins with `what`, for directions of other codes or of a run of another config.

    Those of another step of the same run are taken. Fields that only one of them has are not compared.
    """
    shape, own = codes.shape(model), _fields(model)
    if found.vectors.shape[1:] != shape:
        raise UserError(
            f"{what} have the shape {list(found.vectors.shape[1:])}, and a code of {model.source} has "
            f"{list(shape)}; expected: directions of the same run"
        )
    for field in sorted(found.config.keys() & own.keys()):
        if found.config[field] != own[field]:
            raise UserError(
                f"{what} are of a run with config.{field}={found.config[field]!r}, which is {own[field]!r} in "
                f"{model.source}; expected: directions of the same run"
            )


def offset(model: Model, moves: Iterable[str]) -> Array:
    """The sum of moves "FILE:INDEX*STRENGTH", to be added to codes: float32 of the shape of a code.

    Raises `UserError` for a text of another form, an index that a file has not, and directions of another run.
    """
    total = np.zeros(codes.shape(model), np.float32)
    for text in moves:
        path, index, strength = parsed(text)
        found = load(path)
        check(found, model, f"the directions in {path}")
        if not 0 <= index < len(found.vectors):
            raise UserError(
                f"direction {text!r}: {path} has no direction {index}; expected: 0 to {len(found.vectors) - 1}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            total += np.float32(strength) * found.vectors[index]
        if not np.isfinite(total).all():
            raise UserError(f"direction {text!r} is out of range; expected: a strength of a few standard deviations")
    return jnp.asarray(total)


def parsed(text: str) -> tuple[Path, int, float]:
    """The parts of "FILE:INDEX*STRENGTH", as in "directions.npz:0*2.5". Raises `UserError` for another form."""
    match = re.fullmatch(r"(.+):(\d{1,9})\*([^*:]+)", text)
    try:
        strength = float(match[3]) if match else np.nan
    except ValueError:
        strength = np.nan
    if match is None or not np.isfinite(strength):
        raise UserError(f"direction {text!r}; expected: FILE:INDEX*STRENGTH, as in directions.npz:0*2.5")
    return Path(match[1]), int(match[2]), strength


def _scaled(model: Model, shares: np.ndarray, vectors: np.ndarray, moves: Array, method: str) -> Directions:
    """Unit vectors [K, N] as directions: times the standard deviation of the codes along each, for the moved parts."""
    values = np.asarray(_sample_codes(model), np.float64)
    deviations = np.std((values[:, 0] if values.ndim == 3 else values) @ vectors.T, axis=0)
    vectors = vectors * (deviations * _signs(vectors))[:, None]
    if model.game.has_styles:
        vectors = np.asarray(moves)[None, :, None] * vectors[:, None]
    return Directions(vectors.astype(np.float32), shares.astype(np.float32), method, _fields(model))


def _fields(model: Model) -> dict[str, Any]:
    """The fields of the config that the parameters depend on, as JSON has them."""
    unrelated = (*workdir.MEMORY_FIELDS, workdir.KEEP_EVERY)
    fields = {
        name: value
        for name, value in flatten(model.config).items()
        if name not in unrelated and not workdir.is_free(name)
    }
    return json.loads(json.dumps(fields))


def _sample_codes(model: Model) -> np.ndarray:
    latents = np.asarray(model.latents(SAMPLES))
    return np.concatenate([np.asarray(codes.encode(model, latents[rows])) for rows in _batches(SAMPLES)])


def _moves(model: Model, layers: Iterable[int] | None) -> Array:
    """1.0 for each style that a direction moves, float32 [L]; [1] without styles."""
    if not model.game.has_styles:
        if layers is not None:
            raise UserError(f"layers need styles, and the generator of {model.source} has none: expected: no layers")
        return jnp.ones(1)
    count = codes.num_parts(model)
    chosen = range(count) if layers is None else list(layers)
    if not chosen or not all(0 <= layer < count for layer in chosen):
        raise UserError(f"layers={list(chosen)}; expected: some of 0 to {count - 1}")
    return jnp.asarray(np.isin(np.arange(count), chosen), jnp.float32)


def _first_layers(model: Model) -> str:
    """The regular expression by which a network names the layers that its code enters."""
    pattern = stated(model.game.generator.module, "latent_layers", "")
    if not pattern:
        raise UserError(
            f"the network {model.config.generator.network!r} of {model.source} does not state its first layers: set "
            "latent_layers in its Generator, as gan/networks/__init__.py says; all networks of this package have it"
        )
    return pattern


def _layer_outputs(game: Game, variables: dict, code: Array, label: Array, pattern: str, *, only_first: bool) -> Array:
    """The outputs of the modules whose path matches, flattened and concatenated: float32 [B, F]."""
    found: list[Array] = []

    def record(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and re.fullmatch(pattern, "/".join(context.module.path)):
            found.append(output.reshape(len(code), -1).astype(jnp.float32))
        return output

    # A block that is computed again for the gradient would be traced apart, and its outputs could not leave it.
    if stated(game.generator.module, "remat", False):
        player = dataclasses.replace(game.generator, module=game.generator.module.clone(remat=False))
        game = dataclasses.replace(game, generator=player)
    with nn.intercept_methods(record):
        if game.has_styles:
            game.synthesize(variables, code)
        else:
            game.generate(variables, code, label, train=False)
    if not found:
        raise UserError(f"the generator has no layer {pattern!r}; expected: a regular expression for a module's path")
    return found[0] if only_first else jnp.concatenate(found, axis=-1)


def _gram(variables: dict, points: Array, labels: Array, moves: Array, *, game: Game, pattern: str) -> Array:
    """The mean over examples of J^T J [N, N], J the Jacobian of the first layers at a code by a move of its parts."""

    def one(variables: dict, point: Array, label: Array) -> Array:
        def outputs(step: Array) -> Array:
            code = point + (moves[:, None] * step[None] if game.has_styles else step)
            return _layer_outputs(game, variables, code[None], label[None], pattern, only_first=False)[0]

        jacobian = jax.jacfwd(outputs)(jnp.zeros(point.shape[-1]))
        return jnp.matmul(jacobian.T, jacobian, precision=jax.lax.Precision.HIGHEST)

    compiled = jax.jit(one)
    return sum(compiled(variables, point, label) for point, label in zip(points, labels, strict=True)) / len(points)


@functools.partial(jax.jit, static_argnames=("game", "pattern"))
def _activations(variables: dict, latents: Array, labels: Array, *, game: Game, pattern: str) -> Array:
    return _layer_outputs(game, variables, latents, labels, pattern, only_first=True)


def _batches(count: int) -> list[slice]:
    return [slice(first, first + codes.BATCH_SIZE) for first in range(0, count, codes.BATCH_SIZE)]


def _signs(vectors: np.ndarray) -> np.ndarray:
    """The sign of the entry of largest magnitude of each of vectors [K, N]: [K]."""
    largest = np.argmax(np.abs(vectors), axis=1)
    return np.where(vectors[np.arange(len(vectors)), largest] < 0, -1.0, 1.0)
