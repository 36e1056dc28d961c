"""Projection: the code whose image is nearest to a given image, found by gradient descent through the generator."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from gan.game import Game, Uniform
from gan.inference import codes
from gan.inference.model import Model
from gan.state import named_key

CANDIDATES = 256
"""Samples among which the starts are searched for."""
SAMPLES = 1024
"""Latents from which the spread of the codes is computed."""
REPORTS = 60
"""How often the codes are kept during an optimization."""
NOISE, NOISE_END = 0.05, 0.75
"""The standard deviation of the first step's noise, in those of the codes, and the part of the steps that have any."""
WARM_UP, DECAY = 0.05, 0.25
"""The first part of the steps, in which the learning rate grows linearly, and the last, in which it falls to 0."""


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
    """A projected image."""

    code: np.ndarray
    """float32, of the shape of a code (`gan.inference.codes`)."""
    label: int
    """The class that was given or found; 0 for an unconditional generator."""
    image: np.ndarray
    """uint8 [H, W, C]: the image of the code."""
    psnr: float
    """Of the image, in dB: 10 log10(255^2 / mean square difference)."""
    start_psnr: float
    """Of the start, the sample that was nearest."""
    steps: np.ndarray
    """uint8 [F, H, W, C]: the image of the start and of the code at regular steps of the optimization."""


def project(
    model: Model, image: np.ndarray, *, labels: Sequence[int] = (), seed: int = 0, steps: int = 500, starts: int = 10,
    rate: float = 0.1, features: Callable[[Array], Array] | None = None, track: Callable[..., Iterable] | None = None,
) -> Projection:  # fmt: skip
    """The code whose image is nearest to an image uint8 [H, W, C].

    The starts are the nearest of CANDIDATES samples, of as many of the classes `labels` as there are starts. Each is
    changed by Adam to minimize

      |G(x + n) - y|^2 / |y - mean(y)|^2  +  |f(G(x + n)) - f(y)|^2 / |f(y)|^2

    with n from N(0, (NOISE s r^2)^2), s^2 = E|x - E x|^2 of the codes and r falling linearly from 1 to 0 within the
    first NOISE_END of the steps. The learning rate is `rate` times a linear warm-up and a cosine at the end. The best
    result is returned. A style w is shared by all layers. Latents of a uniform prior stay within its bounds.

    Differences from the paper: it starts from the mean style, uses LPIPS, and also optimizes the noise maps, which are
    fixed here.

    Args:
      labels: the classes to search in; (): all of a conditional generator.
      seed: of the candidates and the noise.
      steps: of the optimization.
      starts: codes that are optimized side by side.
      features: f, from float images [N, H, W, C] in 0..255 to features [N, D], to be differentiated (see
        `gan.metrics.features.Extractor.differentiable`); None: the first term alone.
      track: logs the progress: `gan.io.progress.progress`.

    Reference: Karras et al. 2020, arXiv:1912.04958, appendix D; the schedule is that of the authors' code.
    """
    target = jnp.asarray(image, jnp.float32)
    distance = _distance(model.game, target, features)
    allowed = labels or (range(model.game.num_classes) if model.game.is_conditional else [0])
    x, found_labels = _starts(model, distance, allowed, seed, starts)
    every = max(1, math.ceil(steps / REPORTS))
    optimizer, advance = _advance(model, distance, found_labels, steps, every, rate)
    state, path = (x, optimizer.init(x), jnp.int32(0)), [np.asarray(x)]
    key = named_key(jax.random.key(seed), "projection")
    chunks = range(math.ceil(steps / every))
    for _ in track(chunks, total=len(chunks), what="Projecting the image") if track else chunks:
        state = advance(model.ema.variables, state, key)
        path.append(np.asarray(state[0]))
    best = int(np.argmin(_distances(model, distance, state[0], found_labels)))
    label = int(found_labels[best])
    shown = _full(model, jnp.asarray(np.stack([points[best] for points in path])))
    images = codes.draw(model, shown, np.full(len(path), label))
    return Projection(
        code=np.asarray(shown[-1]), label=label, image=images[-1], psnr=psnr(images[-1], image),
        start_psnr=psnr(images[0], image), steps=images,
    )  # fmt: skip


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """10 log10(255^2 / mean square difference) of two uint8 images, in dB; infinite for equal images."""
    error = float(np.mean(np.square(image.astype(np.float64) - reference.astype(np.float64))))
    return 10 * math.log10(255**2 / error) if error else math.inf


def schedule(t: Array) -> tuple[Array, Array]:
    """The factors of the learning rate and of the noise after a part t in [0, 1] of the steps."""
    decay = 0.5 - 0.5 * jnp.cos(jnp.pi * jnp.minimum(1.0, (1.0 - t) / DECAY))
    return decay * jnp.minimum(1.0, t / WARM_UP), jnp.square(jnp.maximum(0.0, 1.0 - t / NOISE_END))


def _distance(game: Game, target: Array, features: Callable[[Array], Array] | None) -> Callable[[Array], Array]:
    """The function from float images [B, H, W, C] in the game's range to their distances [B] from the target."""
    low, high = game.output.image_range
    spread = jnp.maximum(jnp.sum(jnp.square(target - jnp.mean(target))), 1.0)
    wanted = None if features is None else jax.lax.stop_gradient(features(target[None]))

    @jax.jit
    def distance(images: Array) -> Array:
        shown = (images - low) / (high - low) * 255.0
        total = jnp.sum(jnp.square(shown - target[None]), axis=(1, 2, 3)) / spread
        if features is not None and wanted is not None:
            found = features(jnp.clip(shown, 0.0, 255.0))
            scale = jnp.maximum(jnp.sum(jnp.square(wanted)), 1e-12)
            total += jnp.sum(jnp.square(found - wanted), axis=1) / scale
        return total

    return distance


def _starts(model: Model, distance: Callable, labels: Sequence[int], seed: int, count: int) -> tuple[Array, np.ndarray]:
    """The points [count, ...] and labels [count] of the samples nearest to the target, the best of each class."""
    latents = model.latents(CANDIDATES, seed=seed)
    all_labels = np.resize(np.asarray(list(labels), np.int32), CANDIDATES)
    points = codes.encode(model, latents, all_labels)
    points = points[:, :1] if model.game.has_styles else points
    nearest = np.argsort(_distances(model, distance, points, all_labels), kind="stable")
    # The nearest of each class come first: the class of the nearest sample may be another one than the image's.
    ranks = [np.count_nonzero(all_labels[nearest[:place]] == all_labels[row]) for place, row in enumerate(nearest)]
    order = nearest[np.argsort(ranks, kind="stable")][:count]
    return points[order], all_labels[order]


def _distances(model: Model, distance: Callable, points: Array, labels: np.ndarray) -> np.ndarray:
    found = []
    for first in range(0, len(points), codes.BATCH_SIZE):
        rows = slice(first, first + codes.BATCH_SIZE)
        found.append(distance(codes.decode(model, _full(model, points[rows]), labels[rows])))
    return np.concatenate(found)


def _full(model: Model, points: Array) -> Array:
    """Points as codes: one style w [B, 1, W] is that of all layers."""
    if not model.game.has_styles:
        return points
    return jnp.broadcast_to(points, (len(points), codes.num_parts(model), points.shape[-1]))


def _advance(
    model: Model, distance: Callable, labels: np.ndarray, steps: int, every: int, rate: float
) -> tuple[optax.GradientTransformation, Callable]:
    """Adam, and the compiled function that takes the next `every` of `steps` steps of it."""
    optimizer = optax.scale_by_adam()
    sample = codes.encode(model, model.latents(SAMPLES))
    sigma = jnp.sqrt(jnp.sum(jnp.var(sample[:, 0] if model.game.has_styles else sample, axis=0)))
    prior = model.game.prior if isinstance(model.game.prior, Uniform) and not model.game.has_styles else None

    @jax.jit
    def advance(variables: dict, state: tuple, key: Array) -> tuple:
        given = dataclasses.replace(model, ema=dataclasses.replace(model.ema, **variables))

        def objective(points: Array) -> Array:
            return jnp.sum(distance(codes.decode(given, _full(given, points), labels)))

        def one(_: Any, state: tuple) -> tuple:
            x, moments, step = state
            rate_factor, noise_factor = schedule(step / steps)
            noise = jax.random.normal(jax.random.fold_in(key, step), x.shape)
            gradient = jax.grad(objective)(x + NOISE * sigma * noise_factor * noise)
            change, moments = optimizer.update(gradient, moments)
            x = x - rate * rate_factor * change
            return x if prior is None else jnp.clip(x, prior.low, prior.high), moments, step + 1

        return jax.lax.fori_loop(0, every, one, state)

    return optimizer, advance
