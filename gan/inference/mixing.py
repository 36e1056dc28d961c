"""Mixing: an image with the coarse, middle or fine part of another's code.

It needs a code of several parts: the styles of the layers (Karras et al. 2019, arXiv:1812.04948, section 3.1), or a
latent that is split (BigGAN: Brock et al. 2019, arXiv:1809.11096, section 3).
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array

from gan.errors import UserError, lookup
from gan.inference import codes
from gan.inference.model import Model

GROUPS = ("coarse", "middle", "fine")
"""From the layers of the smallest images to those of the largest."""


def groups(model: Model) -> Mapping[str, range]:
    """The parts of the code that are coarse, middle and fine: thirds of the sizes of image, the first ones the largest.

    A size of image has two styles, or one part of the latent. For StyleGAN2 at 32x32 the styles 0 to 3, of the sizes 4
    and 8, are coarse, 4 and 5 middle and 6 and 7 fine. With fewer than three sizes some groups are absent.

    Raises `UserError` for a generator whose code has one part.
    """
    per_size = 2 if model.game.has_styles else 1
    sizes = _parts(model) // per_size
    thirds = np.array_split(np.arange(sizes), len(GROUPS))
    return {
        name: range(per_size * int(third[0]), per_size * (int(third[-1]) + 1))
        for name, third in zip(GROUPS, thirds, strict=True)
        if len(third)
    }


def mix(model: Model, first: Array, second: Array, group: str) -> Array:
    """The codes `first` [B, ...] with the parts of a group, one of `groups`, from the codes `second` [B, ...].

    Raises `UserError` for an unknown group and for a generator whose code has one part.
    """
    chosen = lookup(groups(model), group, "group")
    first, second = codes.split(model, first), codes.split(model, second)
    is_chosen = np.isin(np.arange(first.shape[1]), chosen)[None, :, None]
    return codes.join(model, jnp.where(is_chosen, second, first))


def _parts(model: Model) -> int:
    count = codes.num_parts(model)
    if count == 1:
        raise UserError(
            f"mixing needs styles or a split latent, and the generator of {model.source} has neither; expected: a run "
            f"with network 'stylegan2' or 'gat', or 'biggan' with split_latent=True"
        )
    return count
