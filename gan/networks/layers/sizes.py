"""Sizes and types of the stages of a network, and checks that an image fits them."""

import jax.numpy as jnp

from gan.errors import UserError


def smallest_stage(
    network: str, player: str, image_shape: tuple[int, int, int], widths: tuple[int, ...]
) -> tuple[int, int]:
    """(H, W) of the first stage, where `widths` has one entry per stage and each stage doubles the size of the last.

    The last stage has the size of the image. Raises `UserError` where `widths` is empty, or where the image cannot be
    halved that often.
    """
    if not widths:
        raise UserError(f"config.{player}.widths=() leaves {network} without a stage; expected: one width or more")
    height, width, _ = image_shape
    factor = 2 ** (len(widths) - 1)
    if height % factor or width % factor:
        raise UserError(
            f"config.data.image_size={(height, width)} does not fit {network} with {len(widths)} widths, which needs "
            f"multiples of {factor}; nearest valid: {nearest_multiples((height, width), factor)}"
        )
    return height // factor, width // factor


def check_halvings(player: str, image_shape: tuple[int, ...], halvings: int, network: str) -> None:
    """Raises `UserError` where an image cannot be halved `halvings` times."""
    factor = 2**halvings
    height, width, _ = image_shape
    if height % factor or width % factor:
        raise UserError(
            f"config.data.image_size={(height, width)} cannot be halved {halvings} times, as the {player}'s {network} "
            f"does; nearest valid: {nearest_multiples((height, width), factor)}"
        )


def nearest_multiples(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """The positive multiples of `factor` nearest to a height and width."""
    height, width = (factor * max(1, round(side / factor)) for side in size)
    return height, width


def stage_dtypes(stages: int, bfloat16_stages: int, dtype: jnp.dtype) -> list[jnp.dtype]:
    """The type of each stage's computation, smallest image first: bfloat16 for the largest ones, else `dtype`."""
    return [jnp.bfloat16 if stages - stage <= bfloat16_stages else dtype for stage in range(stages)]
