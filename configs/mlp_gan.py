"""The smallest of the five tutorial GANs, on MNIST: one hidden layer per player, two updates of G for each of D.

python -m gan.main --config=configs/mlp_gan.py

The settings of its tutorial: images in [0, 1], latents from U(-1, 1), drawn anew for every update, and 20,000 steps of
256 images. Samples come from the current generator, not from an average of it. The tutorial does not say which Xavier
initializer it uses; here it is the uniform one. The losses of both players are in metrics.jsonl and losses.png.

Results: docs/tutorials.md.
"""

from configs import default


def get_config():
    """-log D(x) - log(1 - D(G(z))) against -log D(G(z)); Adam 2e-5."""
    config = default.get_config()
    config.steps = 20_000
    config.batch_size = 256
    default.use_mnist(config)
    config.latent.prior = "uniform(-1, 1)"
    config.output_activation = "sigmoid"
    config.generator_steps = 2
    config.generator = _player(512)
    config.discriminator = _player(256)
    default.use_no_ema(config)
    config.log_every = 100
    config.sample_every = 2000
    config.checkpoint_every = 2000
    return config


def _player(width: int) -> dict:
    return default.player(
        network="mlp",
        width=width,
        layers=(1,),
        slope=0.0,
        dropout=0.0,
        kernel_init="xavier_uniform",
        learning_rate=2e-5,
        beta1=0.9,
    )
