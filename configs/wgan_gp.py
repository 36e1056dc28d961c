"""WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028) with the authors' residual networks for CIFAR-10.

python -m gan.main --config=configs/wgan_gp.py
python -m gan.main --config=configs/wgan_gp.py:conditional

The critic has no batch normalization: the penalty is on the slope of each image's own logit. It differs from the
authors' recipe in that the generator's updates see 64 samples, not 128, and no noise is added to the 256 levels of the
images. There is no averaged generator: samples come from the last one. The conditional one is an AC-GAN: conditional
batch normalization, and a critic that classifies, with weight 1 on real images and 0.1 on generated ones.
"""

from configs import default


def get_config(variant: str = "unconditional"):
    """Penalty 10, Adam 2e-4, betas 0 and 0.9, five D's to a G; the rate falls to zero over 100,000 turns."""
    if variant not in ("unconditional", "conditional"):
        raise ValueError(f"wgan_gp:{variant} is unknown; expected: unconditional, conditional")
    is_conditional = variant == "conditional"
    adam = {
        "network": "resnet",
        "widths": (128,) * 4,
        "kernel_init": "xavier_uniform",
        "remat": False,
        "beta1": 0.0,
        "beta2": 0.9,
    }
    config = default.get_config()
    config.steps = 100_000
    config.data.name = "cifar10"
    config.latent.size = 128
    config.loss = "wasserstein"
    config.penalties.wgan_gp = 10.0
    config.discriminator_steps = 5
    config.generator = default.player(**adam, conditioning="batch_norm" if is_conditional else "none")
    config.discriminator = default.player(
        **adam, halvings=2, pooling="mean", layer_norm=False, conditioning="classifier" if is_conditional else "none"
    )
    if is_conditional:
        config.penalties.ac_real, config.penalties.ac_gen = 1.0, 0.1
    images = config.steps * config.discriminator_steps * config.batch_size
    for player in (config.schedules.generator, config.schedules.discriminator):
        player.learning_rate = f"linear(0.0, {images})"
    config.ema_halflife = 0.0
    config.schedules.ema_halflife = ""
    config.sample_every = config.checkpoint_every = 1000
    return config
