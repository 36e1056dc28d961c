"""DCGAN (Radford et al. 2016) on the bundled digits, or on any TFDS image dataset by name.

python -m gan.main --config=configs/dcgan.py
python -m gan.main --config=configs/dcgan.py:mnist
"""

from configs import default


def get_config(dataset: str = "digits"):
    """The authors' recipe at 32x32: Adam 2e-4, beta1 0.5, N(0, 0.02) initialisation; a narrower network."""
    config = default.get_config()
    config.data.name = dataset
    config.steps = 2500
    config.average_halflife = 20_000.0
    if dataset != "digits":  # which are few, and are learned in two minutes on two CPU cores
        config.steps = 20_000
        config.sample_every = config.checkpoint_every = 1000
    config.generator.width = 32
    config.discriminator.width = 32
    return config
