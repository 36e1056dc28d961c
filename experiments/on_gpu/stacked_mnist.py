"""Trains configs/stacked_mnist.py, then counts the covered modes of 1,000, and computes the reverse KL."""

import json
from typing import Any

from experiments.benchmarks import systems
from experiments.on_gpu import runs
from experiments.on_gpu.stage import Stage, StageFailed

CONFIG = "configs/stacked_mnist.py"
EVALUATION_SECONDS = 80.0
"""Time reserved for the evaluation, which trains a classifier of digits first."""

PUBLISHED = {"modes": 1000, "reverse_kl": 0.029}
"""R3GAN: Huang et al. 2024, arXiv:2501.05441, on StackedMNIST."""

TINY = {"generator.width": 4, "discriminator.width": 4, "batch_size": 8, "evaluation.num_samples": 32, **runs.ON_DIGITS}


def run(stage: Stage) -> None:
    """Trains, evaluates, and records both."""
    config = systems.load(CONFIG)
    overrides = runs.rarely_interrupted(8 if stage.tiny else config.steps)
    overrides |= TINY if stage.tiny else {}
    folder, log = stage.out / "runs" / stage.name, stage.out / f"{stage.name}_run.log"
    runs.remove(folder, log)
    stage.note(config=CONFIG, data=overrides.get("data.name", config.data.name), published=PUBLISHED)
    reserved = min(EVALUATION_SECONDS, stage.left() / 3)
    ended, found = runs.train(
        CONFIG, overrides, folder, seconds=stage.left() - reserved - runs.GRACE_SECONDS / 2, log=log
    )
    trained = {"steps_wanted": overrides["steps"], "status": ended.status, "seconds": ended.seconds, **found}
    stage.add(what="training", failure=ended.failure, **trained, **runs.copy_images(folder, stage.out, stage.name))
    line = f"{found['steps']} of {overrides['steps']} steps in {ended.seconds:.0f} s"
    stage.headline(f"{line}, not evaluated")
    if ended.failure:
        raise StageFailed(f"training: {ended.failure}")
    if found["steps"] < overrides["steps"]:
        stage.drop(f"steps {found['steps']} to {overrides['steps']}")
    evaluated = runs.launch(["--mode=evaluate", f"--workdir={folder}"], seconds=stage.left(), log=log)
    if evaluated.failure or evaluated.is_stopped:
        raise StageFailed(f"evaluation: {evaluated.failure or 'the time was over'}")
    metrics = metrics_of(json.loads((folder / "evaluation.json").read_text()))
    stage.add(what="evaluation", failure="", seconds=evaluated.seconds, **metrics)
    if found["steps"] == config.steps:
        runs.write_record(folder, stage.out, "stacked_mnist", "dcgan")
    last = metrics["last"]
    stage.headline(
        f"{line}: {last['modes']:.0f} modes, KL {last['reverse_kl']:.3f} (published: {PUBLISHED['modes']}, "
        f"{PUBLISHED['reverse_kl']})"
    )


def metrics_of(record: dict[str, Any]) -> dict[str, Any]:
    """The metrics of the last checkpoint in `evaluation.json`, and those of real images."""
    last = record["checkpoints"]["last"]
    return {
        "step": last["step"],
        "last": last["metrics"],
        "real_training_images": record["real_training_images"],
        "classifier_test_accuracy": record["protocol"].get("classifier_test_accuracy"),
        "num_samples": record["protocol"]["num_samples"],
    }
