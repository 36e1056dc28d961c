"""Multi-layer perceptrons with three hidden layers on MNIST, leaky ReLU throughout and dropout in the discriminator.

python -m gan.main --config=configs/vanilla_gan.py

As its tutorial has it: images in [-1, 1] and 200 epochs of 600 batches of 100 images. There is no averaged generator:
samples come from the last one. The tutorial draws 16 fixed latents every 100 batches; here 64 are drawn every ten
epochs, for the 1,200 pictures of the former nobody looks at: --config.sample_every=100 brings them back.

What it reaches: see docs/tutorials.md.
"""

from configs import default


def get_config():
    """Binary cross-entropy, on real and fake images apart; Adam 2e-4."""
    config = default.get_config()
    config.steps = 120_000
    config.batch_size = 100
    config.data.name = "mnist"
    config.data.image_size = (28, 28)
    config.data.channels = 1
    config.generator = _player(layers=(1, 2, 4), dropout=0.0)
    config.discriminator = _player(layers=(4, 2, 1), dropout=0.3)
    config.ema_halflife = 0.0
    config.schedules.ema_halflife = ""
    config.log_every = 100
    config.sample_every = 6000
    config.checkpoint_every = 6000
    return config


def _player(*, layers: tuple, dropout: float) -> dict:
    return default.player(
        network="mlp",
        width=256,
        layers=layers,
        slope=0.2,
        dropout=dropout,
        kernel_init="fan_in_uniform",
        beta1=0.9,
    )
