"""Multi-layer perceptrons with three hidden layers on MNIST: leaky ReLU in both players, dropout in the discriminator.

python -m gan.main --config=configs/vanilla_gan.py

The settings of its tutorial: images in [-1, 1] and 200 epochs of 600 batches of 100 images. Samples come from the
current generator, not from an average of it. The tutorial draws 16 fixed latents every 100 batches, which is 1,200
image grids. Here 64 samples are drawn every ten epochs; --config.sample_every=100 draws them as often as the tutorial.

Results: docs/tutorials.md.
"""

from configs import default


def get_config():
    """Binary cross-entropy, separately on real and generated images; Adam 2e-4."""
    config = default.get_config()
    config.steps = 120_000
    config.batch_size = 100
    default.use_mnist(config)
    config.generator = _player(layers=(1, 2, 4), dropout=0.0)
    config.discriminator = _player(layers=(4, 2, 1), dropout=0.3)
    default.use_no_ema(config)
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
