"""GAT (Hyun, Lee and Heo 2025, arXiv:2509.24935): transformers for both players, with supervision at several levels.

python -m gan.main --config=configs/gat.py
python -m gan.main --config=configs/gat.py:cifar10
python -m gan.main --config=configs/gat.py:imagenet64

`small` (the default) is a small version on MNIST for two CPU cores, and no published recipe. It has one level and a
gain of 1 where the paper has four and 0.1, without which each class kept one shape (docs/log.md). After 64,000 images
its digits can be read, and dcgan's are far better (docs/results.md). `cifar10` has the networks of size S (14.3 GiB on
a GPU at its batch of 512) and `imagenet64` those of size B, both with 256 patches as the paper's with patches of 2, and
all numbers of the paper and of the authors' code: 150,000 steps are its 60 epochs. In a step both players see the same
latents and real images.
Differences from the originals: the images are pixels, not latents of an autoencoder; D has no loss of alignment with
DINOv2; DiffAugment's saturation and contrast are about each image's own mean, where the authors' levels share that of
the last one.
"""

from typing import NamedTuple

from configs import default


class Recipe(NamedTuple):
    """What differs between the variants."""

    data: str
    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    label_width: int
    batch_size: int
    steps: int
    ema_halflife: float
    learning_rate: float  # at a width of 768
    gamma: float  # of R1 and R2
    every: int = 1  # of so many examples one is used for R1 and R2
    levels: int = 4
    modulation_gain: float = 0.1  # of G's initial kernels
    compute_dtype: str = "float32"
    remat: bool = False


# An EMA of 0.999 at each step of 512 images: 512 log(1 / 2) / log(0.999) images.
PUBLISHED = {
    "label_width": 2048, "batch_size": 512, "steps": 150_000, "ema_halflife": 354_714.0, "learning_rate": 2e-4,
    "gamma": 0.1, "compute_dtype": "bfloat16", "remat": True,
}  # fmt: skip
RECIPES = {
    "small": Recipe(
        data="mnist", image_size=28, patch_size=7, width=96, depth=4, heads=4, label_width=512, batch_size=32,
        steps=8000, ema_halflife=10e3, learning_rate=1e-4, gamma=0.1, every=4, levels=1, modulation_gain=1.0,
    ),
    "cifar10": Recipe(data="cifar10", image_size=32, patch_size=2, width=384, depth=12, heads=6, **PUBLISHED),
    "imagenet64": Recipe(
        data="imagenet_resized/64x64", image_size=64, patch_size=4, width=768, depth=12, heads=12, **PUBLISHED
    ),
}  # fmt: skip


def get_config(preset: str = "small"):
    """The recipe RECIPES[preset]: relativistic loss, R1 and R2 by finite differences, Adam at a rate of 1 / width."""
    default.check_variant("gat", preset, RECIPES)
    recipe = RECIPES[preset]
    config = default.get_config()
    config.steps = recipe.steps
    config.batch_size = recipe.batch_size
    config.data.name = recipe.data
    config.data.image_size = (recipe.image_size, recipe.image_size)
    config.latent.size = 64
    config.latent.share = True
    config.output_activation = "linear"
    config.compute_dtype = recipe.compute_dtype
    config.loss = "relativistic"
    # The authors' penalty is gamma / 2 |grad D|^2.
    config.penalties.r1 = config.penalties.r2 = recipe.gamma / 2
    config.gradient_estimator = f"finite_difference(0.01, every={recipe.every})"
    config.ema_halflife = recipe.ema_halflife
    if preset != "small":
        config.schedules.ema_halflife = ""
        config.augment.policy, config.augment.p = "diff_augment('color,translation,cutout,flip', color=0.5)", 1.0
    for player, conditioning in (("generator", "concat_embedding"), ("discriminator", "projection")):
        config[player] = default.player(
            network="gat",
            conditioning=conditioning,
            width=recipe.width,
            depth=recipe.depth,
            heads=recipe.heads,
            patch_size=recipe.patch_size,
            levels=recipe.levels,
            remat=recipe.remat,
            learning_rate=recipe.learning_rate * 768 / recipe.width,
            beta1=0.0,
            beta2=0.99,
            clip_norm=1.0,
        )
    config.discriminator.label_width = recipe.label_width
    config.generator.modulation_gain = recipe.modulation_gain
    config.sample_every = config.checkpoint_every = 1000
    return config
