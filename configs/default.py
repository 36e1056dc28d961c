"""Every field of a run, with its meaning and default. The other configs start from here and change what differs.

Not a run by itself: see configs/dcgan.py. `python -m gan.main --help-config` prints these fields with the comments.

G is the generator and D the discriminator. A step consists of `discriminator_steps` updates of D, then
`generator_steps` updates of G.
"""

from ml_collections import ConfigDict, FieldReference


def penalties() -> dict:
    """The weight of each penalty of gan/penalties.py, which has its formula."""
    return {
        "r1": 0.0,  # of D: |grad D|^2 at real images; a paper's gamma is twice the weight
        "r2": 0.0,  # of D: |grad D|^2 at generated images; as above
        "wgan_gp": 0.0,  # of D: (|grad D| - 1)^2 between real and generated images; the authors' weight is 10
        "wgan_lp": 0.0,  # of D: as wgan_gp, for gradients longer than 1 alone
        "dragan": 0.0,  # of D: (|grad D| - 1)^2 around real images; the authors' weight is 10
        "lecam": 0.0,  # of D: its distance to the running means of its logits; the authors' weight is 0.1 to 0.5
        "centering": 0.0,  # of D: the square of D(x) + D(G(z)); the authors' weight is 0.01
        "bcr": 0.0,  # of D: its change when an image is flipped and shifted; the authors' weight is 10
        "zcr_d": 0.0,  # of D: its change when the latent of a generated image is; the authors' weight is 5
        "ac_real": 0.0,  # of D with a classifier: cross entropy of real images; the authors' weight is 1
        "ac_fake": 0.0,  # of D with a classifier: cross entropy of generated images; the authors' weight is 1
        "ac_gen": 0.0,  # of G, where D has a classifier: cross entropy of generated images
        "path_length": 0.0,  # of G: the deviation of the Jacobian's length from its mean; StyleGAN2's is 2
        "zcr_g": 0.0,  # of G: minus the change of an image when its latent is changed; the authors' weight is 0.5
        "transport": 0.0,  # of G: the mean of (G(z) - z)^2, with latent.size=0; the authors' weight is 0.2 to 0.005
        "ortho": 0.0,  # of G: the overlap of the columns of its kernels; the authors' weight is 1e-4
    }


def player(**fields) -> dict:
    """The fields of G or D: the name of its network, its optimizer, and `fields`, such as those of the network."""
    return {
        "network": "dcgan",  # a network of gan/networks, whose other fields are arguments of the network
        "conditioning": "none",  # G: none, concat, concat_embedding, embedding; D: none, projection, classifier
        "optimizer": "adam",  # adam, adamw, lion, ...: see gan/optimizers.py
        "learning_rate": 2e-4,
        "beta1": 0.5,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "weight_decay": 0.0,  # for adamw and lion
        "clip_norm": 0.0,  # the norm to which a larger gradient is scaled; 0: no clipping
        "spectral_norm": False,  # whether each kernel is divided by its largest singular value
        "penalty_interval": 1,  # lazy regularization: k applies the player's penalties every k steps, scaled by k
        **fields,
    }


def scheduled() -> dict:
    """The schedules of a player's hyperparameters. An empty string keeps the value constant."""
    return dict.fromkeys(("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm"), "")


def untyped(value) -> FieldReference:
    """A field whose overrides may have another type than its default."""
    return FieldReference(value, field_type=object)


def get_config() -> ConfigDict:
    """A DCGAN on the bundled digits."""
    return ConfigDict(
        {
            "seed": 0,  # of the initial parameters, the order of the examples and all random numbers
            "steps": 2000,  # length of the run
            "batch_size": 64,  # global: over all devices and processes
            "data": {
                "name": "digits",  # mnist5k, folder, npz, a set of points, one of TFDS ...: see docs/datasets.md
                "dir": "",  # folder, ZIP or NPZ file of images, or folder of prepared TFDS data; empty: TFDS_DATA_DIR
                "split": "train",  # split of the dataset, with TFDS's slices: train[:55000]
                "image_size": (32, 32),  # (height, width); (): as in the dataset
                "channels": 0,  # 1: gray, 3: color, 0: as in the dataset
                "crop": "center",  # before resizing. center: crops to the aspect ratio of image_size; none: stretches
                "mirror": False,  # whether half of the real images, others in each epoch, are flipped left to right
                "skip_broken": False,  # for a folder of images: whether unreadable files are skipped, or an error
                "white": 0.0,  # for a folder of images of more than 8 bits: the value that is white; 0: found from them
                "on_device": "auto",  # whether all examples are kept in device memory: auto, always, never
            },
            "latent": {
                "size": 100,  # number of dimensions; 0: as many as an image has numbers
                "prior": "normal",  # normal(mean, sd, bound), uniform(low, high)
                "share": False,  # whether the updates of G reuse the latents of D's, which saves a forward pass of G
            },
            "output_activation": "tanh",  # of G; sets the range of the images: tanh, sigmoid, linear
            "loss": "non_saturating",  # a loss of gan/losses.py, such as hinge, wasserstein or relativistic
            # The weight of each penalty of gan/penalties.py; 0: off. r1, for example, weighs the mean of |grad D|^2.
            "penalties": penalties(),
            "gradient_estimator": "exact",  # of |grad D|^2 in r1 and r2: exact, finite_difference(sigma, every)
            "normalize_gradient": False,  # whether D's gradient to G's images is divided by a running mean of its norm
            "weight_clip": 0.0,  # D's parameters are clipped to [-weight_clip, weight_clip]; 0: no clipping
            "top_k": 1.0,  # the fraction of G's images, those with the largest logits, from which G learns
            "augment": {
                "policy": "none",  # augmentation of all images that D sees: none, diff_augment, ada, apa
                "p": 0.0,  # its probability; with a target, the initial probability
                "target": 0.0,  # adaptive p: the mean sign of D's logits on real images to hold; 0: p is fixed
                "ada_images": 500_000.0,  # adaptive p: the number of real images in which p can change by 1
            },
            "discriminator_steps": 1,  # updates of D in a step, each with a batch of its own
            "generator_steps": 1,  # updates of G in a step
            "compute_dtype": "float32",  # of the layers: float32, bfloat16. Parameters and moments are always float32
            # Gradient accumulation: the number of parts into which the batch of an update is split, to use less
            # memory; auto: the fewest that fit the memory of the device.
            "microbatches": untyped(1),
            "generator": player(
                width=64,  # dcgan: channels at full resolution
                depth=0,  # dcgan: number of times the image is halved; 0: down to about 4 pixels
                batch_norm=True,  # dcgan: whether there is batch normalization
                kernel_init="normal(0.02)",  # dcgan: initializer of the kernels
            ),
            "discriminator": player(
                width=64,  # as in the generator
                depth=0,  # as in the generator
                batch_norm=True,  # as in the generator; False for penalties on the gradient of D
                kernel_init="normal(0.02)",  # as in the generator
            ),
            # Fine-tuning: the networks begin as those of another run or export, where names and shapes of parameters
            # are the same. RUN (its newest checkpoint), RUN@STEP, RUN@best, or an exported folder; empty: at random.
            "initialize_from": "",
            "initialize_parts": ("generator", "discriminator", "ema"),  # which of them are taken from there
            "freeze": "",  # discriminator:N keeps the first N layers of D, from the image on, as they are (FreezeD)
            "ema_halflife": 10_000.0,  # of the average of G (EMA) that samples come from, in images; 0: no average
            # Schedules of the fields above as functions of the number of images seen, such as "linear(5e-5, 1e6)" or
            # "cosine(5e-5, 1e6)": see gan/schedules.py. Empty: constant.
            "schedules": {
                "generator": scheduled(),
                "discriminator": scheduled(),
                "ema_halflife": "rampup(0.05)",
                "penalties": dict.fromkeys(penalties(), ""),
                "weight_clip": "",
                "top_k": "",
                "augment": {"p": "", "target": "", "ada_images": ""},
            },
            "parallel": "jit",  # how a step is distributed over the devices: jit, pmap
            # Whether each device stores only its part of the optimizer moments and of the EMA (ZeRO, stage 1), which
            # uses less memory. For jit only.
            "shard_state": False,
            "loggers": ("tensorboard",),  # besides metrics.jsonl: tensorboard, wandb; (): none
            "log_every": 50,  # steps between lines of metrics.jsonl
            "sample_every": 500,  # steps between sample images; 0: none
            "checkpoint_every": 500,  # steps between checkpoints; 0: only at the end
            "keep_every": 0,  # checkpoints of multiples of this step are kept for ever, beside the last three; 0: none
            "evaluate_every": 0,  # steps between evaluations; 0: none
            "evaluation": {
                "split": "test",  # split of the reference images
                "reference_samples": 0,  # number of reference images; 0: all
                "num_samples": 10_000,  # number of generated images
                "standing_batches": 0,  # batches of samples that set the EMA's batch statistics; 0: from training
                # Feature extractor: classifier (auto, where there are labels), inception, pixels, dinov2_vits14 (also
                # dinov2_vitb14, dinov2_vitl14).
                "extractor": "auto",
                # frechet (selects the best checkpoint, as the sliced Wasserstein distance does for points), kernel,
                # intra_class (for conditional games), prdc (precision, recall, density, coverage),
                # inception_score, mode_coverage (modes, reverse_kl), memorization; and by name alone:
                # frechet_infinity, mind, vendi, authenticity.
                "metrics": ("frechet", "kernel", "prdc", "inception_score", "mode_coverage", "memorization"),
                "error_bars": 0,  # random halves of the samples that error bars (*_sampling_std) come from; 0: none
            },
        }
    )


def check_variant(name: str, variant: str, valid) -> None:
    """Raises `ValueError` where NAME.py:VARIANT is none of the valid variants."""
    if variant not in valid:
        raise ValueError(f"{name}:{variant} is unknown; expected: {', '.join(valid)}")


def use_mnist(config: ConfigDict) -> None:
    """MNIST at its own size of 28x28 pixels, gray."""
    config.data.name = "mnist"
    config.data.image_size = (28, 28)
    config.data.channels = 1


def use_no_ema(config: ConfigDict) -> None:
    """Samples come from the current generator, not from an average of it."""
    config.ema_halflife = 0.0
    config.schedules.ema_halflife = ""


def decay_learning_rates(config: ConfigDict, kind: str = "linear", end: float = 0.0) -> None:
    """Both learning rates decrease to `end` at the end of the run, also where its length is overridden."""
    for schedule in (config.schedules.generator, config.schedules.discriminator):
        images = config.get_ref("steps") * config.get_ref("discriminator_steps") * config.get_ref("batch_size")
        schedule.learning_rate = f"{kind}({end}, " + images.to_str() + ")"
