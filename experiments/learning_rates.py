"""Which learning rates, and should D's be the higher one (TTUR)?

Heusel et al. 2017, arXiv:1706.08500, let the discriminator learn faster than the generator, 3e-4 against 1e-4 for one,
so that a step of G meets a D that has caught up. Here two rates of each player, four apart, on the bundled digits at
8x8, with six seeds: the fewest by which a difference can be told from luck.

python -m experiments.sweep experiments/learning_rates.py --workdir=runs/learning_rates
"""

from experiments.study import Experiment, among

EXPERIMENT = Experiment(
    base="configs/dcgan.py",
    fixed={
        "data.image_size": (8, 8),
        "evaluation.metrics": ("frechet",),
        "evaluation.num_samples": 2000,
        "sample_every": 1000,
    },
    space={
        "generator.learning_rate": among(5e-4, 2e-3),
        "discriminator.learning_rate": among(5e-4, 2e-3),
    },
    seeds=range(6),
    minimize="fd",
    images=64_000,
    reports=5,
)
