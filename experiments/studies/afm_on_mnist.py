"""Do the parts of adversarial flow models help on MNIST, from the same number of images?

The recipe of configs/afm.py:mnist, and the same networks, loss, penalties of D's gradient and rates without its parts:
without the transport term, and without any of centering, normalization and transport. `vector` has all parts, and
`plain_vector` none, with the generator of DCGAN in place of the U-Net: it reads the same latents as a vector. Lin et
al. 2025, arXiv:2511.22475.

python -m experiments.sweep experiments/studies/afm_on_mnist.py --workdir=runs/afm_on_mnist
"""

from experiments.sweep import Experiment, cases

NO_TRANSPORT = {"penalties.transport": 0.0, "schedules.penalties.transport": ""}
VECTOR = {"generator.image_latent": False, "generator.conditioning": "embedding"}
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
                "vector": VECTOR,
                "plain_vector": {**PLAIN, **VECTOR},
            }
        )
    },
    seeds=(0, 1, 2),
    minimize="fd",
    num_reports=2,
)
