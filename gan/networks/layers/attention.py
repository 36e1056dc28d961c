"""Self-attention over the pixels of an image, for SAGAN, BigGAN and BigGAN-deep."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.errors import UserError
from gan.networks.conv.primitives import Conv
from gan.networks.layers.initializers import Initializer


class SelfAttention(nn.Module):
    """[B, H, W, C] to the same: x + gamma o(sum over j of a_ij v_j), a_i = softmax over j of <q_i, k_j>.

    q, k, v and o are 1x1 convolutions without biases, to C / 8, C / 8, C / 2 and C channels. k and v are max-pooled
    over 2x2 pixels, so j runs over a quarter of the pixels. gamma is learned and starts at 0, where the layer is the
    identity. The softmax is float32 in any type of computation.

    Reference: Zhang et al. 2019, arXiv:1805.08318, section 3. The pooling, C / 2 and the position of o are those of the
    authors' code, not of the paper.
    """

    kernel_init: Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape

        def conv_1x1(x: Array, features: int, name: str) -> Array:
            return Conv(max(1, features), (1, 1), use_bias=False, kernel_init=self.kernel_init, name=name)(x)

        query = conv_1x1(x, channels // 8, "query").reshape(batch, height * width, -1)
        key = _max_pool(conv_1x1(x, channels // 8, "key")).reshape(batch, height * width // 4, -1)
        value = _max_pool(conv_1x1(x, channels // 2, "value")).reshape(batch, height * width // 4, -1)
        scores = jnp.einsum("bic,bjc->bij", query, key, preferred_element_type=jnp.float32)
        attended = jnp.einsum("bij,bjc->bic", jax.nn.softmax(scores).astype(x.dtype), value)
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return x + gamma * conv_1x1(attended.reshape(batch, height, width, -1), channels, "output")


def check_attention(player: str, attention: tuple[int, ...], sizes: list[tuple[int, int]]) -> None:
    """Raises `UserError` where no block ends at a height that `attention` names.

    `sizes` are the height and width after each block.
    """
    valid = sorted({height for height, width in sizes if not height % 2 and not width % 2})
    for height in attention:
        if height not in valid:
            raise UserError(
                f"config.{player}.attention={attention}: no block ends at height {height} with both sides even; "
                f"expected: any of {', '.join(map(str, valid)) or 'none'}, or () for no attention"
            )


def _max_pool(x: Array) -> Array:
    """The maximum over each 2x2 pixels: [B, H, W, C] to [B, H / 2, W / 2, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
