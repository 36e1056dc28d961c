"""Points in the plane, where a GAN can be seen whole: ring8, grid25, unbalanced, swissroll.

python -m gan.main --config=configs/toy.py
python -m gan.main --config=configs/toy.py:grid25

A run's pictures show real points, samples, D's level sets and the way in which G's loss pulls a sample; training.gif
shows them in a row. What the toys are, and how every loss and penalty fares on them: see docs/toys.md.
"""

from configs import default


def get_config(toy: str = "ring8"):
    """Small players, R1 and R2, and a high rate that falls twice: all modes in seconds."""
    config = default.get_config()
    config.batch_size = 128
    config.data.name = toy
    config.data.image_size = ()
    config.latent.size = 2
    config.output_activation = "linear"
    config.generator = _player()
    config.discriminator = _player()
    config.penalties.r1 = config.penalties.r2 = 0.05
    config.ema_halflife = 12_800.0
    set_steps(config, 5000)
    config.log_every = config.sample_every = 250
    config.checkpoint_every = 1000
    return config


def set_steps(config, turns: int) -> None:
    """Sets the length of the run; both learning rates fall to 30% after a half of it, to 10% after three quarters.

    Once shares are even, it is the rate that blurs the modes.
    """
    config.steps = turns
    images = turns * config.batch_size
    for player in ("generator", "discriminator"):
        rate = config[player].learning_rate
        changes = f"({images // 2}, {0.3 * rate:g}), ({3 * images // 4}, {0.1 * rate:g})"
        config.schedules[player].learning_rate = f"phases({changes})"


def _player() -> dict:
    return default.player(
        network="mlp",
        width=64,
        layers=(1, 1, 1),
        slope=0.0,
        dropout=0.0,
        kernel_init="he_normal",
        learning_rate=5e-3,
        beta1=0.0,
        beta2=0.99,
    )
