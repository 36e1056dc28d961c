"""MNIST samples after one minute, or five, on two CPU cores: narrow class-conditional DCGANs.

python -m gan.main --config=configs/fast_mnist.py
python -m gan.main --config=configs/fast_mnist.py:five_minutes
timeout --signal=TERM 60 python -m gan.main --config=configs/fast_mnist.py

Horizons are numbers of images, not seconds: a faster machine ends sooner with the same samples, and a slower one that
is stopped after its minute has those of the same curve, earlier.

What makes training fast, most important first: the class labels (an embedding in G, a projection in D), few channels
and so several times as many steps, and high learning rates that decrease. Without a penalty D won after about 1,000
steps at 32x32, and samples became worse. R1 prevents that; it needs a D without batch normalization. In the minute it
is taken by finite differences on every fourth example, at every step: without second derivatives, and in one program
for all steps, which compiles sooner. docs/benchmarks.md has the results and what else was tried. Later launches start
faster, because compiled functions are cached.
"""

from ml_collections import ConfigDict

from configs import dcgan, default


def get_config(horizon: str = "minute"):
    """A conditional DCGAN with R1 and Adam 4e-3 and 2e-3: 1,500 steps of width 24, or 6,000 of width 32."""
    default.check_variant("fast_mnist", horizon, ("minute", "five_minutes"))
    config = dcgan.get_config("mnist")
    config.generator.conditioning = "embedding"
    config.discriminator.conditioning = "projection"
    config.discriminator.batch_norm = False
    config.generator.learning_rate = 4e-3
    config.discriminator.learning_rate = 2e-3
    for player in (config.generator, config.discriminator):
        player.beta1, player.beta2 = 0.0, 0.99
    config.ema_halflife = 40_000.0  # reached after 800,000 images: by its rampup it is 5% of the images seen
    config.sample_every = config.checkpoint_every = 500
    if horizon == "minute":
        _use_a_minute(config)
    else:
        _use_five_minutes(config)
    return config


def _use_a_minute(config: ConfigDict) -> None:
    """Fewer channels and a lower weight of R1; both rates fall until the last step, however many there are."""
    default.use_mnist(config)
    config.steps = 1500
    config.generator.width = config.discriminator.width = 24
    config.penalties.r1 = 0.2
    config.gradient_estimator = "finite_difference(0.1, every=4)"
    config.latent.share = True
    default.decay_learning_rates(config, "cosine", end=5e-4)


def _use_five_minutes(config: ConfigDict) -> None:
    """More channels, and R1 at every fourth step."""
    config.steps = 6000
    config.penalties.r1 = 1.0
    config.discriminator.penalty_interval = 4
    for schedule in (config.schedules.generator, config.schedules.discriminator):
        schedule.learning_rate = "cosine(5e-4, 220_000)"
