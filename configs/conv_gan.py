"""A small convolutional GAN on MNIST: transposed convolutions against two convolutions with average pooling.

python -m gan.main --config=configs/conv_gan.py

As its tutorial has it: latents from N(-1, 1), the same for both players within a turn, and 3,000 turns of 16 images
from the 55,000 training images that MNIST was then split into. There is no averaged generator: samples come from the
last one, though with running statistics in its batch normalisations.

What it reaches: see docs/tutorials.md.
"""

from configs import default


def get_config():
    """Sigmoid cross-entropy on logits, non-saturating; Adam 2e-4."""
    config = default.get_config()
    config.steps = 3000
    config.batch_size = 16
    config.data.name = "mnist"
    config.data.split = "train[:55000]"
    config.data.image_size = (28, 28)
    config.data.channels = 1
    config.latent.prior = "normal(-1)"
    config.latent.shared = True
    config.generator = default.player(
        network="conv_gan", width=64, kernel_init="truncated_normal(0.1)", bias=0.1, beta1=0.9
    )
    config.discriminator = default.player(
        network="conv_gan", width=8, kernel_init="truncated_normal(0.02)", bias=0.0, beta1=0.9
    )
    config.average_halflife = 0.0
    config.schedules.average_halflife = ""
    return config
