"""Does the transport term of adversarial flow models make G an optimal transport? Mixtures in one and two dimensions.

python -m experiments.studies.transport_plans
python -m experiments.studies.transport_plans --distributions line4 --rows none all --steps=2000 --picture=plans.png

Every row is configs/afm.py with some of its parts. All seeds of a row are trained at once, as in toy_losses. G is then
applied to the same latents for every seed, and compared with the exact optimal transport between these latents and its
own points (in one dimension by sorting, in two by linear assignment):

- cost: mean |G(z) - z|^2;
- cost / optimal: 1 for an optimal transport; what is above 1 is detour;
- seeds apart: mean |G_a(z) - G_b(z)|^2 over pairs of seeds; 0 where all seeds learn the same map;
- W1: the (sliced) Wasserstein-1 distance to held-out points, with the modes of high quality: whether G learns the data.
"""

import itertools
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict
from scipy.optimize import linear_sum_assignment

from configs import afm
from experiments import cli
from experiments.results.page import spread
from experiments.studies import toy_losses
from gan import state
from gan.build import make_game, make_schedules
from gan.config.overrides import override
from gan.data import toys
from gan.metrics.modes import mode_coverage
from gan.metrics.wasserstein import sliced_wasserstein, wasserstein

SAMPLES = 1000
"""Latents and points of each seed that are compared; linear assignment takes a second for so many."""

PLAIN = ("penalties.centering=0", "penalties.transport=0", "schedules.penalties.transport=", "normalize_gradient=False")
NO_TRANSPORT = ("penalties.transport=0", "schedules.penalties.transport=")
ROWS = {
    "none": PLAIN,
    "centering, normalized": NO_TRANSPORT,
    "0.005": ("penalties.transport=0.005", "schedules.penalties.transport="),
    "0.05": ("penalties.transport=0.05", "schedules.penalties.transport="),
    "0.2": ("schedules.penalties.transport=",),
    "all": (),
    "0.05 without normalization": (
        "penalties.transport=0.05", "schedules.penalties.transport=", "normalize_gradient=False",
    ),
}  # fmt: skip
"""The parts of a row, as changes of configs/afm.py; a number is a constant weight of the transport term."""

OPTIMAL = "optimal transport to true points"
"""The first row of each distribution, which is computed."""

LINE = np.array([-1.5, -0.5, 0.5, 1.5])
LINE_STD = 0.05
"""line4: the mixture of the authors' notebook (adversarial_flow_models.ipynb, commit 519601d), equal shares."""


def main() -> None:
    """Trains every row, prints the table, and draws the plans of the first seed."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--distributions", nargs="+", default=["line4", "ring8"], choices=["line4", *toys.MIXTURES])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--steps", type=int, default=afm.get_config().steps)
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE of the config, for all rows")
    parser.add_argument("--picture", default="", help="a PNG file for the plans of seed 0; empty: none")
    arguments = parser.parse_args()
    plans, seeds = {}, jnp.arange(arguments.seeds, dtype=jnp.uint32)
    for distribution, row in itertools.product(arguments.distributions, arguments.rows):
        config = configured(distribution, row, arguments.steps, arguments.override)
        start = time.perf_counter()
        latents, points = train(config, *examples(distribution, "train"), seeds)
        if (distribution, OPTIMAL) not in plans:
            true = optimal_plan(latents, true_points(distribution, "train"))
            plans[distribution, OPTIMAL] = latents, true, metrics(latents, true[None], distribution)
        measured = metrics(latents, points, distribution)
        seconds = round(time.perf_counter() - start, 1)
        print(json.dumps({"distribution": distribution, "row": row, "seconds": seconds, **measured}), flush=True)
        plans[distribution, row] = latents, points[0], measured
    print(table(plans))
    if arguments.picture:
        draw(plans, Path(arguments.picture))


def configured(distribution: str, row: str, steps: int, overrides: list[str]) -> ConfigDict:
    """configs/afm.py with the parts of a row, for so many steps."""
    config = afm.get_config("grid25" if distribution == "grid25" else "ring8")
    afm.toy.set_steps(config, steps)
    override(config, [*ROWS[row], *overrides])
    return config


def examples(distribution: str, split: str) -> tuple[Array, Array]:
    """The points of a split [N, 1, 1, D], with their modes [N]."""
    if distribution != "line4":
        images, labels = toys.load(distribution, split).arrays()
        return jnp.asarray(images), jnp.asarray(labels)
    rng = np.random.default_rng(toys.SPLITS.index(split))
    labels = rng.permutation(np.repeat(np.arange(len(LINE), dtype=np.int32), toys.POINTS // len(LINE)))
    points = LINE[labels] + LINE_STD * rng.standard_normal(len(labels))
    return jnp.asarray(points, jnp.float32).reshape(-1, 1, 1, 1), jnp.asarray(labels)


def train(config: ConfigDict, images: Array, labels: Array, seeds: Array) -> tuple[np.ndarray, np.ndarray]:
    """Trains a config with each seed: latents [SAMPLES, D], and the points [S, SAMPLES, D] of each seed's EMA."""
    game = make_game(config, image_shape=images.shape[1:])
    latents = game.latents(state.example_keys(jax.random.key(0), jnp.arange(SAMPLES)))

    def one(images: Array, labels: Array, seed: Array) -> Array:
        schedule = make_schedules(config)
        trained = toy_losses.last_state(game, schedule, config.batch_size, config.steps, images, labels, seed)
        return game.generate(trained.ema.variables, latents, jnp.zeros(SAMPLES, jnp.int32), train=False)[0]

    points = jax.jit(jax.vmap(one, in_axes=(None, None, 0)))(images, labels, seeds)
    return np.asarray(latents), np.asarray(points).reshape(len(seeds), SAMPLES, -1)


def true_points(distribution: str, split: str) -> np.ndarray:
    """The first points of a split, [SAMPLES, D]."""
    return np.asarray(examples(distribution, split)[0])[:SAMPLES].reshape(SAMPLES, -1)


def optimal_plan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The points b [N, D] in the order with the least mean |a_i - b_i|^2, exactly.

    In one dimension it is the order that sorts them as a is sorted.
    """
    if a.shape[1] == 1:
        return np.sort(b, axis=0)[np.argsort(np.argsort(a[:, 0]))]
    squares = np.sum(np.square(np.asarray(a, np.float64)[:, None] - b[None]), axis=-1)
    return b[linear_sum_assignment(squares)[1]]


def cost(a: np.ndarray, b: np.ndarray) -> float:
    """The mean |a_i - b_i|^2 of [N, D] and [N, D]."""
    return float(np.mean(np.sum(np.square(np.asarray(a, np.float64) - b), axis=1)))


def metrics(latents: np.ndarray, points: np.ndarray, distribution: str) -> dict[str, list[float]]:
    """The metrics of the docstring for latents [N, D] and points [S, N, D], a list over seeds or pairs of seeds."""
    real = true_points(distribution, "test")
    mixture = toys.MIXTURES.get(distribution, toys.Mixture(LINE[:, None], LINE_STD, np.full(len(LINE), 0.25)))
    costs = [cost(latents, sample) for sample in points]
    optima = [cost(latents, optimal_plan(latents, sample)) for sample in points]
    covered = [mode_coverage(sample, mixture.centers, mixture.std, mixture.shares) for sample in points]
    return {
        "cost": costs,
        "cost / optimal": [found / optimum for found, optimum in zip(costs, optima, strict=True)],
        "seeds apart": [cost(a, b) for a, b in itertools.combinations(points, 2)],
        "modes": [float(entry["modes"]) for entry in covered],
        "high quality": [entry["high_quality"] for entry in covered],
        "W1": [_distance(sample, real) for sample in points],
    }


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(wasserstein(a[:, 0], b[:, 0])) if a.shape[1] == 1 else sliced_wasserstein(a, b)


def table(plans: dict) -> str:
    """The rows as Markdown: means and sample standard deviations over seeds."""
    names = list(next(iter(plans.values()))[2])
    lines = [f"| | parts | {' | '.join(names)} |", "|" + "---|" * (len(names) + 2)]
    for (distribution, row), (_, _, measured) in plans.items():
        cells = [spread(measured[name], ".1f" if name == "modes" else ".3f") for name in names]
        lines.append(f"| {distribution} | {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(plans: dict, path: Path, lines: int = 100) -> None:
    """Draws a plan for each row: latents to points, in one dimension from left to right, in two in the plane."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late: it takes half a second to load
    from matplotlib.figure import Figure

    distributions, rows = (list(dict.fromkeys(keys)) for keys in zip(*plans, strict=True))
    figure = Figure(figsize=(2.6 * len(rows), 2.8 * len(distributions)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(distributions), len(rows), squeeze=False)
    for (distribution, row), (latents, points, measured) in plans.items():
        axis = axes[distributions.index(distribution), rows.index(row)]
        axis.set_title(f"{row}\ncost / optimal {measured['cost / optimal'][0]:.2f}", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
        starts, ends = latents[:lines], points[:lines]
        if latents.shape[1] == 1:
            axis.plot([0, 1], np.stack([starts[:, 0], ends[:, 0]]), color="C0", linewidth=0.6)
            continue
        axis.plot(*np.stack([starts, ends], axis=1).transpose(2, 1, 0), color="C0", linewidth=0.6)
        axis.scatter(*points.T, s=1, color="C1", zorder=3)
        axis.set_aspect("equal")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    cli.run(main)
