"""One hidden layer in each player on MNIST, with one-sided label smoothing: D is shown 0.9 for real images.

python -m gan.main --config=configs/smooth_gan.py
python -m gan.main --mode=sample --workdir=runs/smooth_gan --num_samples=64 --seed=1

As its tutorial has it: images in [-1, 1] and 100 epochs of 600 batches of 100 images, the losses of both players
plotted (losses.png), and a saved model restored for new samples (the second command). There is no averaged generator:
samples come from the last one.

What it reaches: see docs/tutorials.md.
"""

from configs import default


def get_config():
    """Cross-entropy against the labels 0.9 and 0, G's against 1; Adam 2e-3."""
    config = default.get_config()
    config.steps = 60_000
    config.batch_size = 100
    config.data.name = "mnist"
    config.data.image_size = (28, 28)
    config.data.channels = 1
    config.loss = "label_smoothed(real=0.9, fake=0.0)"
    config.generator = _player()
    config.discriminator = _player()
    config.ema_halflife = 0.0
    config.schedules.ema_halflife = ""
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
