"""MNIST as good as it gets in a minute on two CPU cores: a narrow DCGAN that knows the labels.

python -m gan.main --config=configs/fast_mnist.py
timeout --signal=TERM 60 python -m gan.main --config=configs/fast_mnist.py

What makes it fast, in the order of its weight: the labels (an embedding in G, a projection in D), 16 maps in place of
64 and so several times the turns, and high learning rates that fall soon. It is at its best after some 1,000 turns;
later D wins. docs/benchmarks.md has what it reaches and what was tried. Any later launch begins sooner, its programs
being kept.
"""

from configs import dcgan


def get_config():
    """A conditional DCGAN of width 16, Adam 4e-3 and 2e-3."""
    config = dcgan.get_config("mnist")
    config.generator.width = config.discriminator.width = 16
    config.generator.conditioning = "embedding"
    config.discriminator.conditioning = "projection"
    config.generator.learning_rate = 4e-3
    config.discriminator.learning_rate = 2e-3
    for schedule in (config.schedules.generator, config.schedules.discriminator):
        schedule.learning_rate = "cosine(1e-4, 200_000)"
    config.steps = 3000
    config.sample_every = config.checkpoint_every = 500
    return config
