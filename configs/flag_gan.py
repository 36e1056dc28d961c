"""A convolutional GAN with dropout in both players, for a folder of images of any size. Its tutorial draws flags.

python -m gan.main --config=configs/flag_gan.py --config.data.dir=FOLDER
python -m gan.main --config=configs/flag_gan.py:small --config.data.dir=FOLDER

The settings of its tutorial: images stretched to 64x64, gray, in [0, 1], latents from U(0, 1), batches of 32. The
tutorial trains for thousands of epochs; here it is 2,000 epochs, of 8 steps for a folder of 251 flags. Samples come
from the current generator, not from an average of it, without dropout and with running statistics in its batch
normalizations. To give the players different learning rates: --config.generator.learning_rate=2e-4. To change a rate
during training, by images seen: --config.schedules.generator.learning_rate="phases((256000,5e-5))".

The tutorial's model is sized for a GPU: 520 billion operations per step, 20 hours on two CPU cores. `small` draws
tricolors, bands, crosses and emblems at 32x32 within tens of minutes on a laptop. docs/tutorials.md shows them, and
what else was tried.

Of 100 images or more a tenth is held out as the test split; --config.data.split=train+test trains on all of them.
"""

from configs import default


def get_config(variant: str = "tutorial"):
    """Two-class cross-entropy; Adam 1e-4. `variant` is "tutorial" or "small"."""
    default.check_variant("flag_gan", variant, ("tutorial", "small"))
    config = default.get_config()
    config.steps = 16_000
    config.batch_size = 32
    config.data.name = "folder"
    config.data.image_size = (64, 64)
    config.data.channels = 1
    config.data.crop = "none"
    config.latent.prior = "uniform(0, 1)"
    config.output_activation = "sigmoid"
    config.generator = default.player(
        network="flag",
        channels=(100, 64, 32),
        dropout=0.5,
        dense_init="xavier_normal",
        kernel_init="xavier_uniform",
        learning_rate=1e-4,
        beta1=0.9,
    )
    config.discriminator = default.player(
        network="flag",
        channels=(128, 64),
        hidden=32,
        dropout=0.25,
        kernel_init="xavier_uniform",
        learning_rate=1e-4,
        beta1=0.9,
    )
    default.use_no_ema(config)
    config.log_every = 10  # a step takes seconds on a CPU
    config.sample_every = 200
    config.checkpoint_every = 200
    if variant == "small":
        config.steps = 4000
        config.data.image_size = (32, 32)
        config.generator.channels = (64, 32, 16)
        config.generator.dropout = 0.0
        config.generator.learning_rate = 1e-3
        config.discriminator.channels = (32, 16)
        config.discriminator.learning_rate = 5e-4
        config.generator.beta1 = config.discriminator.beta1 = 0.5
        config.penalties.r1 = 2.0
        config.ema_halflife = 5000.0
    return config
