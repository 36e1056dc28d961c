"""MNIST as good as it gets in a minute, or in five, on two CPU cores: narrow DCGANs that know the labels.

python -m gan.main --config=configs/fast_mnist.py
python -m gan.main --config=configs/fast_mnist.py:five_minutes
timeout --signal=TERM 60 python -m gan.main --config=configs/fast_mnist.py

What makes it fast, in the order of its weight: the labels (an embedding in G, a projection in D), 16 maps in place of
64 and so several times the turns, and high learning rates that fall soon. It is at its best after some 1,000 turns;
later D wins, unless R1 holds it: then it begins more slowly, and goes on. R1 needs a D without batch normalization, and
costs little at every fourth turn. docs/benchmarks.md has what both reach and what was tried. Any later launch begins
sooner, its programs being kept.
"""

from configs import dcgan


def get_config(horizon: str = "minute"):
    """A conditional DCGAN, Adam 4e-3 and 2e-3: of width 16, or of width 32 with R1 and betas 0 and 0.99."""
    if horizon not in ("minute", "five_minutes"):
        raise ValueError(f"fast_mnist:{horizon} is unknown; expected: minute, five_minutes")
    is_minute = horizon == "minute"
    config = dcgan.get_config("mnist")
    config.generator.width = config.discriminator.width = 16 if is_minute else 32
    config.generator.conditioning = "embedding"
    config.discriminator.conditioning = "projection"
    config.generator.learning_rate = 4e-3
    config.discriminator.learning_rate = 2e-3
    if not is_minute:
        config.discriminator.batch_norm = False
        config.penalties.r1 = 1.0
        config.discriminator.penalty_interval = 4
        config.ema_halflife = 40_000.0
        for player in (config.generator, config.discriminator):
            player.beta1, player.beta2 = 0.0, 0.99
    for schedule in (config.schedules.generator, config.schedules.discriminator):
        schedule.learning_rate = "cosine(1e-4, 200_000)" if is_minute else "cosine(5e-4, 220_000)"
    config.steps = 3000 if is_minute else 6000
    config.sample_every = config.checkpoint_every = 500
    return config
