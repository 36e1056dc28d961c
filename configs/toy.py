"""Points in the plane, where a GAN can be seen as a whole: ring8, grid25, unbalanced, swissroll.

python -m gan.main --config=configs/toy.py
python -m gan.main --config=configs/toy.py:grid25

The plots of a run show real points, samples, the level sets of D, and the directions in which the loss of G decreases;
training.gif is an animation of them. docs/toys.md describes the datasets, and compares all losses and penalties on
them.
"""

from configs import default


def get_config(toy: str = "ring8"):
    """Small networks, R1 and R2, and high learning rates that are reduced twice: all modes within seconds."""
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


def set_steps(config, steps: int) -> None:
    """Sets the length of the run. Both learning rates are reduced to 30% after half of it and 10% after three quarters.

    Once all modes have equal shares, the width of the modes in the samples is due to the learning rate.
    """
    config.steps = steps
    images = steps * config.batch_size
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
