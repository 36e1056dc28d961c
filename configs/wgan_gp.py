"""WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028) with the authors' residual networks for CIFAR-10.

python -m gan.main --config=configs/wgan_gp.py
python -m gan.main --config=configs/wgan_gp.py:conditional

The critic has no batch normalization, because the penalty is on the gradient of each image's own logit. `conditional`
is an AC-GAN: conditional batch normalization, and a critic with a classifier, whose loss has the weight 1 on real
images and 0.1 on generated ones. Differences from the original: an update of the generator sees 64 samples instead of
128, and no noise is added to the 256 levels of the images. Samples come from the current generator, not from an average
of it.
"""

from configs import default


def get_config(variant: str = "unconditional"):
    """Penalty 10, Adam 2e-4 with betas 0 and 0.9, five updates of D per step; the rate decays to zero."""
    default.check_variant("wgan_gp", variant, ("unconditional", "conditional"))
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
    default.decay_learning_rates(config)
    default.use_no_ema(config)
    config.sample_every = config.checkpoint_every = 1000
    return config
