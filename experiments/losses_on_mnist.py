"""Which loss, with which penalty, draws the best MNIST from equal data?

Lucic et al. 2018, arXiv:1711.10337, found that losses differ less than seeds and budgets do. Here five losses, each
without a penalty, with R1 and with WGAN-GP at their authors' weights, and three seeds: a narrow DCGAN, its
discriminator without batch normalization, as WGAN-GP needs it.

python -m experiments.sweep experiments/losses_on_mnist.py --workdir=runs/losses_on_mnist
"""

from experiments.study import Experiment, among, cases

EXPERIMENT = Experiment(
    base="configs/dcgan.py:mnist",
    fixed={
        "generator.width": 16,
        "discriminator.width": 16,
        "discriminator.batch_norm": False,
        "evaluation.metrics": ("frechet", "prdc"),
        "sample_every": 1000,
    },
    space={
        "loss": among("non_saturating", "least_squares", "hinge", "wasserstein", "relativistic"),
        "penalty": cases({"none": {}, "r1": {"penalties.r1": 1.0}, "wgan_gp": {"penalties.wgan_gp": 10.0}}),
    },
    seeds=(0, 1, 2),
    minimize="fd",
    images=128_000,
    reports=4,
)
