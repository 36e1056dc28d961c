"""What the results page lists: for each dataset the recipes, their budget, their seeds and their metrics.

A new recipe is a new `Entry` in the tuple of its section. It is listed as "not run" until it has records.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.results.published import PUBLISHED, Published
from gan.config import loading
from gan.config.overrides import assign
from gan.errors import UserError, nearest

IMAGES = 64_000
"""The budget of a small recipe, in real images: about an epoch of MNIST and of CIFAR-10."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A recipe that is trained with each of its seeds."""

    name: str
    config: str
    """As in `--config` of gan.main."""
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """{field of the config: value}."""
    images: int = 0
    """The budget in real images; 0: the length of the config."""
    seeds: tuple[int, ...] = (0, 1, 2)
    published: tuple[Published, ...] = ()

    def configured(self, seed: int = 0) -> ConfigDict:
        """The config of one run."""
        config = loading.load(self.config)
        for field, value in self.overrides.items():
            assign(config, field, value)
        config.seed = seed
        if self.images:
            config.steps = max(1, self.images // images_per_step(config))
        return config


class Column(NamedTuple):
    """A metric of a table."""

    metric: str
    """Its key in `evaluation.json`."""
    title: str
    form: str
    """As in `format`."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A table of the page."""

    name: str
    title: str
    text: str
    columns: tuple[Column, ...]
    entries: tuple[Entry, ...]


def images_per_step(config: ConfigDict) -> int:
    """Real images that a step sees."""
    return config.batch_size * config.discriminator_steps


def find(text: str) -> list[tuple[Section, Entry]]:
    """The entries that a comma-separated list of SECTION and SECTION/ENTRY names.

    Raises `UserError` for an unknown name.
    """
    found = []
    valid = {section.name: [(section, entry) for entry in section.entries] for section in SECTIONS}
    valid |= {f"{section.name}/{entry.name}": [(section, entry)] for section in SECTIONS for entry in section.entries}
    for name in text.split(","):
        if name not in valid:
            sections = ", ".join(section.name for section in SECTIONS)
            raise UserError(
                f"--only: {name!r} is unknown{nearest(name, valid)}; expected: {sections}, or SECTION/ENTRY"
            )
        found += [pair for pair in valid[name] if pair not in found]
    return found


def _published(*names: str) -> tuple[Published, ...]:
    return tuple(PUBLISHED[name] for name in names)


def _small(data: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Every family of networks at a size for two CPU cores, on gray images."""
    data = {
        **data, "data.split": "train", "data.image_size": (32, 32), "data.channels": 1,
        "evaluation.num_samples": 10_000, "evaluation.metrics": ("frechet", "prdc", "mode_coverage"),
    }  # fmt: skip
    decayed = {
        f"schedules.{player}.learning_rate": f"cosine(5e-4, {IMAGES})" for player in ("generator", "discriminator")
    }
    narrow = {f"{player}.widths": (32,) * 4 for player in ("generator", "discriminator")}
    recipes = {
        "smooth_gan": ("smooth_gan", {}),
        "mlp_gan": ("mlp_gan", {}),
        "vanilla_gan": ("vanilla_gan", {}),
        "conv_gan_tuned": ("conv_gan:tuned", {"data.image_size": (28, 28)}),  # its networks have this size alone
        "dcgan_labels": ("dcgan", decayed),
        "dcgan": ("dcgan:mnist", {}),
        "stylegan2": ("stylegan2", {}),
        "sagan": ("sagan", {}),
        "biggan": ("biggan", {}),
        "biggan_deep": ("biggan:small_deep", {}),
        "r3gan": ("r3gan", {}),
        "gat": ("gat", {"data.image_size": (28, 28)}),  # its patches divide this size
        "afm": ("afm:mnist", {}),
        "sngan_narrow": ("sngan", narrow),
        "wgan_gp_narrow": ("wgan_gp", narrow),
    }
    return tuple(Entry(name, config, data | own, IMAGES) for name, (config, own) in recipes.items())


_IMAGES = (
    Column("fd_classifier", "Frechet distance", ".1f"),
    Column("precision", "precision", ".2f"),
    Column("recall", "recall", ".2f"),
    Column("coverage", "coverage", ".2f"),
    Column("reverse_kl", "reverse KL", ".3f"),
)
_POINTS = (
    Column("modes", "modes", ".1f"),
    Column("high_quality", "high quality", ".3f"),
    Column("reverse_kl", "reverse KL", ".4f"),
    Column("sliced_wasserstein", "sliced W1", ".3f"),
)
_MODES = (
    Column("modes", "modes of 1,000", ".1f"),
    Column("reverse_kl", "reverse KL", ".3f"),
    Column("fd_classifier", "Frechet distance", ".1f"),
)
_INCEPTION = (
    Column("fd_inception", "FID", ".2f"),
    Column("inception_score_inception", "inception score", ".2f"),
    Column("precision", "precision", ".2f"),
    Column("recall", "recall", ".2f"),
    Column("fd_classifier", "Frechet distance", ".1f"),
)

_POINT_SAMPLES = {"evaluation.num_samples": 2500}  # as Srivastava et al. 2017
_FID = {"evaluation.extractor": "inception", "evaluation.num_samples": 50_000,
        "evaluation.metrics": ("frechet", "prdc", "inception_score")}  # fmt: skip
_BUDGET = f"""Every recipe sees {IMAGES:,} real images, whatever its own length is: that is the same run on every
machine, where a budget in seconds would be another one on each, and it keeps the largest of these networks within half
an hour on two cores. Recipes that are made for many more images, such as the MLPs, are far from their end. Learning
rates that decay with the length of a run follow the budget; all else is the recipe's own. The Frechet distance is in
the features of the classifier, never an FID: no published value is comparable."""

SECTIONS = (
    Section(
        "points",
        "Points in the plane",
        """Eight Gaussians on a ring and 25 on a grid, with `configs/toy.py` at its own length, and 2,500 samples as in
the published table, whose networks and standard deviations are others. [Toys](toys.md) has every loss and penalty.""",
        _POINTS,
        (
            Entry("ring8", "toy:ring8", _POINT_SAMPLES, published=_published("ring8")),
            Entry("grid25", "toy:grid25", _POINT_SAMPLES, published=_published("grid25")),
        ),
    ),
    Section("mnist", "MNIST, gray, 32x32", _BUDGET, _IMAGES, _small({"data.name": "mnist"})),
    Section("cifar10_gray", "CIFAR-10, gray, 32x32", _BUDGET, _IMAGES, _small({"data.name": "cifar10"})),
    Section(
        "stacked_mnist",
        "StackedMNIST",
        f"""26,000 samples, as published. `narrow` is the recipe at half its width and {IMAGES:,} images, for two CPU
cores. The others have the lengths of their configs, for a GPU.""",
        _MODES,
        (
            Entry("narrow", "stacked_mnist", {"generator.width": 16, "discriminator.width": 16}, IMAGES),
            Entry("dcgan", "stacked_mnist", published=_published("stacked_mnist")),
            Entry(
                "r3gan",
                "r3gan:stacked_mnist",
                {"evaluation.num_samples": 26_000, "evaluation.metrics": ("frechet", "mode_coverage")},
                seeds=(0,),
                published=_published("stacked_mnist_r3gan"),
            ),
        ),
    ),
    Section(
        "tutorials",
        "The tutorials on MNIST, at full length",
        "28x28, with the lengths of the [tutorials](tutorials.md), which publish no metrics.",
        _IMAGES,
        tuple(
            Entry(name.replace(":", "_"), name)
            for name in ("smooth_gan", "conv_gan", "conv_gan:tuned", "mlp_gan", "vanilla_gan")
        ),
    ),
    Section(
        "cifar10",
        "CIFAR-10, in color",
        """The published recipes at their published lengths, for GPUs, with the public Inception network, whose weights
`GAN_INCEPTION` names. `sngan_10k` has a fifth of SNGAN's length and is evaluated in the classifier's features, whose
distance is no FID.""",
        _INCEPTION,
        (
            Entry(
                "sngan_10k",
                "sngan:conditional",
                {"steps": 10_000, "evaluation.metrics": ("frechet", "prdc", "inception_score")},
                published=_published("cifar10_sngan_10k"),
            ),
            Entry("sngan", "sngan", _FID, published=_published("cifar10_sngan")),
            Entry(
                "sngan_conditional",
                "sngan:conditional",
                _FID,
                published=_published("cifar10_sngan_conditional", "cifar10_sngan_studiogan"),
            ),
            Entry("wgan_gp", "wgan_gp", _FID, published=_published("cifar10_wgan_gp")),
            Entry("sagan", "sagan:cifar10", _FID, published=_published("cifar10_sagan")),
            Entry("biggan", "biggan:cifar10", _FID, published=_published("cifar10_biggan", "cifar10_biggan_studiogan")),
            Entry("stylegan2", "stylegan2:cifar_conditional", _FID, published=_published("cifar10_stylegan2")),
            Entry("r3gan", "r3gan:cifar10", _FID, published=_published("cifar10_r3gan")),
        ),
    ),
    Section(
        "large",
        "ImageNet and FFHQ",
        "The published recipes at their lengths, for several GPUs. `--config.data.dir` names a folder of images.",
        _INCEPTION,
        tuple(
            Entry(name, config, _FID, seeds=(0,), published=_published(name))
            for name, config in {
                "imagenet32_r3gan": "r3gan:imagenet32",
                "ffhq64_r3gan": "r3gan:ffhq64",
                "ffhq256_stylegan2": "stylegan2:ffhq256",
                "imagenet128_sagan": "sagan:imagenet128",
                "imagenet128_biggan": "biggan:imagenet128",
                "imagenet128_biggan_deep": "biggan:deep",
            }.items()
        ),
    ),
)
"""In the order of the page."""
