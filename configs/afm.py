"""Adversarial flow models (Lin et al. 2025, arXiv:2511.22475): a relativistic GAN that learns an optimal transport.

python -m gan.main --config=configs/afm.py
python -m gan.main --config=configs/afm.py:mnist
python -m gan.main --config=configs/afm.py:cifar10

Latents have the image's shape, and G's loss has the term w mean((G(z) - z)^2), so that of all maps from latents to
images the shortest is learned. D has R1 and R2 by finite differences on a quarter of the batch, and a term that centers
its logits. D's gradient to G's images is normalized, so that w means the same however steep D is; it decreases from 0.2
to 0.005 over the run. The authors say that this schedule needs attention by hand.

The default is the ring of configs/toy.py. `mnist` learns MNIST in 10,000 steps, of 4 ms on one GPU; 600 steps at
width 8 failed. docs/adversarial_flow.md has the measurements.
`cifar10` has the batch, optimizer and EMA of the authors' code (commit 519601d: AdamW 1e-4, betas 0 and 0.9, decay
0.01; EMA 0.9999), for one GPU, and was not run to its end. The authors train transformers on the latents of ImageNet.
"""

from ml_collections import ConfigDict

from configs import dcgan, default, toy


def get_config(variant: str = "ring8"):
    """The parts of the paper on the networks of configs/toy.py, or on a U-Net and the discriminator of DCGAN."""
    default.check_variant("afm", variant, ("ring8", "grid25", "mnist", "cifar10"))
    config = toy.get_config(variant) if variant in ("ring8", "grid25") else dcgan.get_config(variant)
    config.loss = "relativistic"
    config.latent.size = 0
    config.normalize_gradient = True
    config.penalties.centering = 0.01
    config.penalties.transport = 0.2
    if variant == "mnist":
        _learn_mnist(config)
    if variant == "cifar10":
        _learn_cifar10(config)
    images = config.get_ref("steps") * config.get_ref("discriminator_steps") * config.get_ref("batch_size")
    config.schedules.penalties.transport = "cosine(0.005, " + images.to_str() + ")"
    return config


def _use_images(config: ConfigDict, **fields) -> None:
    """A U-Net as G, a D without batch normalization, labels for both, and the authors' penalties and optimizer."""
    fields |= {"depth": 0, "kernel_init": "normal(0.02)", "optimizer": "adamw", "beta1": 0.0, "beta2": 0.9}
    fields |= {"weight_decay": 0.01}
    config.generator = default.player(**fields, batch_norm=True, image_latent=True, conditioning="concat")
    config.discriminator = default.player(**fields, batch_norm=False, conditioning="projection")
    config.penalties.r1 = config.penalties.r2 = 0.25
    config.gradient_estimator = "finite_difference(0.01, every=4)"


def _learn_mnist(config: ConfigDict) -> None:
    """High rates that decay, as in configs/fast_mnist.py. 600 steps at width 8 failed."""
    default.use_mnist(config)
    _use_images(config, width=32, learning_rate=1e-3)
    config.generator.learning_rate = 2e-3
    # With sigma 0.01 on every fourth of 64 images and beta2 of 0.9, D became flat within 400 steps. All 64 are as many
    # as a quarter of the authors' 256.
    config.gradient_estimator = "finite_difference(0.1)"
    config.generator.beta2 = config.discriminator.beta2 = 0.99
    config.ema_halflife = 20_000.0
    config.steps = 10_000
    config.sample_every = config.checkpoint_every = 1000
    default.decay_learning_rates(config)


def _learn_cifar10(config: ConfigDict) -> None:
    """The authors' batch, rates and EMA: 256 ln 2 / (1 - 0.9999) images are its half-life."""
    config.data.image_size = (32, 32)
    _use_images(config, width=128, learning_rate=1e-4)
    config.batch_size = 256
    config.ema_halflife = 1.77e6
    config.steps = 200_000
    config.sample_every = config.checkpoint_every = 5000
