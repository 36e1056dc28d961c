"""R3GAN (Huang et al. 2024, arXiv:2501.05441): a relativistic loss with R1 and R2, and ResNeXt networks.

python -m gan.main --config=configs/r3gan.py
python -m gan.main --config=configs/r3gan.py:stacked_mnist
python -m gan.main --config=configs/r3gan.py:cifar10
python -m gan.main --config=configs/r3gan.py:ffhq64 --config.data.dir=PATH
python -m gan.main --config=configs/r3gan.py:imagenet32

`small` (the default) is a small version on MNIST for two CPU cores. It is not a published recipe. The others are the
authors' recipes (table 9, and their code), and take days on one GPU of 80 GB or on several. With microbatches="auto"
the batch of a device is split into as many parts as its memory requires: 2 on one such GPU, and 32 for imagenet32.
All but the digits are mirrored, as in the authors' commands. Differences from the originals: both players see the same
batch of real images in a step, and MNIST's 28 pixels are resized to 32.
"""

from typing import NamedTuple

from configs import default


class Recipe(NamedTuple):
    """What differs between the variants. Pairs are (initial value, value after `burn_in` images)."""

    data: str
    image_size: int
    widths: tuple[int, ...]
    bfloat16_stages: int
    batch_size: int
    images: float
    burn_in: float
    gamma: tuple[float, float]
    ema_halflife: float
    augment_p: float = 0.0
    learning_rate: tuple[float, float] = (2e-4, 5e-5)
    group_width: int = 16  # 2 * width / group_width groups: 96 at the widths 768 and 1536
    is_conditional: bool = False
    mirror: bool = False


RECIPES = {
    "small": Recipe(
        data="mnist", image_size=32, widths=(96, 64, 16, 8), bfloat16_stages=0, batch_size=32, images=256e3,
        burn_in=128e3, gamma=(1.0, 0.1), ema_halflife=10e3, learning_rate=(5e-4, 1e-4),
    ),
    "stacked_mnist": Recipe(
        data="stacked_mnist", image_size=32, widths=(768,) * 4, bfloat16_stages=3, batch_size=512, images=10e6,
        burn_in=2e6, gamma=(1.0, 0.1), ema_halflife=0.5e6, learning_rate=(2e-4, 2e-4),
    ),
    "cifar10": Recipe(
        data="cifar10", image_size=32, widths=(768,) * 4, bfloat16_stages=3, batch_size=512, images=250e6,
        burn_in=20e6, gamma=(0.05, 0.005), ema_halflife=5e6, augment_p=0.55, is_conditional=True, mirror=True,
    ),
    "ffhq64": Recipe(
        data="folder", image_size=64, widths=(768,) * 4 + (384,), bfloat16_stages=4, batch_size=256, images=100e6,
        burn_in=20e6, gamma=(2.0, 0.2), ema_halflife=0.5e6, augment_p=0.3, mirror=True,
    ),
    "imagenet32": Recipe(
        data="imagenet_resized/32x32", image_size=32, widths=(1536,) * 4, group_width=32, bfloat16_stages=3,
        batch_size=4096, images=1e9, burn_in=200e6, gamma=(0.5, 0.05), ema_halflife=50e6, augment_p=0.5,
        is_conditional=True, mirror=True,
    ),
}  # fmt: skip


def get_config(preset: str = "small"):
    """The recipe RECIPES[preset]: Adam, beta1 0, beta2 from 0.9 to 0.99; all schedules are half a cosine."""
    default.check_variant("r3gan", preset, RECIPES)
    recipe = RECIPES[preset]
    config = default.get_config()
    config.steps = int(recipe.images) // recipe.batch_size
    config.batch_size = recipe.batch_size
    config.microbatches = 1 if preset == "small" else "auto"
    config.data.name = recipe.data
    config.data.image_size = (recipe.image_size, recipe.image_size)
    config.data.mirror = recipe.mirror
    config.latent.size = 64
    config.output_activation = "linear"
    config.loss = "relativistic"
    # The authors' penalty is gamma / 2 |grad D|^2.
    config.penalties.r1 = config.penalties.r2 = recipe.gamma[0] / 2
    config.ema_halflife = 0.0
    if recipe.augment_p:
        config.augment.policy = "ada('blit,geometry,color,cutout', color=0.5)"
    for player, conditioning in (("generator", "concat_embedding"), ("discriminator", "projection")):
        config[player] = default.player(
            network="r3gan",
            conditioning=conditioning if recipe.is_conditional else "none",
            widths=recipe.widths,
            blocks=2,
            expansion=2,
            group_width=recipe.group_width,
            remat=False,
            bfloat16_stages=recipe.bfloat16_stages,
            learning_rate=recipe.learning_rate[0],
            beta1=0.0,
            beta2=0.9,
        )

    def reach(value: float) -> str:
        return f"cosine({value:g}, {recipe.burn_in:g})"

    schedules = config.schedules
    for player in (schedules.generator, schedules.discriminator):
        player.learning_rate, player.beta2 = reach(recipe.learning_rate[1]), reach(0.99)
    schedules.penalties.r1 = schedules.penalties.r2 = reach(recipe.gamma[1] / 2)
    schedules.ema_halflife = reach(recipe.ema_halflife)
    schedules.augment.p = reach(recipe.augment_p) if recipe.augment_p else ""
    config.sample_every = config.checkpoint_every = 1000
    return config
