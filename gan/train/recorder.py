"""What a run does besides its steps: metrics, previews, evaluations and checkpoints, each when it is due."""

import contextlib
import logging
import math
import signal
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from gan import state as states
from gan.errors import Diverged
from gan.evaluation import evaluator
from gan.evaluation.options import EvaluationOptions
from gan.inference import sampling
from gan.io import checkpoint, workdir, writer
from gan.parallel import processes, sharding
from gan.train import preview
from gan.train.diagnostics import Diagnostics
from gan.train.setup import RunSetup

logger = logging.getLogger(__name__)

DISPATCH_SECONDS = 0.2
"""What a dispatch of several steps should take: short beside a signal's grace, long beside a dispatch's own cost."""


def due(step: int, every: int, total: int) -> bool:
    """Whether something that happens every `every` steps, and at the last one, happens at `step`; 0: never."""
    return every > 0 and (step % every == 0 or step == total)


class DispatchQueue:
    """The metrics of dispatched steps, on the device until they are asked for. The host runs two dispatches ahead."""

    def __init__(self):
        self._pending: list[tuple[int, dict]] = []

    def add(self, count: int, metrics: dict) -> None:
        """Notes the metrics [most] of a dispatch of `count` steps, and waits for the last dispatch but two."""
        self._pending.append((count, metrics))
        if len(self._pending) > 2:
            jax.block_until_ready(self._pending[-3][1])

    def fetch(self) -> list[tuple[int, dict]]:
        """What was added since `clear`, as NumPy arrays, once it is computed."""
        self._pending = jax.device_get(self._pending)
        return self._pending

    def clear(self) -> None:
        """Forgets what was added."""
        self._pending = []


class Recorder:
    """Writes a run's folder while it is trained.

    Every process of a run has one, and all do the same at the same step; the primary process alone draws, evaluates and
    writes.
    """

    def __init__(
        self, run: RunSetup, evaluation: EvaluationOptions, folder: Path, real_examples: np.ndarray, launched: float
    ):
        """`real_examples` are those of `preview.real_examples`; `launched` is the `time.monotonic()` of the launch."""
        self._setup, self._options = run.setup, run.setup.options
        self._manager: ocp.CheckpointManager = run.manager
        self._best_manager: ocp.CheckpointManager | None = None
        self._evaluator: evaluator.Evaluator | None = None
        self._record = workdir.with_format(run.record)
        if self._options.evaluate_every:
            processes.broadcast_from_primary(lambda: self._open_evaluator(evaluation))
        first, total = int(run.state.step), self._options.steps
        self._preview = preview.of(run.setup, real_examples)
        self._diagnostics = Diagnostics(real_examples, clips_weights=run.game.clips_weights)
        self._writer: writer.RunWriter | None = None
        processes.broadcast_from_primary(lambda: self._open_writer(folder, first, total, run.record["config"]))
        if self._options.evaluate_every:  # after the writer has removed what is in there of later steps
            self._best_manager = checkpoint.open_manager(folder / "best", keep=1)
        self._launched = launched
        self._queue, self._waited = DispatchQueue(), 0.0
        self._since = (first, time.perf_counter())
        self.steps_per_dispatch = 1

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as ends:  # each of them, also where one fails
            if self._writer:
                ends.callback(self._writer.close)
            for manager in self._managers():
                ends.callback(manager.close)
            for manager in self._managers():
                manager.wait_until_finished()  # errors of the last save come out here

    def _open_writer(self, folder: Path, first: int, total: int, config: dict) -> None:
        loggers = self._options.loggers
        self._writer = writer.RunWriter(folder, step=first, total=total, loggers=loggers, config=config)

    def _open_evaluator(self, options: EvaluationOptions) -> None:
        self._evaluator = evaluator.create(options, self._options.seed)

    def steps_before_due(self, step: int) -> int:
        """Steps after `step` until something is due."""
        options = self._options
        intervals = (options.log_every, options.sample_every, options.evaluate_every, *self._saving_intervals())
        return min([options.steps - step] + [every - step % every for every in intervals if every])

    def record(self, step: int, count: int, metrics: dict, waited: float) -> None:
        """Notes the metrics of `count` steps up to `step`, and the seconds that their data were waited for."""
        self._queue.add(count, metrics)
        self._waited += waited
        if self._writer:
            self._writer.advance(step)

    def due(self, step: int, state: states.TrainState) -> None:
        """Does what is due after a step."""
        options = self._options
        if due(step, options.log_every, options.steps):
            self._log(step, int(state.images))
        try:
            if due(step, options.sample_every, options.steps):
                self.sample(step, state)
            if due(step, options.evaluate_every, options.steps):
                self.evaluate(step, state)
        except Exception as error:  # features that are not finite, a package that is missing, memory
            if not isinstance(error, Diverged) and not processes.is_peer_failure(error):
                self.save(step, state)  # what was trained is not lost
            raise
        if step == options.steps or any(due(step, every, options.steps) for every in self._saving_intervals()):
            self.save(step, state)

    def stop(self, step: int, state: states.TrainState, number: int) -> None:
        """Saves a checkpoint before a signal ends the run."""
        self.save(step, state)
        logger.info("%s: saved at step %d; the same command resumes from there", signal.Signals(number).name, step)

    def sample(self, step: int, state: states.TrainState) -> None:
        """Draws the run's preview: the same latents at every step."""
        samples = self._preview.draw(step, state, self._writer)
        if samples is not None:
            self._diagnostics.observe_samples(step, samples)

    def evaluate(self, step: int, state: states.TrainState) -> None:
        """Computes the metrics of the EMA generator, and keeps the state if they are the best so far."""
        self._fetch(step)
        start = time.perf_counter()
        ema = sharding.gather_to_process(state.ema)
        if processes.broadcast_from_primary(lambda: self._compute_metrics(step, ema)):
            self._save_by(self._best_manager, step, state)
        since_step, since = self._since
        self._since = (since_step, since + time.perf_counter() - start)  # not a part of the steps' time

    def _compute_metrics(self, step: int, ema: states.GeneratorEMA) -> bool:
        """Writes the metrics; whether they are the best so far."""
        assert self._evaluator and self._best_manager and self._writer  # as `evaluate_every` is set
        metrics = self._evaluator.compute(self._setup.game, sampling.ready(self._setup, ema))
        selection = self._evaluator.selection_metric
        kept = self._best_manager.all_steps()  # the best one may have been in a history that was abandoned
        found = [line[selection] for line in self._writer.evaluations() if selection in line and line["step"] in kept]
        best = min(found, default=math.inf)
        self._writer.evaluation(step, metrics)
        logger.info("step %d: %s", step, evaluator.describe(metrics))
        return selection in metrics and metrics[selection] < best

    def save(self, step: int, state: states.TrainState) -> None:
        """Saves a checkpoint."""
        self._fetch(step)  # a state that is not finite is never saved
        for name in ("generator", "discriminator"):  # the metrics show it one step later
            for leaf in jax.device_get(jax.tree.leaves(getattr(state, name).params)):
                if not (is_finite := np.isfinite(leaf)).all():
                    raise self._diverged(step, f"{name}_parameter is {leaf[~is_finite][0]}")
        self._save_by(self._manager, step, state)

    def _save_by(self, manager: ocp.CheckpointManager, step: int, state: states.TrainState) -> None:
        """Starts saving a checkpoint by one of the managers.

        The barriers at which the processes of a run meet have the same names in every manager, so only one may save.
        """
        for other in self._managers():
            if other is not manager and jax.process_count() > 1:
                other.wait_until_finished()
        checkpoint.save(manager, step, state, self._record)

    def _managers(self) -> list[ocp.CheckpointManager]:
        return [self._manager] + ([self._best_manager] if self._best_manager else [])

    def _saving_intervals(self) -> tuple[int, int]:
        return self._options.checkpoint_every, self._options.keep_every

    def _log(self, step: int, images: int) -> None:
        values = self._fetch(step)
        metrics = {name: float(np.mean(of_steps)) for name, of_steps in values.items()}
        first, since = self._since
        now = time.perf_counter()
        seconds_per_step = (now - since) / (step - first)
        images_per_step = self._options.batch_size * self._setup.game.discriminator.steps
        if self._writer:
            speed = {
                "images_per_second": images_per_step / seconds_per_step,
                "seconds_per_step": seconds_per_step,
                "share_waiting_for_data": self._waited / (now - since),
            }
            seconds = round(self._writer.seconds + time.monotonic() - self._launched, 3)
            self._writer.metrics(step, {"images": images, "seconds": seconds, **metrics, **speed})
            self._diagnostics.observe_metrics(step, values)
        self._choose_dispatch(seconds_per_step)
        self._queue.clear()
        self._waited = 0.0
        self._since = (step, now)

    def _choose_dispatch(self, seconds_per_step: float) -> None:
        """As many steps a dispatch as take DISPATCH_SECONDS: the same number on all processes."""
        self.steps_per_dispatch = processes.broadcast_from_primary(
            lambda: max(1, int(DISPATCH_SECONDS / seconds_per_step))
        )

    def _fetch(self, step: int) -> dict[str, np.ndarray]:
        """The metrics [steps] of the steps since the last log. Raises `Diverged` at the first that is not finite."""
        pending = self._queue.fetch()
        steps = sum(count for count, _ in pending)
        names = pending[0][1] if steps else ()
        metrics = {name: np.concatenate([found[name][:count] for count, found in pending]) for name in names}
        for index in range(steps):
            for name, values in metrics.items():
                if not math.isfinite(values[index]):
                    raise self._diverged(step - steps + 1 + index, f"{name} is {values[index]}")
        return metrics

    def _diverged(self, step: int, what: str) -> Diverged:
        last = self._manager.latest_step()
        return Diverged(
            f"step {step}: {what}. " + ("There is no checkpoint yet" if last is None else
                                        f"The last checkpoint, of step {last}, is intact")
        )  # fmt: skip
