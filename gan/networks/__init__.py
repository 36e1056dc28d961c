"""The architectures by name. A leaf: each file holds a generator and a discriminator side by side.

A generator is called as `(latent [B, Z], label int32 [B], train)` and returns an image before its activation, [B, H, W,
C]; a discriminator as `(image, label, train)` and returns logits [B]. Both are told `image_shape` and `num_classes`,
and may have an `axis_name` over which to take batch statistics. Random draws of training come from Flax's `make_rng`,
by the names of `gan.game.RNG_STREAMS`; a discriminator that draws is told by `rows` of a batch of which the images are
a part.
"""

from collections.abc import Mapping
from typing import NamedTuple

from flax import linen as nn

from gan.networks import biggan, biggan_deep, conv_gan, dcgan, flag, mlp, r3gan, resnet, sagan, stylegan2


class Players(NamedTuple):
    """The two module classes of an architecture."""

    generator: type[nn.Module]
    discriminator: type[nn.Module]


NETWORKS: Mapping[str, Players] = {
    "dcgan": Players(dcgan.Generator, dcgan.Discriminator),
    "mlp": Players(mlp.Generator, mlp.Discriminator),
    "conv_gan": Players(conv_gan.Generator, conv_gan.Discriminator),
    "flag": Players(flag.Generator, flag.Discriminator),
    "r3gan": Players(r3gan.Generator, r3gan.Discriminator),
    "resnet": Players(resnet.Generator, resnet.Discriminator),
    "sagan": Players(sagan.Generator, sagan.Discriminator),
    "biggan": Players(biggan.Generator, biggan.Discriminator),
    "biggan_deep": Players(biggan_deep.Generator, biggan_deep.Discriminator),
    "stylegan2": Players(stylegan2.Generator, stylegan2.Discriminator),
}
