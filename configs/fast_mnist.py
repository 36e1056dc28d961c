"""The best MNIST samples after one minute, or five, on two CPU cores: narrow class-conditional DCGANs.

python -m gan.main --config=configs/fast_mnist.py
python -m gan.main --config=configs/fast_mnist.py:five_minutes
timeout --signal=TERM 60 python -m gan.main --config=configs/fast_mnist.py

What makes training fast, most important first: the class labels (an embedding in G, a projection in D), 16 channels
instead of 64 and so several times as many steps, and high learning rates that decay early. Samples are best after about
1,000 steps. Later D wins, unless R1 regularizes it; with R1 the start is slower and training continues to improve. R1
needs a D without batch normalization, and costs little when it is applied every fourth step. docs/benchmarks.md has the
results and what else was tried. Later launches start faster, because compiled functions are cached.
"""

from configs import dcgan, default


def get_config(horizon: str = "minute"):
    """A conditional DCGAN, Adam 4e-3 and 2e-3: of width 16, or of width 32 with R1 and betas 0 and 0.99."""
    default.check_variant("fast_mnist", horizon, ("minute", "five_minutes"))
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
