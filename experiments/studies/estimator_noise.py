"""How far is R1 by finite differences from exact R1 and its gradient, for a trained discriminator?

python -m experiments.studies.estimator_noise --workdir=runs/dcgan
python -m experiments.studies.estimator_noise --workdir=runs/dcgan --compute_dtype=bfloat16 --sigmas 0.01 0.1

Prints a row for each sigma, for the training images of the run. The penalty is the mean over the examples; the row has
its mean and standard deviation over draws of the noise, relative to the exact penalty. For its gradient with respect to
D's parameters, the row has the standard deviation over draws (the root of the sum of variances) and the distance of the
mean from the exact gradient, both relative to the norm of the exact gradient.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments import cli
from experiments.benchmarks import timing
from gan import build, data
from gan.build import COMPUTE_DTYPES
from gan.errors import UserError
from gan.estimators import Exact, finite_difference
from gan.inference.model import recorded
from gan.io import checkpoint
from gan.parallel import sharding


def main() -> None:
    """Measures the noise and prints a table."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="a run with a checkpoint")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.001, 0.01, 0.1, 0.5])
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--compute_dtype", default="float32", choices=list(COMPUTE_DTYPES))
    arguments = parser.parse_args()
    penalty, params, images = load_penalty(arguments.workdir, arguments.examples, arguments.compute_dtype)
    rows = []
    for sigma in arguments.sigmas:
        row = measure(penalty, params, images, sigma, arguments.draws)
        rows.append((f"{sigma:g}", *(f"{value:.3g}" for value in row.values())))
    print(timing.table(("sigma", "estimate / exact", "std", "gradient: std", "bias"), rows))


def load_penalty(folder: Path, examples: int, dtype: str) -> tuple[Callable, dict, Array]:
    """Loads a run's newest D. Returns its mean penalty `(params, estimator, images, key)`, parameters and images."""
    config, _ = recorded(folder)
    dataset = data.open_dataset(config.data)
    setup = build.setup(config, image_shape=dataset.image_shape, num_classes=len(dataset.class_names))
    game = dataclasses.replace(setup.game, compute_dtype=dtype)
    target = sharding.abstract(setup.shapes, sharding.replicated(sharding.device_mesh()))
    with checkpoint.open_manager(folder / "checkpoints", read_only=True) as manager:
        found = checkpoint.restore(manager, target)
    if found is None:
        raise UserError(f"--workdir={folder} holds no checkpoint; train the run first")
    images, labels = (jnp.asarray(array[:examples]) for array in dataset.arrays())
    low, high = game.output.image_range
    if images.dtype == jnp.uint8:
        images = low + images.astype(jnp.float32) * ((high - low) / 255)
    batch_stats = found.discriminator.batch_stats

    def penalty(params: dict, estimator: Callable, images: Array, key: Array) -> Array:
        def critic(images: Array) -> Array:
            variables = {"params": params, "batch_stats": batch_stats}
            return game.discriminate(variables, images, labels, train=True, key=jax.random.key(0)).logits

        return jnp.mean(estimator(critic, images, critic(images), jax.random.split(key, len(images)), "r1"))

    return penalty, found.discriminator.params, images


def measure(penalty: Callable, params: dict, images: Array, sigma: float, draws: int) -> dict[str, float]:
    """The row of one sigma."""

    def value_and_gradient(estimator: Callable, key: int) -> tuple[float, np.ndarray]:
        value, tree = penalty_and_gradients(params, estimator, images, jax.random.key(key))
        return float(value), np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    penalty_and_gradients = jax.jit(jax.value_and_grad(penalty), static_argnums=1)
    value, gradient = value_and_gradient(Exact(), 0)
    drawn = [value_and_gradient(finite_difference(sigma), key) for key in range(draws)]
    values, gradients = map(np.stack, zip(*drawn, strict=True))
    norm = np.linalg.norm(gradient)
    return {
        "ratio": values.mean() / value,
        "ratio_std": values.std(ddof=1) / value,
        "gradient_std": np.sqrt(np.sum(gradients.var(axis=0, ddof=1))) / norm,
        "gradient_bias": np.linalg.norm(gradients.mean(axis=0) - gradient) / norm,
    }


if __name__ == "__main__":
    cli.run(main)
