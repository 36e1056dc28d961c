"""StackedMNIST: three MNIST digits as the channels of an image, which gives 1,000 modes for a classifier to count.

python -m gan.main --config=configs/stacked_mnist.py
python -m gan.main --mode=evaluate --workdir=runs/stacked_mnist

The first evaluation trains the classifier of digits on MNIST (under a minute on two CPU cores). evaluation.json has its
accuracy with all metrics. docs/evaluation.md compares published results with those of this config.
"""

from configs import default


def get_config():
    """DCGAN, D without batch normalization; relativistic with R1 and R2 (Huang et al. 2024, arXiv:2501.05441)."""
    config = default.get_config()
    config.steps = 100_000
    config.data.name = "stacked_mnist"
    config.data.image_size = (28, 28)
    config.loss = "relativistic"
    config.penalties.r1 = config.penalties.r2 = 0.5
    config.generator = default.player(width=32, depth=0, batch_norm=True, kernel_init="normal(0.02)")
    config.discriminator = default.player(width=32, depth=0, batch_norm=False, kernel_init="normal(0.02)")
    config.sample_every = config.checkpoint_every = 1000
    config.evaluation.num_samples = 26_000
    config.evaluation.metrics = ("frechet", "mode_coverage")
    return config
