"""The smallest GAN of the five on MNIST: one hidden layer in each player, two updates of G for one of D.

python -m gan.main --config=configs/mlp_gan.py

As its tutorial has it: images in [0, 1], latents from U(-1, 1), fresh for every update, and 20,000 turns of 256
images. There is no averaged generator: samples come from the last one. The tutorial says Xavier and not which; this
is the uniform one. Both players' losses through the run are in metrics.jsonl and losses.png.

What it reaches: see docs/tutorials.md.
"""

from configs import default


def get_config():
    """-log D(x) - log(1 - D(G(z))) against -log D(G(z)); Adam 2e-5."""
    config = default.get_config()
    config.steps = 20_000
    config.batch_size = 256
    config.data.name = "mnist"
    config.data.image_size = (28, 28)
    config.data.channels = 1
    config.latent.prior = "uniform(-1, 1)"
    config.output_activation = "sigmoid"
    config.generator_steps = 2
    config.generator = _player(512)
    config.discriminator = _player(256)
    config.ema_halflife = 0.0
    config.schedules.ema_halflife = ""
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
