"""Which losses keep all modes, and at what shares? Every loss with every penalty, on points in the plane.

python -m experiments.toy_losses --distribution=grid25
python -m experiments.toy_losses --distribution=ring8 --losses hinge "f_gan('kl')" --penalties none r1+r2 --out=
python -m experiments.toy_losses --losses hinge --penalties r1 --estimators exact "finite_difference(0.01)" --out=

The seeds of a row are played at once (`vmap` over the state), all turns in one program (`scan`). Losses and penalties
are read from their tables, so a new row there is a new row here. The table is written into `--out` between the marks
of the distribution, or printed only where `--out` is empty.
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
from experiments.overrides import override
from gan import data, state, steps
from gan.build import make_game, make_schedules
from gan.data import toys
from gan.errors import UserError, lookup
from gan.game import Game
from gan.losses import LOSSES
from gan.metrics.modes import mode_coverage
from gan.metrics.wasserstein import sliced_wasserstein
from gan.penalties import PENALTIES

SAMPLES = 2500
"""Samples that a seed is judged by, as in Srivastava et al. 2017."""

WEIGHTS = {
    "wgan_gp": 10.0, "wgan_lp": 10.0, "dragan": 10.0, "lecam": 0.3, "zcr_d": 5.0, "path_length": 2.0,
    "zcr_g": 0.5, "orthogonal": 1e-4,
}  # fmt: skip
"""The authors' weights. R1 and R2 have that of configs/toy.py, and a penalty that is not here has 1."""

CLIP = 0.01
"""The bound of `clip`: Arjovsky et al. 2017, arXiv:1701.07875."""

IDLE = ("bcr",)
"""Penalties that a point does not feel: it has no mirror image, and nowhere to be moved to."""


def main() -> None:
    """Plays every row of the table and writes it."""
    arguments = parse()
    images, labels = map(jnp.asarray, toys.load(arguments.distribution).arrays())
    seeds = arguments.first_seed + jnp.arange(arguments.seeds, dtype=jnp.uint32)
    rows = [{"loss": "true points", "penalties": "", "seeds": [truth(arguments.distribution)]}]
    for loss, penalties, estimator in itertools.product(arguments.losses, arguments.penalties, arguments.estimators):
        overrides = [f"gradient_estimator={estimator}", *arguments.override]
        config = configured(arguments.distribution, loss, penalties, arguments.turns, overrides)
        begun = time.perf_counter()
        points = np.asarray(play(config, images, labels, seeds))
        row = {
            "loss": loss,
            "penalties": penalties if estimator == "exact" else f"{penalties} by {estimator}",
            "seconds": round(time.perf_counter() - begun, 1),
            "seeds": [figures(sample, arguments.distribution) for sample in points],
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    text = f"{heading(arguments, len(rows) - 1)}\n\n{table(rows)}"
    print(text)
    if arguments.out:
        insert(Path(arguments.out), arguments.distribution, text)


def parse() -> argparse.Namespace:
    """The flags; the tables' names are read when they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name, row in PENALTIES.items() if not row.needs_class_logits and name not in IDLE]
    parser.add_argument("--distribution", default="ring8", choices=list(toys.MIXTURES))
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), help="as config.loss has them")
    parser.add_argument(
        "--penalties", nargs="+", default=["none", "clip", *names, "r1+r2"], help="none, clip, NAME, NAME+NAME"
    )
    parser.add_argument("--estimators", nargs="+", default=["exact"], help="as config.gradient_estimator has them")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first_seed", type=int, default=100, help="the first; the recipe was chosen on 0 to 4")
    parser.add_argument("--turns", type=int, default=toy.get_config().steps)
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE of the config, for all rows")
    parser.add_argument("--out", default="docs/toys.md", help="a file with marks; empty: print only")
    return parser.parse_args()


def configured(distribution: str, loss: str, penalties: str, turns: int, overrides: Sequence[str] = ()) -> ConfigDict:
    """configs/toy.py with this loss and these penalties, `none` or names with a plus between them."""
    config = toy.get_config(distribution)
    toy.set_steps(config, turns)
    config.loss = loss
    usual = {name: weight for name, weight in config.penalties.items() if weight}
    config.penalties.update(dict.fromkeys(config.penalties, 0.0))
    for name in penalties.split("+"):
        if name == "clip":
            config.weight_clip = CLIP
        elif name != "none":
            lookup(PENALTIES, name, "--penalties")
            config.penalties[name] = usual.get(name, WEIGHTS.get(name, 1.0))
    override(config, overrides)
    return config


def play(config: ConfigDict, images: Array, labels: Array, seeds: Array) -> Array:
    """Samples [len(seeds), SAMPLES, 2] from the averaged generators at the end of the config's game."""
    modes = len(toys.MIXTURES[config.data.name].shares)
    game = make_game(config, image_shape=toys.IMAGE_SHAPE, num_classes=modes)
    one = functools.partial(_play, game, make_schedules(config), config.batch_size, config.steps)
    return jax.jit(jax.vmap(one, in_axes=(None, None, 0)))(images, labels, seeds)


def _play(game: Game, schedule, batch_size: int, turns: int, images: Array, labels: Array, seed: Array) -> Array:
    shape = {"batches": game.discriminator.steps, "batch_size": batch_size}
    rows = jnp.broadcast_to(jnp.arange(batch_size, dtype=jnp.int32), tuple(shape.values()))

    def turn(position: state.TrainState, _: None) -> tuple[state.TrainState, None]:
        batches = data.gather(images, labels, seed=seed, step=position.step, **shape) | {"row": rows}
        return steps.train_step(position, batches, schedule(position.images), game=game)[0], None

    position, _ = jax.lax.scan(turn, state.create(game, schedule(0), seed), length=turns)
    keys = state.example_keys(state.named_key(jax.random.key(seed), "sample"), jnp.arange(SAMPLES))
    label = jnp.zeros(SAMPLES, jnp.int32)
    points, _ = game.generate(position.ema.variables, game.latents(keys), label, train=False)
    return points.reshape(SAMPLES, 2)


def figures(points: np.ndarray, distribution: str) -> dict[str, float] | None:
    """The figures of a sample [SAMPLES, 2] against the mixture and its held-out points; None where it diverged."""
    if not np.isfinite(points).all():
        return None
    mixture = toys.MIXTURES[distribution]
    real = toys.load(distribution, "test").arrays()[0][:SAMPLES].reshape(-1, 2)
    return mode_coverage(points, mixture.centers, mixture.sd, mixture.shares) | {
        "sliced_wasserstein": sliced_wasserstein(points, real)
    }


def truth(distribution: str) -> dict[str, float]:
    """The figures of points of the distribution itself: what no generator can be better than, but by chance."""
    return figures(toys.load(distribution).arrays()[0][:SAMPLES].reshape(-1, 2), distribution)


COLUMNS = {"modes": ".1f", "high_quality": ".2f", "reverse_kl": ".3f", "sliced_wasserstein": ".3f"}


def table(rows: list[dict]) -> str:
    """Rows as Markdown: means and sample standard deviations over the seeds that did not diverge."""
    lines = [
        "| loss | penalties | modes | high quality | reverse KL | sliced W1 |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        sound = [seed for seed in row["seeds"] if seed is not None]
        cells = []
        for name, form in COLUMNS.items():
            values = [seed[name] for seed in sound]
            spread = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):{form}}{spread}" if values else "diverged")
        lost = len(row["seeds"]) - len(sound)
        name = f"{row['penalties']} ({lost} of {len(row['seeds'])} seeds diverged)" if lost else row["penalties"]
        lines.append(f"| {row['loss']} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def heading(arguments: argparse.Namespace, rows: int) -> str:
    """What was run, in words that repeat it."""
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
    config = toy.get_config(arguments.distribution)
    command = "python -m experiments.toy_losses " + " ".join(map(shlex.quote, sys.argv[1:]))
    games = f"{rows} game{'s' * (rows != 1)} of {arguments.turns:,} turns of {config.batch_size} points"
    return (
        f"`{command.strip()}` at commit {commit or 'unknown'}, jax {jax.__version__}, {jax.devices()[0].device_kind}: "
        f"{games}, seeds {arguments.first_seed} to {arguments.first_seed + arguments.seeds - 1}, "
        f"the players and rates of configs/toy.py. "
        f"Mean ± standard deviation over seeds, {SAMPLES:,} samples each."
    )


def insert(path: Path, distribution: str, text: str) -> None:
    """Puts `text` between the marks `<!-- DISTRIBUTION -->` and `<!-- /DISTRIBUTION -->` of a file."""
    begin, end = f"<!-- {distribution} -->", f"<!-- /{distribution} -->"
    before, first, rest = path.read_text().partition(begin)
    _, second, after = rest.partition(end)
    if not (first and second):
        raise UserError(f"--out={path} has no marks {begin} and {end}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


if __name__ == "__main__":
    cli.run(main)
