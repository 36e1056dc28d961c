"""Trains the five tutorials at full length, two at a time: flag_gan in parallel to the small ones."""

import concurrent.futures
from pathlib import Path
from typing import Any

from experiments.benchmarks import systems
from experiments.on_gpu import runs
from experiments.on_gpu.stage import Stage, StageFailed
from experiments.results import records

TUTORIALS = ("flag_gan", "conv_gan", "mlp_gan", "smooth_gan", "vanilla_gan")
"""In the order in which they start: the longest first."""

AT_ONCE = 2
MIN_SECONDS = 20.0
"""No run is started with less time than this."""

EVALUATION_SECONDS = 60.0
"""No evaluation is started with less time than this."""

TINY = {
    "flag_gan": {"generator.channels": (4, 4, 4), "discriminator.channels": (4, 4)},
    "conv_gan": {"generator.width": 4, "discriminator.width": 2},
    "mlp_gan": {"generator.width": 8, "discriminator.width": 8},
    "smooth_gan": {"generator.width": 8, "discriminator.width": 8},
    "vanilla_gan": {"generator.width": 4, "discriminator.width": 4},
}


def run(stage: Stage) -> None:
    """Trains each tutorial, copies its last samples and losses, and evaluates those that were trained to their end."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
        rows = list(threads.map(lambda name: train(stage, name), TUTORIALS))
    stage.headline(*(describe(row) for row in rows if row))
    failed = [f"{row['tutorial']}: {row['failure']}" for row in rows if row and row["failure"]]
    if failed:
        raise StageFailed("; ".join(failed))


def train(stage: Stage, name: str) -> dict[str, Any] | None:
    """Trains one tutorial for the remaining time, and records its progress. Returns None if there was no time."""
    if stage.left() < (0.0 if stage.tiny else MIN_SECONDS):
        stage.drop(name)
        return None
    overrides, data = settings(name, tiny=stage.tiny, flags=stage.flags)
    folder, log = stage.out / "runs" / f"{stage.name}_{name}", stage.out / f"{stage.name}_{name}.log"
    runs.remove(folder, log)
    ended, found = runs.train(
        f"configs/{name}.py", overrides, folder, seconds=stage.left() - runs.GRACE_SECONDS / 2, log=log
    )
    row = {"tutorial": name, "data": data, "steps_wanted": overrides["steps"], "status": ended.status,
           "failure": ended.failure, "seconds": ended.seconds, **found,
           **runs.copy_images(folder, stage.out, f"{stage.name}_{name}")}  # fmt: skip
    stage.add(**row)
    if not ended.failure and row["steps"] < overrides["steps"]:
        stage.drop(f"{name} from step {row['steps']} of {overrides['steps']}")
    elif not ended.failure and not stage.tiny and records.find("tutorials", name):
        evaluate(stage, name, folder, log)
    return row


def evaluate(stage: Stage, name: str, folder: Path, log: Path) -> None:
    """Evaluates a run of full length in the remaining time, and writes its record for docs/results.md."""
    if stage.left() < EVALUATION_SECONDS:
        stage.drop(f"the evaluation of {name}")
        return
    seconds = stage.left() - runs.GRACE_SECONDS / 2
    ended = runs.launch(["--mode=evaluate", f"--workdir={folder}"], seconds=seconds, log=log)
    if ended.failure or ended.is_stopped:
        stage.drop(f"the evaluation of {name}: {ended.failure or 'the time was over'}")
        return
    runs.write_record(folder, stage.out, "tutorials", name)


def settings(name: str, *, tiny: bool, flags: str) -> tuple[dict[str, Any], str]:
    """The fields that are changed in a tutorial's config, and a description of its data."""
    config = systems.load(f"configs/{name}.py")
    overrides = runs.rarely_interrupted(8 if tiny else config.steps)
    if tiny:
        overrides |= TINY[name] | {"batch_size": 4}
    if name == "flag_gan" and flags:
        return overrides | {"data.dir": flags}, f"the images of {Path(flags).name}, as in the config"
    if name == "flag_gan":
        # Digits are grey; three channels make a step as expensive as with color flags.
        return overrides | runs.ON_DIGITS | {"data.channels": 3}, "no --flags: bundled digits at 64x64, 3 channels"
    if tiny:
        return overrides | runs.ON_DIGITS, "bundled digits"
    return overrides, config.data.name


def describe(row: dict[str, Any]) -> str:
    """A line of the summary."""
    speed = f", {row['ms_per_step']:.2f} ms a step" if "ms_per_step" in row else ""
    return f"{row['tutorial']} {row['steps']} of {row['steps_wanted']} steps in {row['seconds']:.0f} s{speed}"
