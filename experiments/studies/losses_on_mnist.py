"""Which loss, with which penalty, generates MNIST best from the same number of images?

Lucic et al. 2018, arXiv:1711.10337, found that losses differ less than seeds and budgets do. This study compares five
losses, each without a penalty, with R1 and with WGAN-GP at their authors' weights, with three seeds. The networks are a
narrow DCGAN, whose discriminator has no batch normalization, as WGAN-GP requires.

python -m experiments.sweep experiments/studies/losses_on_mnist.py --workdir=runs/losses_on_mnist
"""

from experiments.sweep import Experiment, cases, choice

EXPERIMENT = Experiment(
    base="configs/dcgan.py:mnist",
    fixed={
        "generator.width": 16,
        "discriminator.width": 16,
        "discriminator.batch_norm": False,
        "evaluation.metrics": ("frechet", "neighbors"),
        "sample_every": 1000,
    },
    space={
        "loss": choice("non_saturating", "least_squares", "hinge", "wasserstein", "relativistic"),
        "penalty": cases({"none": {}, "r1": {"penalties.r1": 1.0}, "wgan_gp": {"penalties.wgan_gp": 10.0}}),
    },
    seeds=(0, 1, 2),
    minimize="fd",
    budget_images=128_000,
    num_reports=4,
)
