"""DCGAN (Radford et al. 2016, arXiv:1511.06434) on the bundled digits, or on any image dataset of TFDS by name.

python -m gan.main --config=configs/dcgan.py
python -m gan.main --config=configs/dcgan.py:mnist
"""

from configs import default


def get_config(dataset: str = "digits"):
    """The paper's recipe at 32x32: Adam 2e-4, beta1 0.5, N(0, 0.02) initialization; with half the usual channels."""
    config = default.get_config()
    config.data.name = dataset
    config.generator.width = config.discriminator.width = 32
    config.steps = 20_000
    config.sample_every = config.checkpoint_every = 1000
    if dataset == "digits":  # a small dataset: learned in two minutes on two CPU cores, with higher learning rates
        config.steps = 2500
        config.sample_every = config.checkpoint_every = 500
        config.ema_halflife = 20_000.0
        config.generator.learning_rate = 1e-3
        config.discriminator.learning_rate = 5e-4
    return config
