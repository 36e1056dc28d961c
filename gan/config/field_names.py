"""The field that a wrong name means: by the names of papers and other libraries, by its last part, by spelling."""

import difflib
from collections.abc import Collection, Mapping

OTHER_NAMES: Mapping[str, str] = {
    "lr": "generator.learning_rate", "g_lr": "generator.learning_rate", "lr_g": "generator.learning_rate",
    "d_lr": "discriminator.learning_rate", "lr_d": "discriminator.learning_rate",
    "epochs": "steps", "num_epochs": "steps", "max_steps": "steps", "num_steps": "steps", "iterations": "steps",
    "bs": "batch_size", "batch": "batch_size", "batchsize": "batch_size",
    "z_dim": "latent.size", "nz": "latent.size", "latent_dim": "latent.size", "latent_size": "latent.size",
    "dataset": "data.name", "data_dir": "data.dir", "data_path": "data.dir", "dataroot": "data.dir",
    "img_size": "data.image_size", "resolution": "data.image_size",
    "n_critic": "discriminator_steps", "n_dis": "discriminator_steps", "n_d": "discriminator_steps",
    "ngf": "generator.width", "ndf": "discriminator.width",
    "gp": "penalties.wgan_gp", "gamma": "penalties.r1", "r1_gamma": "penalties.r1",
    "pretrained": "initialize_from", "init_from": "initialize_from", "freezed": "freeze", "freeze_d": "freeze",
    "save_every": "checkpoint_every", "save_interval": "checkpoint_every", "eval_every": "evaluate_every",
    "ema": "ema_halflife", "dtype": "compute_dtype", "precision": "compute_dtype", "metrics": "evaluation.metrics",
}  # fmt: skip
"""The names of fields in papers and other libraries, and the field here."""


def nearest_field(name: str, valid: Collection[str]) -> str:
    """The field of `valid` that `name` means, or else the one of the most similar spelling."""
    return meant_field(name, valid) or difflib.get_close_matches(name, valid, n=1, cutoff=0.0)[0]


def meant_field(name: str, valid: Collection[str]) -> str:
    """The field of `valid` that has this name, this other name, or this last part; "" where none does."""
    group, _, last = name.lower().replace("-", "_").rpartition(".")
    other = OTHER_NAMES.get(last, last)
    same_group = [f"{group}.{part}" for part in (other.rpartition(".")[2], last)] if group else []
    candidates = [*same_group, other, *(field for field in valid if field.rpartition(".")[2] == last)]
    return next((field for field in candidates if field in valid), "")
