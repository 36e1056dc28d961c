"""The architectures by name. Each file holds a generator and a discriminator side by side.

A generator is called as `(latent [B, Z], label int32 [B], train)` and returns an image before its activation,
[B, H, W, C]. A discriminator is called as `(image, label, train)` and returns logits [B], or logits [B] and logits of
the classes [B, K]. Both have the fields `image_shape` and `num_classes`, and may have a field `axis_name`, the mapped
axis over which batch statistics are taken. Random draws of training come from Flax's `make_rng`, with the names
"dropout", "noise" and "style_mixing".

The class of a network states what it can do, as class attributes or fields:

- `batch_independent_stats: frozenset[str]`, of both: the names of batch statistics that make no result for an example
  depend on other examples in training. Penalties that need per-example gradients accept no other batch statistics.
- `conditioning: str`, of both: how labels are used; "none" where they are not.
- `equalized: bool`, of both: whether weights are of size 1 and scaled where they are used (equalized learning rate).
- `zero_kernels: bool`, of both: whether some kernels are initially zero.
- `styles: bool`, of a generator: whether it is style-based. It then has the methods `mapping(latent, label) -> styles
  [B, L, W]` and `synthesis(styles) -> image` for L layers, passes its styles through Flax's `perturb("styles", ...)`,
  and has a field `truncation`, the part of the way from the mean style to each style that is kept in evaluation.
- `levels: int`, of both, or no such attribute, for 1: with L levels a generator returns in training L images for each
  latent, [B, H, W, L C], channels by level, of which the last is that of evaluation. Such a discriminator takes both
  these and single images, real ones, which stand for all levels.
- `latent_layers: str`, of a generator: a regular expression for the paths of the layers that the latent enters, or with
  styles the styles: those whose outputs are affine in it (in conv_gan, in its ReLU, in gat, in its silu). The first of
  them to be called is the first layer.
- `latent_parts: int`, of a generator without styles: the number of equal parts of the latent of which each enters
  another layer, from the smallest image to the largest; 1, or no such attribute, where the latent is not split.
- `group_size: int`, of a discriminator: how many consecutive examples its logits depend on together; 1: each logit
  depends on its own example only.
- `layers_from_image() -> tuple[tuple[str, ...], ...]`, of a discriminator, a method that uses its fields alone: for
  each of its layers, from the image on, the names of the submodules with its parameters. A layer is a convolution or a
  dense layer with its normalization, and in a network of blocks all that is at one stage. What computes the logit, or a
  vector of the label, is in none. `config.freeze` counts these layers.
- `takes_rows: bool`, of a discriminator: whether it has a field `rows`, the rows of the batch that its images are. Any
  discriminator that draws random numbers in training needs it, so that a part of a batch gets the draws that it has
  within the whole batch.
"""

from typing import NamedTuple

from flax import linen as nn

from gan.networks import biggan, biggan_deep, conv_gan, dcgan, flag, gat, mlp, r3gan, resnet, sagan, stylegan2


class Players(NamedTuple):
    """The two module classes of an architecture."""

    generator: type[nn.Module]
    discriminator: type[nn.Module]


NETWORKS: dict[str, Players] = {
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
    "gat": Players(gat.Generator, gat.Discriminator),
}
