"""The systems that the benchmarks time, by name: a config file each, and the fields that are changed in it.

All of them are trained on the bundled digits, resized to the image size and channels of the system: real images, which
are the same on every machine.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from gan.config import loading
from gan.errors import UserError, lookup

ROOT = Path(__file__).parents[2]
DCGAN = ("configs/dcgan.py:digits", "data.channels=3", "generator.width=64", "discriminator.width=64")

UNCONDITIONAL = ("generator.conditioning=none", "discriminator.conditioning=none")
RESNET = ("data.channels=3", "generator.widths=(64, 64, 64, 64)", "discriminator.widths=(64, 64, 64, 64)")

SYSTEMS: Mapping[str, tuple[str, ...]] = {
    "mlp_gan": ("configs/mlp_gan.py",),
    "smooth_gan": ("configs/smooth_gan.py",),
    "vanilla_gan": ("configs/vanilla_gan.py",),
    "conv_gan": ("configs/conv_gan.py",),
    "flag_gan": ("configs/flag_gan.py",),
    "dcgan32": DCGAN,
    "dcgan64": (*DCGAN, "data.image_size=(64, 64)"),
    "dcgan32_r1": (*DCGAN, "discriminator.batch_norm=False", "penalties.r1=5.0"),
    "sngan": ("configs/sngan.py", *RESNET),
    "wgan_gp": ("configs/wgan_gp.py", *RESNET),
    "sagan": ("configs/sagan.py", *UNCONDITIONAL),
    "biggan": ("configs/biggan.py", *UNCONDITIONAL),
    "r3gan": ("configs/r3gan.py",),
    "stylegan2": ("configs/stylegan2.py",),
    "gat": ("configs/gat.py", *UNCONDITIONAL),
}
"""The five tutorial systems, DCGAN at its authors' widths with and without R1, and later networks, all unconditional,
at the small sizes of their configs for CPUs; SNGAN and WGAN-GP have width 64."""


def load(name: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of NAME, FILE or FILE:ARG, with overrides FIELD=VALUE."""
    return loading.load(name, overrides)


def configured(system: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a system, on the bundled digits."""
    path, *changes = lookup(SYSTEMS, system, "--systems")
    return load(path, ["data.name=digits", "data.dir=", "data.split=train", *changes, *overrides])


def need_torch() -> None:
    """Raises `UserError` if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed; to compare with it: pip install -e '.[peers]'")
