"""A convolutional GAN with dropout in both players, on a folder of images of any sizes: flags, in its tutorial.

python -m gan.main --config=configs/flag_gan.py --config.data.dir=FOLDER

As its tutorial has it: images stretched to 64x64, grey, in [0, 1], latents from U(0, 1), batches of 32. Its thousands
of epochs are 2,000 here, of 8 turns for the 251 flags of a folder. There is no averaged generator: samples come from
the last one, without dropout and with running statistics in its batch normalizations. The players' rates differ with
--config.generator.learning_rate=2e-4, and change between phases, by images seen, with
--config.schedules.generator.learning_rate="phases((256000,5e-5))".

It was made for a GPU: 520 billion operations a turn, 20 hours on two CPU cores. In the tens of minutes that a laptop
has, this draws tricolours, bands, crosses and emblems at 32x32 (docs/tutorials.md shows them, and what else was tried):

python -m gan.main --config=configs/flag_gan.py:small --config.data.dir=FOLDER
"""

from configs import default


def get_config(variant: str = "tutorial"):
    """Two-class cross-entropy; Adam 1e-4. `variant` is "tutorial" or "small"."""
    if variant not in ("tutorial", "small"):
        raise ValueError(f"flag_gan:{variant} is unknown; expected: tutorial, small")
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
    config.ema_halflife = 0.0
    config.schedules.ema_halflife = ""
    config.log_every = 10  # seconds a turn on a CPU
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
