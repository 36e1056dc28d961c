"""How much of a Frechet figure is luck?

One setting, twelve seeds of everything that is drawn in a run: initial weights, latents, the order of the data and the
samples that are judged. The deviation between seeds is what a difference of two settings has to be seen against.

python -m experiments.sweep experiments/seeds.py --workdir=runs/seeds
"""

from experiments.study import Experiment

EXPERIMENT = Experiment(
    base="configs/dcgan.py",
    fixed={
        "data.image_size": (8, 8),
        "evaluation.metrics": ("frechet",),
        "evaluation.num_samples": 2000,
        "sample_every": 1000,
    },
    seeds=range(12),
    minimize="fd",
    images=64_000,
    reports=5,
    population="auto",
)
