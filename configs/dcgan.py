"""DCGAN (Radford et al. 2016, arXiv:1511.06434) on bundled digits, or on any image dataset by name.

python -m gan.main --config=configs/dcgan.py
python -m gan.main --config=configs/dcgan.py:digits
python -m gan.main --config=configs/dcgan.py:mnist
python -m gan.main --config=configs/dcgan.py:folder --config.data.dir=PATH --config.data.image_size=64,64

The default, `mnist5k`, is not the paper's recipe but one for the first picture: 5,000 digits of MNIST that come with a
dependency, class-conditional, in 90 seconds of training on two CPU cores. configs/fast_mnist.py says what makes it
fast. `digits` are the smallest images, 8x8 enlarged to 32x32. Other datasets have the paper's recipe.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(dataset: str = "mnist5k"):
    """The paper's recipe at 32x32: Adam 2e-4, beta1 0.5, N(0, 0.02) initialization; with half the usual channels."""
    config = default.get_config()
    config.data.name = dataset
    config.generator.width = config.discriminator.width = 32
    config.steps = 20_000
    config.sample_every = config.checkpoint_every = 1000
    if dataset == "mnist5k":
        _learn_mnist5k_fast(config)
    if dataset == "digits":  # a small dataset: learned in two minutes on two CPU cores, with higher learning rates
        config.steps = 2500
        config.sample_every = config.checkpoint_every = 500
        config.ema_halflife = 20_000.0
        config.generator.learning_rate = 1e-3
        config.discriminator.learning_rate = 5e-4
    return config


def _learn_mnist5k_fast(config: ConfigDict) -> None:
    """Labels for both players, few channels, high rates that decay, and R1 at every fourth step."""
    config.data.image_size = (28, 28)
    config.steps = 2400
    config.sample_every = 100
    config.checkpoint_every = 600
    config.ema_halflife = 20_000.0
    config.generator.conditioning = "embedding"
    config.discriminator.conditioning = "projection"
    config.discriminator.batch_norm = False
    config.discriminator.penalty_interval = 4
    config.penalties.r1 = 0.2
    config.generator.learning_rate = 4e-3
    config.discriminator.learning_rate = 2e-3
    for player in ("generator", "discriminator"):
        config[player].width = 24
        config[player].beta1, config[player].beta2 = 0.0, 0.99
        config.schedules[player].learning_rate = f"cosine(5e-4, {config.steps * config.batch_size})"
    config.evaluation.num_samples = 4000  # as many as there are training images, for the baseline of real images
