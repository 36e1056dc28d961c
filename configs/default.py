"""Every field that a run has, with its meaning. The other configs start from here and change what they must.

Not a run by itself: see configs/dcgan.py.
"""

from ml_collections import ConfigDict


def player(**fields) -> dict:
    """One player: its network's name and its optimiser, changed or extended by `fields`, such as the network's own."""
    return {
        "network": "dcgan",
        "optimizer": "adam",
        "learning_rate": 2e-4,
        "beta1": 0.5,
        "beta2": 0.999,
        "epsilon": 1e-8,
        **fields,
    }


def scheduled() -> dict:
    """The schedules of one player's numbers; an empty string keeps the number constant."""
    return {"learning_rate": "", "beta1": "", "beta2": "", "epsilon": ""}


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
                "channels": 0,  # 1 grey, 3 colour, 0: as the dataset has them
                "crop": "center",  # to the shape of image_size before resizing; "none": stretch
                "skip_broken": False,  # of a folder of images: leave out files that cannot be read, rather than stop
                "resident": "auto",  # all examples on the device: auto, always, never
            },
            "latent": {
                "size": 100,
                "prior": "normal",  # normal(mean, sd), uniform(low, high)
                "shared": False,  # both players see the same latents within a turn
            },
            "output": "tanh",  # G's activation, and so the range of images: tanh, sigmoid, linear
            "loss": "non_saturating",
            "penalties": {"r1": 0.0, "r2": 0.0},  # weights of |grad D|^2, at real and at fake images; 0: none
            "discriminator_steps": 1,  # updates of D in a turn, each on a batch of its own
            "generator_steps": 1,  # updates of G in a turn
            # Of dcgan: maps at full size, halvings of the image (0: down to about 4 pixels), initial weights.
            "generator": player(width=64, depth=0, kernel_init="normal(0.02)"),
            "discriminator": player(width=64, depth=0, kernel_init="normal(0.02)"),
            "average_halflife": 10_000.0,  # images; samples come from the averaged generator; 0: the last one
            "schedules": {  # of the numbers above, by images seen: "linear(5e-5, 1e6)", "cosine(5e-5, 1e6)", ...
                "generator": scheduled(),
                "discriminator": scheduled(),
                "average_halflife": "rampup(0.05)",
                "penalties": {"r1": "", "r2": ""},
            },
            "parallel": "jit",  # how a turn is spread over devices: jit, pmap
            "log_every": 50,  # steps
            "sample_every": 500,  # steps; 0: never
            "checkpoint_every": 500,  # steps; 0: only at the end
            "evaluate_every": 0,  # steps; 0: never
        }
    )
