"""Is R1 by finite differences as good on MNIST as exact R1, on the whole batch or on a quarter of it?

The narrow DCGAN of losses_on_mnist.py, whose discriminator has no batch normalization: without a penalty, with exact
R1, and with R1 by finite differences at sigma 0.01, on every example and on every fourth. All have the same weight and
the same seeds, so that settings can be compared in pairs.

python -m experiments.sweep experiments/studies/gradient_estimators.py --workdir=runs/gradient_estimators
"""

from experiments.sweep import Experiment, cases

R1 = {"penalties.r1": 1.0}

EXPERIMENT = Experiment(
    base="configs/dcgan.py:mnist",
    fixed={
        "generator.width": 16,
        "discriminator.width": 16,
        "discriminator.batch_norm": False,
        "evaluation.metrics": ("frechet",),
        "evaluation.num_samples": 5000,
        "sample_every": 1000,
    },
    space={
        "estimator": cases(
            {
                "exact": R1,
                "finite_difference": R1 | {"gradient_estimator": "finite_difference(0.01)"},
                "every_fourth": R1 | {"gradient_estimator": "finite_difference(0.01, every=4)"},
                "no_penalty": {},
            }
        ),
    },
    seeds=(0, 1, 2),
    minimize="fd",
    budget_images=96_000,
    num_reports=2,
)
