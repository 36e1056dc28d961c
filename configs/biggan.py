"""BigGAN and BigGAN-deep (Brock et al. 2019, arXiv:1809.11096).

python -m gan.main --config=configs/biggan.py
python -m gan.main --config=configs/biggan.py:small_deep
python -m gan.main --config=configs/biggan.py:cifar10
python -m gan.main --config=configs/biggan.py:imagenet128 --config.data.dir=PATH
python -m gan.main --config=configs/biggan.py:deep --config.data.dir=PATH

`small` (the default) and `small_deep` are small versions on CIFAR-10 for two CPU cores. They are not published recipes.
`cifar10` is the recipe of BigGAN-PyTorch, the code of the paper's first author, without shared embedding, split latent
or attention. It runs on one GPU.
`imagenet128` and `deep` are the recipes of the paper at 128x128 pixels (appendices B and C), for a folder of images
with one subfolder per class. They are sized for eight GPUs of 80 GB with 256 images each, and recompute the activations
of blocks for the gradient (remat). `deep` needs XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 in the environment. On fewer GPUs,
config.microbatches=8 splits the batch of 2048; each part then has its own batch statistics.

The step at which the average of the generator starts is that of BigGAN-PyTorch, whose scripts do not mirror images.
Difference from the originals: the class-conditional scales and offsets of `cifar10` are initialized to 1 and 0. For an
unconditional game set the conditioning of both players to `none`; G is then normalized by the latent.
"""

import math
from typing import NamedTuple

from configs import default


class Recipe(NamedTuple):
    """What differs between the variants."""

    network: str
    data: str
    image_size: int
    attention: tuple[int, ...]
    widths: tuple[int, int]  # the `width` of G and D
    latent: int
    conditioning: str
    batch_size: int
    steps: int
    discriminator_steps: int
    learning_rates: tuple[float, float]  # of G and D
    ema_start: int  # steps; from then on the EMA has the decay `ema_decay` per step
    standing_batches: int
    kernel_init: str = "orthogonal"
    orthogonal: float = 0.0
    embedding: int = 128
    ema_decay: float = 0.9999
    remat: bool = False


RECIPES = {
    "small": Recipe(
        network="biggan", data="cifar10", image_size=32, attention=(16,), widths=(8, 8), latent=80,
        conditioning="shared_embedding", batch_size=32, steps=20_000, discriminator_steps=1,
        learning_rates=(2e-4, 4e-4), ema_start=100, ema_decay=0.99, standing_batches=16, orthogonal=1e-4,
        embedding=32,
    ),
    "small_deep": Recipe(
        network="biggan_deep", data="cifar10", image_size=32, attention=(16,), widths=(16, 16), latent=80,
        conditioning="shared_embedding", batch_size=32, steps=20_000, discriminator_steps=1,
        learning_rates=(2e-4, 4e-4), ema_start=100, ema_decay=0.99, standing_batches=16, orthogonal=1e-4,
        embedding=32,
    ),
    "cifar10": Recipe(
        network="biggan", data="cifar10", image_size=32, attention=(), widths=(64, 64), latent=128,
        conditioning="batch_norm", batch_size=50, steps=125_000, discriminator_steps=4,
        learning_rates=(2e-4, 2e-4), ema_start=1000, standing_batches=16, kernel_init="normal(0.02)",
    ),
    "imagenet128": Recipe(
        network="biggan", data="folder", image_size=128, attention=(64,), widths=(96, 96), latent=120,
        conditioning="shared_embedding", batch_size=2048, steps=140_000, discriminator_steps=2,
        learning_rates=(5e-5, 2e-4), ema_start=20_000, standing_batches=100, orthogonal=1e-4, remat=True,
    ),
    "deep": Recipe(
        network="biggan_deep", data="folder", image_size=128, attention=(64,), widths=(128, 128), latent=128,
        conditioning="shared_embedding", batch_size=2048, steps=140_000, discriminator_steps=2,
        learning_rates=(5e-5, 2e-4), ema_start=20_000, standing_batches=100, orthogonal=1e-4, remat=True,
    ),
}  # fmt: skip


def get_config(preset: str = "small"):
    """The recipe RECIPES[preset]: hinge loss, Adam with betas 0 and 0.999, spectral normalization of both players."""
    default.check_variant("biggan", preset, RECIPES)
    recipe = RECIPES[preset]
    is_deep = recipe.network == "biggan_deep"
    config = default.get_config()
    config.steps = recipe.steps
    config.batch_size = recipe.batch_size
    config.data.name = recipe.data
    config.data.image_size = (recipe.image_size, recipe.image_size)
    config.data.channels = 3
    config.latent.size = recipe.latent
    config.loss = "hinge"
    config.penalties.ortho = recipe.orthogonal
    config.discriminator_steps = recipe.discriminator_steps
    both = {
        "network": recipe.network,
        "widths": (),
        "attention": recipe.attention,
        "kernel_init": recipe.kernel_init,
        "spectral_norm": True,
        "remat": recipe.remat,
        "beta1": 0.0,
        "beta2": 0.999,
        **({"depth": 2} if is_deep else {}),
    }
    config.generator = default.player(
        **both,
        width=recipe.widths[0],
        conditioning=recipe.conditioning,
        embedding=recipe.embedding,
        learning_rate=recipe.learning_rates[0],
        # Class-conditional scales alone, without a shared embedding, do not take parts of the latent.
        **({} if is_deep else {"split_latent": recipe.conditioning == "shared_embedding"}),
    )
    config.discriminator = default.player(
        **both, width=recipe.widths[1], halvings=0, conditioning="projection", learning_rate=recipe.learning_rates[1]
    )
    images = recipe.batch_size * recipe.discriminator_steps  # per step
    halflife = images * math.log(0.5) / math.log(recipe.ema_decay)
    config.ema_halflife = 0.0
    config.schedules.ema_halflife = f"phases(({images * recipe.ema_start}, {halflife:.1f}))"
    config.evaluation.standing_batches = recipe.standing_batches
    config.sample_every = config.checkpoint_every = 1000
    return config
