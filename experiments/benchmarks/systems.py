"""Which games are timed? Each a config file and what is changed in it, by name.

All of them are played on the bundled digits, brought to the size and the channels that the system is made for: real
images, the same on every machine.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from gan.config import loading
from gan.errors import UserError, lookup

ROOT = Path(__file__).parents[2]
DCGAN = ("configs/dcgan.py", "data.channels=3", "generator.width=64", "discriminator.width=64")

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
}
"""The five tutorial systems, DCGAN at its authors' widths with and without a penalty of second order, and the networks
that came later: at the sizes that their configs have for two cores, SNGAN and WGAN-GP at width 64, none conditional."""


def load(name: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of FILE or FILE:ARG, relative to the root of the repository, with overrides FIELD=VALUE."""
    return loading.load(str(ROOT / name), overrides)


def configured(system: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a system, on the bundled digits."""
    path, *changes = lookup(SYSTEMS, system, "--systems")
    return load(path, ["data.name=digits", "data.dir=", "data.split=train", *changes, *overrides])


def need_torch() -> None:
    """Raises `UserError` where there is no PyTorch to compare with."""
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed; to compare with it: pip install -e '.[peers]'")
