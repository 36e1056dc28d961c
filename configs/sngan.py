"""SNGAN (Miyato et al. 2018, arXiv:1802.05957): residual networks, hinge loss, a spectrally normalized discriminator.

python -m gan.main --config=configs/sngan.py
python -m gan.main --config=configs/sngan.py:conditional

The authors' recipe for CIFAR-10. `conditional` is that of Miyato and Koyama 2018 (arXiv:1802.05637), with conditional
batch normalization and a projection. The networks for 48, 64 and 128 pixels are selected by config.data.image_size.
Differences from the originals: an update of the generator sees 64 samples instead of 128, and no noise is added to the
256 levels of the images. Samples come from the current generator, not from an average of it.
"""

from configs import default


def get_config(variant: str = "unconditional"):
    """Adam 2e-4 with betas 0 and 0.9, five updates of D per step; the rate decays to zero over 50,000 steps."""
    default.check_variant("sngan", variant, ("unconditional", "conditional"))
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
    default.decay_learning_rates(config)
    default.use_no_ema(config)
    config.sample_every = config.checkpoint_every = 1000
    return config
