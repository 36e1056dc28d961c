"""A small convolutional GAN on MNIST: transposed convolutions against two convolutions with average pooling.

python -m gan.main --config=configs/conv_gan.py

As its tutorial has it: latents from N(-1, 1), the same for both players within a turn, and 3,000 turns of 16 images
from the 55,000 training images that MNIST was then split into. There is no averaged generator: samples come from the
last one, though with running statistics in its batch normalizations.

With these numbers it collapses: by turn 700 D's loss is near 0.002 and every sample is one blot. It draws digits of all
kinds within the same 3,000 turns of 16 images once D is penalised for its slope at real images, and made larger and
quicker so that it can afford the penalty (D's loss then ends at 0.7, G's at 1.2; docs/tutorials.md shows both):

python -m gan.main --config=configs/conv_gan.py:tuned
"""

from configs import default


def get_config(variant: str = "tutorial"):
    """Sigmoid cross-entropy on logits, non-saturating; Adam 2e-4. `variant` is "tutorial" or "tuned"."""
    if variant not in ("tutorial", "tuned"):
        raise ValueError(f"conv_gan:{variant} is unknown; expected: tutorial, mended")
    config = default.get_config()
    config.steps = 3000
    config.batch_size = 16
    config.data.name = "mnist"
    config.data.split = "train[:55000]"
    config.data.image_size = (28, 28)
    config.data.channels = 1
    config.latent.prior = "normal(-1)"
    config.latent.share = True
    config.generator = default.player(
        network="conv_gan", width=64, kernel_init="truncated_normal(0.1)", bias=0.1, beta1=0.9
    )
    config.discriminator = default.player(
        network="conv_gan", width=8, kernel_init="truncated_normal(0.02)", bias=0.0, beta1=0.9
    )
    config.ema_halflife = 0.0
    config.schedules.ema_halflife = ""
    if variant == "tuned":
        config.penalties.r1 = 5.0
        config.discriminator.width = 32
        config.discriminator.learning_rate = 1e-3
        config.discriminator.beta1 = config.generator.beta1 = 0.5
    return config
