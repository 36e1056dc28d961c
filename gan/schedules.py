"""Hyperparameters as functions of the images seen.

`Hyperparams` is a pytree of traced scalars: it is computed inside the compiled program and never stored in the state,
so a resumed run uses its config, and a population of runs is a `vmap` over it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import struct
from jax import Array

Schedule = Callable[[Array], Array]


@struct.dataclass
class PlayerHyperparams:
    """The numbers of one player's optimizer, float32 scalars."""

    learning_rate: Array
    beta1: Array
    beta2: Array
    epsilon: Array
    weight_decay: Array
    clip_norm: Array
    """The largest norm of a gradient, to which a larger one is scaled; 0: no clipping."""


@struct.dataclass
class AugmentHyperparams:
    """The numbers of the augmentation, float32 scalars."""

    p: Array
    """Its probability; of an adaptive one, the initial probability."""
    target: Array
    """The mean sign of D's logits on real images that an adaptive p aims at."""
    ada_images: Array
    """Images in which an adaptive p can go from 0 to 1."""


@struct.dataclass
class Hyperparams:
    """All hyperparameters of a train step, float32 scalars."""

    generator: PlayerHyperparams
    discriminator: PlayerHyperparams
    ema_halflife: Array
    """The EMA's half-life in images; 0: no averaging."""
    penalties: dict[str, Array]
    """The weights of the penalties that the game has, by name."""
    augment: AugmentHyperparams
    weight_clip: Array
    """The bound to which D's parameters are clipped after each update, used if `Game.clips_weights`."""
    top_k: Array
    """The share of a batch, with the largest logits, that G is trained on, used if `Game.selects_top`."""


def constant(base: float) -> Schedule:
    """The config's value, always."""
    return lambda images: jnp.float32(base)


def linear(base: float, end: float, images_to_end: float) -> Schedule:
    """From the config's value to `end` in a straight line over `images_to_end` images, then `end`."""
    progress = _progress(images_to_end)
    return lambda images: base + (end - base) * progress(images)


def cosine(base: float, end: float, images_to_end: float) -> Schedule:
    """From the config's value to `end` along half a cosine over `images_to_end` images, then `end`.

    Reference: Loshchilov and Hutter 2017, SGDR, arXiv:1608.03983, equation 5, without restarts.
    """
    progress = _progress(images_to_end)
    return lambda images: end + (base - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress(images)))


def warmup(base: float, images_to_base: float) -> Schedule:
    """From 0 to the config's value in a straight line over `images_to_base` images, then the config's value."""
    progress = _progress(images_to_base)
    return lambda images: base * progress(images)


def phases(base: float, *changes: tuple[float, float]) -> Schedule:
    """The config's value until the first change; each change is `(images, value)`, in rising order of images."""

    def is_pair(change: Any) -> bool:
        return type(change) in (tuple, list) and len(change) == 2 and all(math.isfinite(number) for number in change)

    if not all(map(is_pair, changes)) or sorted(map(tuple, changes)) != list(map(tuple, changes)):
        raise ValueError("phases take pairs (images, value) in rising order of images")

    def schedule(images: Array) -> Array:
        value = jnp.float32(base)
        for start, new in changes:
            value = jnp.where(images >= start, jnp.float32(new), value)
        return value

    return schedule


def rampup(base: float, fraction: float) -> Schedule:
    """The smaller of the config's value and `fraction` of the images seen: a half-life that is short early in training.

    Reference: Karras et al. 2020, Training Generative Adversarial Networks with Limited Data, arXiv:2006.06676
    (its code, `ema_rampup`).
    """
    return lambda images: jnp.minimum(jnp.float32(base), fraction * images)


def power(base: float, relative_sd: float) -> Schedule:
    """The half-life of a power-function EMA, in place of the config's value.

    The average weighs the generator after t of T images by t^g: keeping (1 - n/T)^(g + 1) at each n images is a
    half-life of T ln 2 / (g + 1), to first order in n/T. `relative_sd` is the width of that profile relative to T,
    sqrt((g + 1) / ((g + 2)^2 (g + 3))), which falls from 0.289 at g = 0 as g grows.

    Reference: Karras et al. 2024, arXiv:2312.02696, section 3.1, equations 1 to 3.
    """
    if not 0 < relative_sd < 0.288:
        raise ValueError("relative_sd must be above 0 and below 0.288")
    exponent = _power_exponent(relative_sd)
    return lambda images: images * (math.log(2.0) / (exponent + 1.0))


SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "warmup": warmup,
    "phases": phases,
    "rampup": rampup,
    "power": power,
}
"""Schedules by name. The first argument is the config's number, the others are those in parentheses: "linear(0.0, 1e6)"
calls linear(base, 0.0, 1e6)."""


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity, so that `jit` treats it like a function
class Schedules:
    """The hyperparameters of a run as functions of the images seen, and the numbers of its config that they start from.

    The numbers are an argument of the call, so that one compiled program serves other numbers too.
    """

    base: dict[str, float]
    """The config's number of every field that may have a schedule, `{"generator.learning_rate": 2e-4, ...}`."""
    schedules: Mapping[str, Callable[[Any], Schedule]]
    """For each of them, from the number to its schedule."""

    def __call__(self, images: Array | float, base: Mapping[str, Any] | None = None) -> Hyperparams:
        """The hyperparameters after so many images, by these base numbers or by those of the config."""
        images = jnp.asarray(images, jnp.float32)
        base = self.base if base is None else base
        values = {field: schedule(base[field])(images) for field, schedule in self.schedules.items()}

        def under(prefix: str) -> dict[str, Array]:
            return {field.removeprefix(prefix): value for field, value in values.items() if field.startswith(prefix)}

        return Hyperparams(
            generator=PlayerHyperparams(**under("generator.")),
            discriminator=PlayerHyperparams(**under("discriminator.")),
            augment=AugmentHyperparams(**under("augment.")),
            penalties=under("penalties."),
            **{name: values[name] for name in ("ema_halflife", "weight_clip", "top_k")},
        )


def _power_exponent(relative_sd: float) -> float:
    """The exponent g of a profile of this relative width, by bisection: the width falls as g grows."""
    low, high = 0.0, 1.0 / relative_sd**2
    for _ in range(100):
        g = (low + high) / 2
        low, high = (g, high) if (g + 1) / ((g + 2) ** 2 * (g + 3)) > relative_sd**2 else (low, g)
    return low


def _progress(images_to_end: float) -> Schedule:
    if images_to_end <= 0:
        raise ValueError("the number of images must be positive")
    return lambda images: jnp.clip(images / images_to_end, 0.0, 1.0)
