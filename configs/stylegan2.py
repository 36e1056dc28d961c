"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), trained as in the ADA paper (Karras et al. 2020, arXiv:2006.06676).

python -m gan.main --config=configs/stylegan2.py
python -m gan.main --config=configs/stylegan2.py:cifar
python -m gan.main --config=configs/stylegan2.py:cifar_conditional
python -m gan.main --config=configs/stylegan2.py:ffhq256 --config.data.dir=PATH

`small` (the default) is a small version on MNIST for two CPU cores. It is not a published recipe. The others are the
authors' `cifar` and `paper256` (stylegan2-ada-pytorch, train.py), which take days on one GPU of 80 GB or on several;
`ffhq256` is the baseline of the ADA paper, without augmentation. Differences from the originals: a penalty is added to
the loss of its step, where theirs is a separate update with another batch; bfloat16 replaces float16. FFHQ is mirrored,
as by the authors, and CIFAR-10 is not. See also gan/networks/stylegan2.py, gan/penalties.py and gan/augment.py.
"""

from typing import NamedTuple

from configs import default


class Recipe(NamedTuple):
    """What differs between the variants."""

    data: str
    image_size: int
    widths: tuple[int, ...]
    bfloat16_stages: int
    style_width: int
    mapping_layers: int
    architecture: str
    group_size: int
    batch_size: int
    images: float
    learning_rate: float
    gamma: float
    path_length: float
    style_mixing: float
    ema_halflife: float
    rampup: float
    conv_clamp: float = 256.0
    augment_target: float = 0.0
    mirror: bool = False
    is_conditional: bool = False


def widths(image_size: int, base: int) -> tuple[int, ...]:
    """The authors' widths: base / size, at most 512, for the sizes 4, 8, ..., image_size."""
    return tuple(min(base // 2**power, 512) for power in range(2, image_size.bit_length()))


CIFAR = Recipe(
    data="cifar10", image_size=32, widths=widths(32, 32768), bfloat16_stages=3, style_width=512, mapping_layers=2,
    architecture="orig", group_size=32, batch_size=64, images=100e6, learning_rate=0.0025, gamma=0.01,
    path_length=0.0, style_mixing=0.0, ema_halflife=500e3, rampup=0.05, augment_target=0.6,
)  # fmt: skip

RECIPES = {
    "small": Recipe(
        data="mnist", image_size=32, widths=(64, 32, 16, 8), bfloat16_stages=0, style_width=64, mapping_layers=2,
        architecture="resnet", group_size=4, batch_size=32, images=256e3, learning_rate=0.0025, gamma=1.0,
        path_length=0.0, style_mixing=0.0, ema_halflife=10e3, rampup=0.05, conv_clamp=0.0,
    ),
    "cifar": CIFAR,
    "cifar_conditional": CIFAR._replace(is_conditional=True),
    "ffhq256": Recipe(
        data="folder", image_size=256, widths=widths(256, 16384), bfloat16_stages=4, style_width=512, mapping_layers=8,
        architecture="resnet", group_size=8, batch_size=64, images=25e6, learning_rate=0.0025, gamma=1.0,
        path_length=2.0, style_mixing=0.9, ema_halflife=20e3, rampup=0.0, mirror=True,
    ),
}  # fmt: skip


def get_config(preset: str = "small"):
    """The recipe RECIPES[preset]: Adam with betas 0 and 0.99, R1 every 16 steps, path length every 4 steps."""
    default.check_variant("stylegan2", preset, RECIPES)
    recipe = RECIPES[preset]
    config = default.get_config()
    config.steps = int(recipe.images) // recipe.batch_size
    config.batch_size = recipe.batch_size
    config.data.name = recipe.data
    config.data.image_size = (recipe.image_size, recipe.image_size)
    config.data.mirror = recipe.mirror
    config.latent.size = recipe.style_width
    config.output_activation = "linear"
    config.penalties.r1 = recipe.gamma / 2  # the authors' penalty is gamma / 2 |grad D|^2
    config.penalties.path_length = recipe.path_length
    config.ema_halflife = recipe.ema_halflife
    config.schedules.ema_halflife = f"rampup({recipe.rampup:g})" if recipe.rampup else ""
    if recipe.augment_target:
        config.augment.policy = "ada('blit,geometry,color')"
        config.augment.target, config.augment.ada_images = recipe.augment_target, 500e3

    def player(conditioning: str, interval: int, **fields) -> dict:
        # The authors correct the optimizer for their separate updates of the penalties: interval + 1 updates instead of
        # interval. They do so for G without path length, too, which has no such updates.
        share = interval / (interval + 1)
        return default.player(
            network="stylegan2",
            conditioning=conditioning if recipe.is_conditional else "none",
            widths=recipe.widths,
            bfloat16_stages=recipe.bfloat16_stages,
            remat=False,
            conv_clamp=recipe.conv_clamp,
            learning_rate=recipe.learning_rate * share,
            beta1=0.0,
            beta2=0.99**share,
            penalty_interval=interval,
            **fields,
        )

    config.generator = player(
        "concat_embedding",
        4,
        style_width=recipe.style_width,
        mapping_layers=recipe.mapping_layers,
        style_mixing=recipe.style_mixing,
    )
    config.discriminator = player(
        "projection",
        16,
        architecture=recipe.architecture,
        group_size=recipe.group_size,
    )
    config.sample_every = config.checkpoint_every = 1000
    return config
