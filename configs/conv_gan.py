"""A small convolutional GAN on MNIST: transposed convolutions against two convolutions with average pooling.

python -m gan.main --config=configs/conv_gan.py
python -m gan.main --config=configs/conv_gan.py:tuned

The settings of its tutorial: latents from N(-1, 1), shared by both players within a step, and 3,000 steps of 16 images
from the 55,000 training images of MNIST's older split. Samples come from the current generator, not from an average of
it, with running statistics in its batch normalizations.

The tutorial's settings collapse: by step 700 D's loss is near 0.002 and all samples are the same blot. `tuned` adds an
R1 penalty to D, and makes D wider and its learning rate higher. It draws all digits within the same 3,000 steps of 16
images; at the end D's loss is 0.7 and G's 1.2. docs/tutorials.md shows both.
"""

from configs import default


def get_config(variant: str = "tutorial"):
    """Sigmoid cross-entropy on logits, non-saturating; Adam 2e-4. `variant` is "tutorial" or "tuned"."""
    default.check_variant("conv_gan", variant, ("tutorial", "tuned"))
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
    default.use_no_ema(config)
    if variant == "tuned":
        config.penalties.r1 = 5.0
        config.discriminator.width = 32
        config.discriminator.learning_rate = 1e-3
        config.discriminator.beta1 = config.generator.beta1 = 0.5
    return config
