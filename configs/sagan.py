"""SAGAN (Zhang et al. 2019, arXiv:1805.08318): self-attention, and spectral normalization of both players.

python -m gan.main --config=configs/sagan.py
python -m gan.main --config=configs/sagan.py:cifar10
python -m gan.main --config=configs/sagan.py:imagenet128 --config.data.dir=PATH

`small` (the default) is a small version on CIFAR-10 for two CPU cores. It is not a published recipe.
`cifar10` is the recipe of StudioGAN (Kang and Park 2020).
`imagenet128` is the recipe of the paper (section 4, and the authors' code), for a folder of images with one subfolder
per class. Both run on one GPU of 80 GB. StudioGAN mirrors images, the code of the paper does not. Samples come from the
current generator, not from an average of it. For an unconditional game set the conditioning of both players to `none`.
"""

from typing import NamedTuple

from configs import default


class Recipe(NamedTuple):
    """What differs between the variants."""

    data: str
    image_size: int
    attention: int  # the height of the features to which both players apply attention
    generator_width: int
    discriminator_width: int
    batch_size: int
    steps: int
    learning_rates: tuple[float, float]  # of G and D
    betas: tuple[float, float]
    discriminator_steps: int = 1
    kernel_init: str = "xavier_uniform"
    mirror: bool = False


RECIPES = {
    "small": Recipe(
        data="cifar10", image_size=32, attention=16, generator_width=8, discriminator_width=16, batch_size=32,
        steps=20_000, learning_rates=(2e-4, 4e-4), betas=(0.0, 0.9),
    ),
    "cifar10": Recipe(
        data="cifar10", image_size=32, attention=16, generator_width=64, discriminator_width=64, batch_size=64,
        steps=100_000, learning_rates=(2e-4, 2e-4), betas=(0.5, 0.999), discriminator_steps=5, kernel_init="orthogonal",
        mirror=True,
    ),
    "imagenet128": Recipe(
        data="folder", image_size=128, attention=32, generator_width=64, discriminator_width=64, batch_size=256,
        steps=1_000_000, learning_rates=(1e-4, 4e-4), betas=(0.0, 0.9),
    ),
}  # fmt: skip


def get_config(preset: str = "small"):
    """The recipe RECIPES[preset]: hinge loss, Adam, conditional batch normalization and a projection."""
    default.check_variant("sagan", preset, RECIPES)
    recipe = RECIPES[preset]
    config = default.get_config()
    config.steps = recipe.steps
    config.batch_size = recipe.batch_size
    config.data.name = recipe.data
    config.data.image_size = (recipe.image_size, recipe.image_size)
    config.data.channels = 3
    config.data.mirror = recipe.mirror
    config.latent.size = 128
    config.loss = "hinge"
    config.discriminator_steps = recipe.discriminator_steps
    both = {
        "network": "sagan",
        "widths": (),
        "attention": (recipe.attention,),
        "kernel_init": recipe.kernel_init,
        "spectral_norm": True,
        "remat": False,
        "beta1": recipe.betas[0],
        "beta2": recipe.betas[1],
    }
    config.generator = default.player(
        **both, width=recipe.generator_width, conditioning="batch_norm", learning_rate=recipe.learning_rates[0]
    )
    config.discriminator = default.player(
        **both,
        width=recipe.discriminator_width,
        halvings=0,
        conditioning="projection",
        learning_rate=recipe.learning_rates[1],
    )
    default.use_no_ema(config)
    config.sample_every = config.checkpoint_every = 1000
    return config
