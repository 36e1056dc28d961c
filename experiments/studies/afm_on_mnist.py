"""Do the parts of adversarial flow models help on MNIST, from the same number of images?

The recipe of configs/afm.py:mnist, and the same networks, loss, penalties of D's gradient and rates without its parts:
without the transport term, and without any of centering, normalization and transport. `vector` has no part either, and
the generator of DCGAN with latents of 100 numbers in place of the U-Net. Lin et al. 2025, arXiv:2511.22475.

python -m experiments.sweep experiments/studies/afm_on_mnist.py --workdir=runs/afm_on_mnist
"""

from experiments.sweep import Experiment, cases

NO_TRANSPORT = {"penalties.transport": 0.0, "schedules.penalties.transport": ""}
PLAIN = {**NO_TRANSPORT, "penalties.centering": 0.0, "normalize_gradient": False}

EXPERIMENT = Experiment(
    base="configs/afm.py:mnist",
    fixed={"evaluation.metrics": ("frechet", "prdc"), "evaluation.num_samples": 4000, "sample_every": 0},
    space={
        "parts": cases(
            {
                "all": {},
                "no_transport": NO_TRANSPORT,
                "none": PLAIN,
                "vector": {**PLAIN, "generator.image_latent": False, "latent.size": 100},
            }
        )
    },
    seeds=(0, 1, 2),
    minimize="fd",
    num_reports=2,
)
