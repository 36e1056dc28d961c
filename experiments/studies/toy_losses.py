"""Which losses cover all modes, and in which proportions? Every loss with every penalty, on 2-D points.

python -m experiments.studies.toy_losses --distribution=grid25
python -m experiments.studies.toy_losses --distribution=ring8 --losses hinge "f_gan('kl')" --penalties none r1+r2 --out=
python -m experiments.studies.toy_losses --losses hinge --estimators exact "finite_difference(0.01)" --out=

All seeds of a row are trained at once (`vmap` over the state), with all steps in one compiled function (`scan`). Losses
and penalties are read from their tables in gan, so a new one is a new row here. The table is written into the file
`--out` between the markers of the distribution, or only printed if `--out` is empty.
"""

import argparse
import functools
import itertools
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from configs import toy
from experiments import cli
from gan import data, state, steps
from gan.build import make_game, make_schedules
from gan.config.overrides import override
from gan.data import toys
from gan.errors import UserError, lookup
from gan.game import Game
from gan.losses import LOSSES
from gan.metrics.modes import mode_coverage
from gan.metrics.wasserstein import sliced_wasserstein
from gan.penalties import PENALTIES

SAMPLES = 2500
"""The number of evaluated samples of each seed, as in Srivastava et al. 2017."""

WEIGHTS = {
    "wgan_gp": 10.0, "wgan_lp": 10.0, "dragan": 10.0, "lecam": 0.3, "zcr_d": 5.0, "path_length": 2.0,
    "zcr_g": 0.5, "ortho": 1e-4, "centering": 0.01, "transport": 0.05,
}  # fmt: skip
"""The authors' weights. R1 and R2 have the weight of configs/toy.py, and all other penalties 1."""

CLIP = 0.01
"""The weight clipping of `clip`: Arjovsky et al. 2017, arXiv:1701.07875."""

WITHOUT_EFFECT = ("bcr",)
"""Penalties without effect on points, which can be neither mirrored nor shifted like images."""


def main() -> None:
    """Trains every row of the table and writes it."""
    arguments = parse()
    images, labels = map(jnp.asarray, toys.load(arguments.distribution).arrays())
    seeds = arguments.first_seed + jnp.arange(arguments.seeds, dtype=jnp.uint32)
    rows = [{"loss": "true points", "penalties": "", "seeds": [real_metrics(arguments.distribution)]}]
    for loss, penalties, estimator in itertools.product(arguments.losses, arguments.penalties, arguments.estimators):
        overrides = [f"gradient_estimator={estimator}", *arguments.override]
        config = configured(arguments.distribution, loss, penalties, arguments.steps, overrides)
        start = time.perf_counter()
        points = np.asarray(train(config, images, labels, seeds))
        row = {
            "loss": loss,
            "penalties": penalties if estimator == "exact" else f"{penalties} by {estimator}",
            "seconds": round(time.perf_counter() - start, 1),
            "seeds": [sample_metrics(sample, arguments.distribution) for sample in points],
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    text = f"{heading(arguments, len(rows) - 1)}\n\n{table(rows)}"
    print(text)
    if arguments.out:
        insert(Path(arguments.out), arguments.distribution, text)


def parse() -> argparse.Namespace:
    """The flags. The names of losses and penalties are read when this is called."""
    parser = cli.Parser(description=__doc__)
    names = [name for name, row in PENALTIES.items() if not row.needs_class_logits and name not in WITHOUT_EFFECT]
    parser.add_argument("--distribution", default="ring8", choices=list(toys.MIXTURES))
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), help="values of config.loss")
    parser.add_argument(
        "--penalties", nargs="+", default=["none", "clip", *names, "r1+r2"], help="none, clip, NAME, NAME+NAME"
    )
    parser.add_argument("--estimators", nargs="+", default=["exact"], help="values of config.gradient_estimator")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument(
        "--first_seed", type=int, default=100, help="the first seed; the config was chosen on seeds 0 to 4"
    )
    parser.add_argument("--steps", type=int, default=toy.get_config().steps)
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE of the config, for all rows")
    parser.add_argument("--out", default="docs/toys.md", help="a file with markers; empty: print only")
    return parser.parse_args()


def configured(distribution: str, loss: str, penalties: str, steps: int, overrides: Sequence[str] = ()) -> ConfigDict:
    """configs/toy.py with a loss and with penalties: `none`, or names joined by a plus."""
    config = toy.get_config(distribution)
    toy.set_steps(config, steps)
    config.loss = loss
    defaults = {name: weight for name, weight in config.penalties.items() if weight}
    config.penalties.update(dict.fromkeys(config.penalties, 0.0))
    for name in penalties.split("+"):
        if name == "clip":
            config.weight_clip = CLIP
        elif name != "none":
            lookup(PENALTIES, name, "--penalties")
            config.penalties[name] = defaults.get(name, WEIGHTS.get(name, 1.0))
    override(config, overrides)
    return config


def train(config: ConfigDict, images: Array, labels: Array, seeds: Array) -> Array:
    """Trains a config with each seed. Returns samples [len(seeds), SAMPLES, 2] of the EMA generators."""
    modes = len(toys.MIXTURES[config.data.name].shares)
    game = make_game(config, image_shape=toys.IMAGE_SHAPE, num_classes=modes)
    one = functools.partial(_train_one, game, make_schedules(config), config.batch_size, config.steps)
    return jax.jit(jax.vmap(one, in_axes=(None, None, 0)))(images, labels, seeds)


def _train_one(
    game: Game, schedule, batch_size: int, num_steps: int, images: Array, labels: Array, seed: Array
) -> Array:
    trained = last_state(game, schedule, batch_size, num_steps, images, labels, seed)
    keys = state.example_keys(state.named_key(jax.random.key(seed), "sample"), jnp.arange(SAMPLES))
    label = jnp.zeros(SAMPLES, jnp.int32)
    points, _ = game.generate(trained.ema.variables, game.latents(keys), label, train=False)
    return points.reshape(SAMPLES, 2)


def last_state(
    game: Game, schedule, batch_size: int, num_steps: int, images: Array, labels: Array, seed: Array
) -> state.TrainState:
    """The state after all steps of a run, which can be compiled as a whole."""
    shape = {"batches": game.discriminator.steps, "batch_size": batch_size}
    rows = jnp.broadcast_to(jnp.arange(batch_size, dtype=jnp.int32), tuple(shape.values()))

    def step(current: state.TrainState, _: None) -> tuple[state.TrainState, None]:
        batches = data.gather(images, labels, seed=seed, step=current.step, **shape) | {"row": rows}
        return steps.train_step(current, batches, schedule(current.images), game=game)[0], None

    return jax.lax.scan(step, state.create(game, schedule(0), seed), length=num_steps)[0]


def sample_metrics(points: np.ndarray, distribution: str) -> dict[str, float] | None:
    """The metrics of a sample [SAMPLES, 2] against the mixture and its held-out points; None if it diverged."""
    if not np.isfinite(points).all():
        return None
    mixture = toys.MIXTURES[distribution]
    real = toys.load(distribution, "test").arrays()[0][:SAMPLES].reshape(-1, 2)
    return mode_coverage(points, mixture.centers, mixture.std, mixture.shares) | {
        "sliced_wasserstein": sliced_wasserstein(points, real)
    }


def real_metrics(distribution: str) -> dict[str, float]:
    """The metrics of points of the distribution itself, a baseline that no generator beats except by chance."""
    return sample_metrics(toys.load(distribution).arrays()[0][:SAMPLES].reshape(-1, 2), distribution)


COLUMNS = {"modes": ".1f", "high_quality": ".2f", "reverse_kl": ".3f", "sliced_wasserstein": ".3f"}


def table(rows: list[dict]) -> str:
    """Rows as Markdown: means and sample standard deviations over the seeds that did not diverge."""
    lines = [
        "| loss | penalties | modes | high quality | reverse KL | sliced W1 |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        converged = [seed for seed in row["seeds"] if seed is not None]
        cells = []
        for name, form in COLUMNS.items():
            values = [seed[name] for seed in converged]
            spread = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):{form}}{spread}" if values else "diverged")
        diverged = len(row["seeds"]) - len(converged)
        name = (
            f"{row['penalties']} ({diverged} of {len(row['seeds'])} seeds diverged)" if diverged else row["penalties"]
        )
        lines.append(f"| {row['loss']} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def heading(arguments: argparse.Namespace, rows: int) -> str:
    """The command and the conditions of the table."""
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
    config = toy.get_config(arguments.distribution)
    command = "python -m experiments.studies.toy_losses " + " ".join(map(shlex.quote, sys.argv[1:]))
    runs = f"{rows} run{'s' * (rows != 1)} of {arguments.steps:,} steps of {config.batch_size} points"
    return (
        f"`{command.strip()}` at commit {commit or 'unknown'}, jax {jax.__version__}, {jax.devices()[0].device_kind}: "
        f"{runs}, seeds {arguments.first_seed} to {arguments.first_seed + arguments.seeds - 1}, "
        f"the networks and learning rates of configs/toy.py. "
        f"Mean ± standard deviation over seeds, {SAMPLES:,} samples each."
    )


def insert(path: Path, distribution: str, text: str) -> None:
    """Inserts `text` between the markers `<!-- DISTRIBUTION -->` and `<!-- /DISTRIBUTION -->` of a file."""
    begin, end = f"<!-- {distribution} -->", f"<!-- /{distribution} -->"
    before, first, rest = path.read_text().partition(begin)
    _, second, after = rest.partition(end)
    if not (first and second):
        raise UserError(f"--out={path} has no markers {begin} and {end}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


if __name__ == "__main__":
    cli.run(main)
