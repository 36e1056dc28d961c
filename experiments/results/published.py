"""Published values that stand beside the results, each with its source. This is the only place where they are written.

A value is comparable only where the protocol is: an FID is of the public Inception network, and of 50,000 samples where
nothing else is said.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """A value as it was published."""

    value: str
    source: str
    """Author, year, and the table where it was looked up."""
    arxiv: str


def _r3gan(value: str, table: str = "") -> Published:
    return Published(value, f"Huang et al. 2024{table}", "2501.05441")


def _studiogan(value: str) -> Published:
    return Published(value, "Kang et al. 2023, StudioGAN's benchmark, against the training split", "2206.09479")


def _mimicry(value: str) -> Published:
    return Published(value, "Lee and Town 2020, mimicry's baselines, 100,000 steps", "2005.02494")


def _veegan(value: str) -> Published:
    return Published(value, "Srivastava et al. 2017, table 1", "1705.07761")


PUBLISHED: Mapping[str, Published] = {
    "ring8": _veegan("VEEGAN 8 modes, 53% high quality; unrolled GAN 7.6 modes, 36%; GAN 1 mode, 99%"),
    "grid25": _veegan("VEEGAN 24.6 modes, 40% high quality; unrolled GAN 23.6 modes, 16%; GAN 3.3 modes, 0.5%"),
    "stacked_mnist": _r3gan("this loss and these penalties with a small ResNet: 1000 modes, KL 0.0781", ", table 1"),
    "stacked_mnist_r3gan": _r3gan(
        "1000 modes, KL 0.029; StyleGAN2 940, 0.42; PacGAN 992, 0.28; WGAN-GP 959, 0.73; DCGAN 99, 3.40", ", table 3"
    ),
    "cifar10_sngan_10k": Published(
        "FID 25.6 after 10,000 steps, against the test split",
        "Kang et al. 2023, StudioGAN's log of SNGAN",
        "2206.09479",
    ),
    "cifar10_sngan": _mimicry("FID 16.77 ± 0.04"),
    "cifar10_sngan_conditional": _mimicry("FID 10.84 ± 0.03"),
    "cifar10_sngan_studiogan": _studiogan("FID 9.01, precision 0.70, recall 0.62"),
    "cifar10_wgan_gp": _mimicry("FID 22.29 ± 0.06"),
    "cifar10_sagan": _studiogan("FID 10.35"),
    "cifar10_biggan": Published("FID 14.73", "Brock et al. 2019", "1809.11096"),
    "cifar10_biggan_studiogan": _studiogan("FID 4.16, precision 0.74, recall 0.65"),
    "cifar10_stylegan2": _r3gan("FID 2.42, of Karras et al. 2020"),
    "cifar10_r3gan": _r3gan("FID 1.96, recall 0.57"),
    "imagenet32_r3gan": _r3gan("FID 1.27, recall 0.63"),
    "ffhq64_r3gan": _r3gan("FID 1.95, recall 0.53"),
    "ffhq256_stylegan2": _r3gan("FID 3.78"),
    "imagenet128_sagan": Published("FID 18.65, inception score 52.52", "Zhang et al. 2019", "1805.08318"),
    "imagenet128_biggan": Published("FID 8.7, inception score 98.8", "Brock et al. 2019", "1809.11096"),
    "imagenet128_biggan_deep": Published("FID 5.7, inception score 124.5", "Brock et al. 2019", "1809.11096"),
}
