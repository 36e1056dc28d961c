"""How long does a turn of the game take? Times whole turns of configs, in turn, and prints medians.

python -m experiments.benchmarks.turns
python -m experiments.benchmarks.turns --configs=configs/dcgan.py --override=generator.width=64 --json=turns.json

Every turn is timed to its end on the host; data are resident. Each round times all configs once, `--turns` turns
each, so that a drift of the machine's speed meets all of them alike.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from experiments.overrides import override
from gan import data, evaluation, game, loop, schedules, sharding, state, steps


def main() -> None:
    """Parses the flags, times, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["configs/dcgan.py"], help="config files, FILE or FILE:ARG")
    parser.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE, for all of them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    plays = {name: prepare(load(name, arguments.override)) for name in arguments.configs}
    milliseconds = {name: [] for name in plays}
    for _ in range(arguments.rounds):
        for name, (play, _) in plays.items():
            milliseconds[name].append(1000 * play(arguments.turns))

    device = jax.devices()[0].device_kind
    print(f"{device}, {jax.device_count()} device(s), jax {jax.__version__}, {platform.machine()}")
    print(f"{'config':32} {'ms per turn: median':>20} {'min':>8} {'max':>8} {'images/s':>10}")
    rows = []
    for name, values in milliseconds.items():
        images = plays[name][1]
        row = {"config": name, "median_ms": statistics.median(values), "min_ms": min(values), "max_ms": max(values)}
        row["images_per_second"] = 1000 * images / row["median_ms"]
        rows.append(row)
        spread = f"{row['median_ms']:20.1f} {row['min_ms']:8.1f} {row['max_ms']:8.1f}"
        print(f"{name:32} {spread} {row['images_per_second']:10.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"device": device, "jax": jax.__version__, "rows": rows}, indent=1) + "\n")


def load(name: str, overrides: list[str]) -> ConfigDict:
    """The config of FILE or FILE:ARG with overrides, typed as in the file."""
    path, _, argument = name.partition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(*filter(None, [argument]))
    override(config, overrides)
    return config


def prepare(config: ConfigDict):
    """A function that plays n turns and returns seconds per turn, already compiled; and the images in a turn."""
    mesh = sharding.device_mesh()
    dataset = evaluation.open_dataset(config)
    rules = game.build(config, image_shape=dataset.image_shape, num_classes=len(dataset.class_names))
    schedule = schedules.build(config)
    raw = dataset.read(range(config.batch_size))

    def turn(position, arrays, rows, axis_name):
        images, labels = arrays
        shape = (rules.discriminator.steps, len(rows))
        batches = {
            "image": jax.lax.broadcast_in_dim(images, (*shape, *images.shape[1:]), range(1, 5)),
            "label": jax.lax.broadcast_in_dim(labels, shape, (1,)),
            "row": jax.lax.broadcast_in_dim(rows, shape, (1,)),
        }
        return steps.train_step(position, batches, schedule(position.images), game=rules, axis_name=axis_name)

    compiled = sharding.compile_turns(
        turn, mesh, wrapper="jit", batch_size=config.batch_size, data_axis=0, most=loop.MOST_TURNS
    )
    arrays = (data.to_range(raw[0], rules.output.image_range), raw[1])
    position = sharding.replicate(state.create(rules, schedule(0), config.seed), mesh)
    position, metrics = compiled(position, arrays, 1)

    def play(turns: int) -> float:
        nonlocal position
        begun = time.perf_counter()
        position, metrics = compiled(position, arrays, turns)
        jax.block_until_ready(metrics)
        return (time.perf_counter() - begun) / turns

    return play, config.batch_size * rules.discriminator.steps


if __name__ == "__main__":
    main()
