"""BigGAN and BigGAN-deep (Brock et al. 2019, arXiv:1809.11096).

python -m gan.main --config=configs/biggan.py
python -m gan.main --config=configs/biggan.py:small_deep
python -m gan.main --config=configs/biggan.py:cifar10
python -m gan.main --config=configs/biggan.py:imagenet128 --config.data.dir=PATH
python -m gan.main --config=configs/biggan.py:deep --config.data.dir=PATH

The first two are small ones on CIFAR-10 for two CPU cores, of ours. `cifar10` is that of the first author's code
(BigGAN-PyTorch), without shared embedding, split latent or attention. `imagenet128` and `deep` are the paper's at
128x128 (appendices B and C), for a folder of images with a folder in it for each class, and for eight GPUs of 80 GB,
which see 256 images each, with blocks that are computed again for the gradient (remat). The deep one needs
XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 in the environment there. On fewer, config.microbatches=8 takes the batch of 2048 in
parts, and each part has statistics of its own. `cifar10` runs on one GPU. The turn from which on the generator is
averaged is BigGAN-PyTorch's everywhere. Where they differ from theirs: images are not mirrored, and the classes' scales
and offsets of `cifar10` begin at 1 and 0. `none` and `none` as the players' conditioning make an unconditional game,
normalized by the latent.
"""

import math
from typing import NamedTuple

from configs import default


class Recipe(NamedTuple):
    """What differs from one run to the next."""

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
    average_after: int  # turns; from then on the average keeps 0.9999 of itself in a turn
    standing_batches: int
    kernel_init: str = "orthogonal"
    orthogonal: float = 0.0
    embedding: int = 128
    average_keeps: float = 0.9999
    remat: bool = False


RECIPES = {
    "small": Recipe(
        network="biggan", data="cifar10", image_size=32, attention=(16,), widths=(8, 8), latent=80,
        conditioning="shared_embedding", batch_size=32, steps=20_000, discriminator_steps=1,
        learning_rates=(2e-4, 4e-4), average_after=100, average_keeps=0.99, standing_batches=16, orthogonal=1e-4,
        embedding=32,
    ),
    "small_deep": Recipe(
        network="biggan_deep", data="cifar10", image_size=32, attention=(16,), widths=(16, 16), latent=80,
        conditioning="shared_embedding", batch_size=32, steps=20_000, discriminator_steps=1,
        learning_rates=(2e-4, 4e-4), average_after=100, average_keeps=0.99, standing_batches=16, orthogonal=1e-4,
        embedding=32,
    ),
    "cifar10": Recipe(
        network="biggan", data="cifar10", image_size=32, attention=(), widths=(64, 64), latent=128,
        conditioning="batch_norm", batch_size=50, steps=125_000, discriminator_steps=4,
        learning_rates=(2e-4, 2e-4), average_after=1000, standing_batches=16, kernel_init="normal(0.02)",
    ),
    "imagenet128": Recipe(
        network="biggan", data="folder", image_size=128, attention=(64,), widths=(96, 96), latent=120,
        conditioning="shared_embedding", batch_size=2048, steps=140_000, discriminator_steps=2,
        learning_rates=(5e-5, 2e-4), average_after=20_000, standing_batches=100, orthogonal=1e-4, remat=True,
    ),
    "deep": Recipe(
        network="biggan_deep", data="folder", image_size=128, attention=(64,), widths=(128, 128), latent=128,
        conditioning="shared_embedding", batch_size=2048, steps=140_000, discriminator_steps=2,
        learning_rates=(5e-5, 2e-4), average_after=20_000, standing_batches=100, orthogonal=1e-4, remat=True,
    ),
}  # fmt: skip


def get_config(preset: str = "small"):
    """The recipe of that name in RECIPES: hinge loss, Adam 0 / 0.999, spectral normalization of both players."""
    if preset not in RECIPES:
        raise ValueError(f"biggan:{preset} is unknown; expected: {', '.join(RECIPES)}")
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
        # A scale for each class leaves no place for the parts of a latent.
        **({} if is_deep else {"split_latent": recipe.conditioning == "shared_embedding"}),
    )
    config.discriminator = default.player(
        **both, width=recipe.widths[1], halvings=0, conditioning="projection", learning_rate=recipe.learning_rates[1]
    )
    images = recipe.batch_size * recipe.discriminator_steps  # in a turn
    halflife = images * math.log(0.5) / math.log(recipe.average_keeps)
    config.ema_halflife = 0.0
    config.schedules.ema_halflife = f"phases(({images * recipe.average_after}, {halflife:.1f}))"
    config.evaluation.standing_batches = recipe.standing_batches
    config.sample_every = config.checkpoint_every = 1000
    return config
