"""Which learning rates, and should D's be the higher one (TTUR)?

Heusel et al. 2017, arXiv:1706.08500, give the discriminator a higher learning rate than the generator, such as 3e-4 and
1e-4, so that D keeps up with each step of G. This study crosses two rates of each player, a factor of four apart, on
the bundled digits at 8x8, with six seeds: the fewest with which a difference can be significant.

python -m experiments.sweep experiments/studies/learning_rates.py --workdir=runs/learning_rates
"""

from experiments.sweep import Experiment, choice

EXPERIMENT = Experiment(
    base="configs/dcgan.py:digits",
    fixed={
        "data.image_size": (8, 8),
        "evaluation.metrics": ("frechet",),
        "evaluation.num_samples": 2000,
        "sample_every": 1000,
    },
    space={
        "generator.learning_rate": choice(5e-4, 2e-3),
        "discriminator.learning_rate": choice(5e-4, 2e-3),
    },
    seeds=range(6),
    minimize="fd",
    budget_images=64_000,
    num_reports=5,
)
