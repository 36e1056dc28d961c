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
    """Author, year, and what else identifies it."""
    arxiv: str
    read_in: str
    """Where it was looked up: the paper, a repository of its authors, or a later work that quotes it."""


def _veegan(value: str) -> Published:
    return Published(value, "Srivastava et al. 2017, table 1", "1705.07761", "the authors' akashgit/VEEGAN, tab.png")


def _r3gan(value: str, read_in: str = "the paper, and a public summary that agrees") -> Published:
    return Published(value, "Huang et al. 2024", "2501.05441", read_in)


def _mimicry(value: str) -> Published:
    source = "Lee and Town 2020, mimicry's baselines, 100,000 steps"
    return Published(value, source, "2005.02494", "the authors' kwotsin/mimicry, README.md")


STUDIOGAN = "POSTECH-CVLab/PyTorch-StudioGAN"
REPRODUCED = f"{STUDIOGAN}, docs/figures/Reproducibility_.png, column Paper"


def _studiogan(value: str) -> Published:
    source = "Kang et al. 2023, StudioGAN's benchmark, against the training split"
    return Published(value, source, "2206.09479", f"the authors' {STUDIOGAN}, docs/figures/StudioGAN_Benchmark_.png")


def _biggan(value: str, read_in: str = REPRODUCED) -> Published:
    return Published(value, "Brock et al. 2019", "1809.11096", read_in)


PUBLISHED: Mapping[str, Published] = {
    "ring8": _veegan("VEEGAN 8 modes, 52.9% high quality; unrolled GAN 7.6 modes, 35.6%; GAN 1 mode, 99.3%"),
    "grid25": _veegan("VEEGAN 24.6 modes, 40% high quality; unrolled GAN 23.6 modes, 16%; GAN 3.3 modes, 0.5%"),
    "stacked_mnist": _r3gan(
        "this loss and these penalties with a small ResNet: 1000 modes, KL 0.0781",
        "deep-diver/ai-paper-reviewer, content/paper-reviews/2501.05441, the paper's table",
    ),
    "stacked_mnist_r3gan": _r3gan("1000 modes, KL 0.029; StyleGAN2 940, 0.42; DCGAN 99, 3.40"),
    "cifar10_sngan_10k": Published(
        "FID 25.6 after 10,000 steps, 10,000 samples against the test split",
        "Kang et al. 2023, StudioGAN's log of SNGAN",
        "2206.09479",
        f"the authors' {STUDIOGAN} at 93985c6, logs/CIFAR10/SNGAN-train-2020_09_18_14_37_00.log",
    ),
    "cifar10_sngan": _mimicry("FID 16.77 ± 0.04"),
    "cifar10_sngan_conditional": _mimicry("FID 10.84 ± 0.03"),
    "cifar10_sngan_studiogan": _studiogan("FID 9.01, precision 0.70, recall 0.62"),
    "cifar10_wgan_gp": _mimicry("FID 22.29 ± 0.06"),
    "cifar10_sagan": _studiogan("FID 10.35, precision 0.69, recall 0.63"),
    "cifar10_biggan": _biggan("FID 14.73, inception score 9.22"),
    "cifar10_biggan_studiogan": _studiogan("FID 4.16, precision 0.74, recall 0.65"),
    "cifar10_stylegan2": Published("FID 2.42", "Karras et al. 2020, with ADA", "2006.06676", REPRODUCED),
    "cifar10_r3gan": _r3gan("FID 1.96, recall 0.57"),
    "imagenet32_r3gan": _r3gan("FID 1.27, recall 0.63"),
    "ffhq64_r3gan": _r3gan("FID 1.95", "the authors' model card of brownvc/R3GAN-FFHQ-64x64 at Hugging Face"),
    "ffhq256_stylegan2": _r3gan("FID 3.78"),
    "imagenet128_sagan": Published(
        "FID 18.65, inception score 52.52", "Zhang et al. 2019", "1805.08318", "the abstract of arXiv:1809.11096"
    ),
    "imagenet128_biggan": _biggan("FID 8.7, inception score 98.8"),
    "imagenet128_biggan_deep": _biggan(
        "FID 5.7, inception score 124.5", "Ho and Salimans 2022, arXiv:2207.12598, table 2"
    ),
}
