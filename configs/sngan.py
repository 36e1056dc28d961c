"""SNGAN (Miyato et al. 2018, arXiv:1802.05957): residual networks, hinge loss, a spectrally normalized discriminator.

python -m gan.main --config=configs/sngan.py
python -m gan.main --config=configs/sngan.py:conditional

The authors' recipe for CIFAR-10, and with conditional batch normalization and a projection that of Miyato and Koyama
2018 (arXiv:1802.05637); the networks for 48, 64 and 128 pixels follow config.data.image_size. It differs from theirs in
that the generator's updates see 64 samples, not 128, and no noise is added to the 256 levels of the images. There is no
averaged generator: samples come from the last one.
"""

from configs import default


def get_config(variant: str = "unconditional"):
    """Adam 2e-4, betas 0 and 0.9, five D's to a G; the rate falls to zero over 50,000 turns."""
    if variant not in ("unconditional", "conditional"):
        raise ValueError(f"sngan:{variant} is unknown; expected: unconditional, conditional")
    is_conditional = variant == "conditional"
    adam = {
        "network": "resnet",
        "widths": (),
        "kernel_init": "xavier_uniform",
        "remat": False,
        "beta1": 0.0,
        "beta2": 0.9,
    }
    config = default.get_config()
    config.steps = 50_000
    config.data.name = "cifar10"
    config.latent.size = 128
    config.loss = "hinge"
    config.discriminator_steps = 5
    config.generator = default.player(**adam, conditioning="batch_norm" if is_conditional else "none")
    config.discriminator = default.player(
        **adam,
        halvings=0,
        pooling="sum",
        layer_norm=False,
        spectral_norm=True,
        conditioning="projection" if is_conditional else "none",
    )
    images = config.steps * config.discriminator_steps * config.batch_size
    for player in (config.schedules.generator, config.schedules.discriminator):
        player.learning_rate = f"linear(0.0, {images})"
    config.ema_halflife = 0.0
    config.schedules.ema_halflife = ""
    config.sample_every = config.checkpoint_every = 1000
    return config
