"""One hidden layer per player on MNIST, with one-sided label smoothing: D's target for real images is 0.9.

python -m gan.main --config=configs/smooth_gan.py
python -m gan.main --mode=sample --workdir=runs/smooth_gan --num_samples=64 --seed=1

The settings of its tutorial: images in [-1, 1], 100 epochs of 600 batches of 100 images, a plot of both losses
(losses.png), and new samples from a saved model (the second command). Samples come from the current generator, not from
an average of it.

Results: docs/tutorials.md.
"""

from configs import default


def get_config():
    """Cross-entropy with the targets 0.9 and 0 for D, and 1 for G; Adam 2e-3."""
    config = default.get_config()
    config.steps = 60_000
    config.batch_size = 100
    default.use_mnist(config)
    config.loss = "label_smoothed(real=0.9, fake=0.0)"
    config.generator = _player()
    config.discriminator = _player()
    default.use_no_ema(config)
    config.log_every = 100
    config.sample_every = 3000
    config.checkpoint_every = 3000
    return config


def _player() -> dict:
    return default.player(
        network="mlp",
        width=128,
        layers=(1,),
        slope=0.01,
        dropout=0.0,
        kernel_init="xavier_uniform",
        learning_rate=2e-3,
        beta1=0.9,
    )
