"""R3GAN (Huang et al. 2024, arXiv:2501.05441): a relativistic game with R1 and R2, and ResNeXts without tricks.

python -m gan.main --config=configs/r3gan.py
python -m gan.main --config=configs/r3gan.py:stacked_mnist
python -m gan.main --config=configs/r3gan.py:cifar10
python -m gan.main --config=configs/r3gan.py:ffhq64 --config.data.dir=PATH
python -m gan.main --config=configs/r3gan.py:imagenet32

The first is a small one on MNIST for two CPU cores, of ours; the others are the authors' (table 9, and their code), for
several accelerators and days. Where they differ from theirs: both players see the same batch of real images in a turn,
images are mirrored by the augmentation alone, and MNIST's 28 pixels are resized to 32.
"""

from typing import NamedTuple

from configs import default


class Recipe(NamedTuple):
    """What differs from one data set to the next; all pairs are (at first, after `burn_in` images)."""

    data: str
    image_size: int
    is_conditional: bool
    widths: tuple[int, ...]
    group_width: int  # 2 * width / group_width groups: 96 at the widths 768 and 1536
    bfloat16_stages: int
    batch_size: int
    images: float
    burn_in: float
    learning_rate: tuple[float, float]
    gamma: tuple[float, float]
    average_halflife: float
    augment_p: float


RATES = (2e-4, 5e-5)
RECIPES = {
    "small": Recipe("mnist", 32, False, (96, 64, 16, 8), 16, 0, 32, 256e3, 128e3, (5e-4, 1e-4), (1.0, 0.1), 10e3, 0.0),
    "stacked_mnist": Recipe(
        "stacked_mnist", 32, False, (768,) * 4, 16, 3, 512, 10e6, 2e6, (2e-4, 2e-4), (1.0, 0.1), 0.5e6, 0.0
    ),
    "cifar10": Recipe("cifar10", 32, True, (768,) * 4, 16, 3, 512, 250e6, 20e6, RATES, (0.05, 0.005), 5e6, 0.55),
    "ffhq64": Recipe("folder", 64, False, (768,) * 4 + (384,), 16, 4, 256, 100e6, 20e6, RATES, (2.0, 0.2), 0.5e6, 0.3),
    "imagenet32": Recipe(
        "imagenet_resized/32x32", 32, True, (1536,) * 4, 32, 3, 4096, 1e9, 200e6, RATES, (0.5, 0.05), 50e6, 0.5
    ),
}


def get_config(preset: str = "small"):
    """The recipe of that name in RECIPES: Adam, beta1 0, beta2 from 0.9 to 0.99; all numbers along half a cosine."""
    if preset not in RECIPES:
        raise ValueError(f"r3gan:{preset} is unknown; legal: {', '.join(RECIPES)}")
    recipe = RECIPES[preset]
    config = default.get_config()
    config.steps = int(recipe.images) // recipe.batch_size
    config.batch_size = recipe.batch_size
    config.data.name = recipe.data
    config.data.image_size = (recipe.image_size, recipe.image_size)
    config.latent.size = 64
    config.output = "linear"
    config.loss = "relativistic"
    # The authors' penalty is gamma / 2 |grad D|^2.
    config.penalties.r1 = config.penalties.r2 = recipe.gamma[0] / 2
    config.average_halflife = 0.0
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
    schedules.average_halflife = reach(recipe.average_halflife)
    schedules.augment.p = reach(recipe.augment_p) if recipe.augment_p else ""
    config.sample_every = config.checkpoint_every = 1000
    return config
