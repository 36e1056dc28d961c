"""Every field that a run has, with its meaning. The other configs start from here and change what they must.

Not a run by itself: see configs/dcgan.py.
"""

from ml_collections import ConfigDict, FieldReference

PENALTIES = (
    "r1", "r2", "wgan_gp", "wgan_lp", "dragan", "lecam", "bcr", "zcr_d", "ac_real",
    "ac_fake", "ac_gen", "path_length", "zcr_g", "ortho",
)  # fmt: skip


def player(**fields) -> dict:
    """One player: its network's name and its optimizer, changed or extended by `fields`, such as the network's own."""
    return {
        "network": "dcgan",
        "conditioning": "none",  # G: none, concat, concat_embedding, embedding; D: none, projection, classifier
        "optimizer": "adam",
        "learning_rate": 2e-4,
        "beta1": 0.5,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "weight_decay": 0.0,  # of adamw and lion
        "clip_norm": 0.0,  # a longer gradient is shortened to this; 0: never
        "spectral_norm": False,  # divide each kernel by its largest singular value
        "penalty_interval": 1,  # the player's penalties at every k-th turn, so many times as heavy
        **fields,
    }


def scheduled() -> dict:
    """The schedules of one player's numbers; an empty string keeps the number constant."""
    return dict.fromkeys(("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm"), "")


def get_config() -> ConfigDict:
    """A DCGAN on the bundled digits."""
    return ConfigDict(
        {
            "seed": 0,
            "steps": 2000,  # turns of the game
            "batch_size": 64,  # over all devices
            "data": {
                "name": "digits",  # ours, or any TFDS dataset with images
                "dir": "",  # where TFDS keeps prepared data; empty: TFDS_DATA_DIR, or TFDS's own default
                "split": "train",
                "image_size": (32, 32),  # (height, width); (): as the dataset has them
                "channels": 0,  # 1 grey, 3 color, 0: as the dataset has them
                "crop": "center",  # to the shape of image_size before resizing; "none": stretch
                "skip_broken": False,  # of a folder of images: leave out files that cannot be read, rather than stop
                "on_device": "auto",  # all examples on the device: auto, always, never
            },
            "latent": {
                "size": 100,
                "prior": "normal",  # normal(mean, sd, bound), uniform(low, high)
                "share": False,  # both players see the same latents within a turn, which then costs one pass of G less
            },
            "output_activation": "tanh",  # G's activation, and so the range of images: tanh, sigmoid, linear
            "loss": "non_saturating",
            "penalties": dict.fromkeys(PENALTIES, 0.0),  # their weights, r1 |grad D|^2 for one; 0: none
            "gradient_estimator": "exact",  # of r1 and r2: exact, finite_difference(sigma, every)
            "weight_clip": 0.0,  # D's parameters are kept within plus and minus this; 0: left free
            "top_k": 1.0,  # G learns from the share of its images that D finds most real
            "augment": {
                "policy": "none",  # of what D sees, real and fake alike: none, diff_augment, ada, apa
                "p": 0.0,  # its probability; of an adaptive one, the first
                "target": 0.0,  # adaptive: p holds the mean sign of D's logits on real images here; 0: p is as above
                "ada_images": 500_000.0,  # adaptive: the images in which p can go from 0 to 1
            },
            "discriminator_steps": 1,  # updates of D in a turn, each on a batch of its own
            "generator_steps": 1,  # updates of G in a turn
            "compute_dtype": "float32",  # of the players' layers: float32, bfloat16; all that is kept is float32
            # Parts in which an update takes its batch, to need less memory; "auto": as few as fit the device.
            "microbatches": FieldReference(1, field_type=object),  # an int field could not be set to a string
            # Of dcgan: maps at full size, halvings of the image (0: down to about 4 pixels), initial weights.
            "generator": player(width=64, depth=0, batch_norm=True, kernel_init="normal(0.02)"),
            "discriminator": player(width=64, depth=0, batch_norm=True, kernel_init="normal(0.02)"),
            "ema_halflife": 10_000.0,  # images; samples come from the averaged generator; 0: the last one
            "schedules": {  # of the numbers above, by images seen: "linear(5e-5, 1e6)", "cosine(5e-5, 1e6)", ...
                "generator": scheduled(),
                "discriminator": scheduled(),
                "ema_halflife": "rampup(0.05)",
                "penalties": dict.fromkeys(PENALTIES, ""),
                "weight_clip": "",
                "top_k": "",
                "augment": {"p": "", "target": "", "ada_images": ""},
            },
            "parallel": "jit",  # how a turn is spread over devices: jit, pmap
            # Each device keeps its part of the optimizers' moments and of the averaged generator, not all of them: less
            # memory, the same numbers. With jit only.
            "shard_state": False,
            "log_every": 50,  # steps
            "sample_every": 500,  # steps; 0: never
            "checkpoint_every": 500,  # steps; 0: only at the end
            "evaluate_every": 0,  # steps; 0: never
            "evaluation": {
                "split": "test",  # what samples are compared with
                "reference_samples": 0,  # how many of its images; 0: all
                "num_samples": 10_000,
                "standing_batches": 0,  # of samples, whose statistics the averaged G normalizes by; 0: those averaged
                "extractor": "auto",  # classifier (auto, where there are labels), inception, pixels
                # frechet (with the sliced Wasserstein of points, it decides which checkpoint is the best), kernel,
                # intra_class (of a conditional game), prdc (precision, recall, density, coverage),
                # inception_score, mode_coverage (modes, reverse_kl), memorization.
                "metrics": ("frechet", "kernel", "prdc", "inception_score", "mode_coverage", "memorization"),
            },
        }
    )
