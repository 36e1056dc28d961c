"""How much does the Frechet distance vary between seeds?

One setting with twelve seeds, which determine the initial weights, the latents, the order of the data and the evaluated
samples. A difference between two settings must be compared to the standard deviation between seeds.

python -m experiments.sweep experiments/studies/seeds.py --workdir=runs/seeds
"""

from experiments.sweep import Experiment

EXPERIMENT = Experiment(
    base="configs/dcgan.py:digits",
    fixed={
        "data.image_size": (8, 8),
        "evaluation.metrics": ("frechet",),
        "evaluation.num_samples": 2000,
        "sample_every": 1000,
    },
    seeds=range(12),
    minimize="fd",
    budget_images=64_000,
    num_reports=5,
    population="auto",
)
