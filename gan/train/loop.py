"""The story of a run: build, restore, play turn after turn, and do what is due. The top of the spine below `main`."""

import contextlib
import dataclasses
import functools
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from gan import data, schedules, steps
from gan import game as rules
from gan import state as states
from gan.config import schema
from gan.errors import Diverged, UserError
from gan.evaluation import evaluator
from gan.evaluation.options import evaluation_options
from gan.game import Game
from gan.inference import sampling
from gan.io import checkpoint, plots, workdir, writer
from gan.parallel import compilation, processes, sharding
from gan.train import memory
from gan.train.diagnostics import Diagnostics

logger = logging.getLogger(__name__)

GRID = 64
"""Samples in a run's pictures."""

CLOUD = 1000
"""Samples in a run's pictures of points."""

RESIDENT_BYTES = 2**30
"""Decoded datasets up to this size are kept on the device where `config.data.on_device` is "auto"."""

DECODED_BYTES = 2**32
"""Larger ones, up to this size, are decoded once, into the cache folder, and streamed from there."""

MAX_STEPS_PER_DISPATCH = 256
"""Turns that one dispatch plays at most."""

DISPATCH_SECONDS = 0.2
"""What a dispatch of several turns should take: short beside a signal's grace, long beside a dispatch's own cost."""


def train(config: ConfigDict, folder: Path, launched: float) -> int:
    """Trains the run of `config` in `folder`, from its last checkpoint or from the start. Returns the exit status.

    `launched` is the `time.monotonic()` of the launch. Raises `UserError` for a mistake of the user's, `Diverged` where
    a figure is not finite.
    """
    check_config_values(config)
    with contextlib.ExitStack() as held:
        processes.broadcast_from_primary(lambda: bool(held.enter_context(workdir.lock(folder))))
        return _train(config, folder, launched)


def due(step: int, every: int, total: int) -> bool:
    """Whether something that happens every `every` steps, and at the last one, happens at `step`; 0: never."""
    return every > 0 and (step % every == 0 or step == total)


def _train(config: ConfigDict, folder: Path, launched: float) -> int:
    mesh = sharding.device_mesh()
    sharding.check_batch(config.batch_size, mesh)
    dataset = processes.primary_first(lambda: data.open_dataset(config.data))
    opened = find_run(config, folder, dataset, mesh)
    if opened.is_complete:
        return 0
    source = Resident(dataset, config, mesh) if is_resident(dataset, config) else Streamed(dataset, config, mesh)
    if config.microbatches == memory.AUTO:
        opened, turns = with_chosen_microbatches(opened, source, mesh)
    else:
        turns = compile_run(opened, source, mesh)
    begin(opened, folder)
    config, game, step = opened.config, opened.game, int(opened.state.step)
    state, run = opened.state, Recorder(config, folder, opened, source.real_images, launched)
    with StopSignal() as interruption, run, source.opened(step, config.steps, game.discriminator.steps):
        if step == 0 and config.sample_every:
            run.sample(0, state)
        while step < config.steps:
            count = min(run.steps_before_due(step), run.steps_per_dispatch, source.max_steps_per_dispatch)
            arrays, waited = source.take()
            state, metrics = turns(state, arrays, count)
            step += count
            run.record(step, count, metrics, waited)
            run.due(step, state)
            if stopped_by := interruption.agreed(count, run.steps_per_dispatch, metrics):
                run.stop(step, state, stopped_by)
                return 128 + stopped_by
    _log_next_steps(config, folder)
    return 0


class RunSetup(NamedTuple):
    """A run whose folder is ready, at the position from which it goes on."""

    config: ConfigDict
    """As the run is trained: with a number of microbatches."""
    game: Game
    course: schedules.Schedules
    state: states.TrainState
    manager: Any
    """Of its checkpoints."""
    is_complete: bool
    record: dict
    """What `config.json` is to hold."""
    was_begun: bool
    """Whether the folder held it already."""


def prepare_run(config: ConfigDict, folder: Path, dataset: Any, mesh: Any) -> RunSetup:
    """Begins the run of `config` in `folder`, which is locked, or finds where it was left, and writes `config.json`.

    Raises `UserError` where the folder holds another run.
    """
    opened = find_run(config, folder, dataset, mesh)
    if not opened.is_complete:
        begin(opened, folder)
    return opened


def find_run(config: ConfigDict, folder: Path, dataset: Any, mesh: Any) -> RunSetup:
    """As `prepare_run`, without writing. In place of "auto" microbatches stand those of the run, or 1."""
    old = processes.broadcast_from_primary(lambda: workdir.read(folder))
    if config.microbatches == memory.AUTO:
        config = memory.with_microbatches(config, memory.recorded_number(old, config.batch_size))
    game = rules.build(config, image_shape=dataset.image_shape, num_classes=len(dataset.class_names))
    course = schedules.build(config)
    initial = functools.partial(states.create, game)
    numbers = (course(0), np.uint32(config.seed))
    shapes = jax.eval_shape(initial, *numbers)
    layout = sharding.state_sharding(shapes, mesh, sharded=config.shard_state)
    _check_memory(config, game, sharding.bytes_per_device(shapes, layout), mesh)
    record, changes = _record(config, dataset, shapes), []
    if old is not None:
        also = memory.fields_of_memory(game, old["config"], config)
        changes = workdir.continue_with(folder, old, record["config"], record["dataset"], also=also)
    manager = checkpoint.open_manager(folder / "checkpoints")
    state = checkpoint.restore(manager, sharding.abstract(shapes, layout), set_aside=folder / "damaged_checkpoints")
    if state is None:
        state = jax.jit(initial, out_shardings=layout)(*numbers)
    first = int(state.step)
    is_complete = first >= config.steps
    if is_complete:
        if processes.is_primary():
            writer.finish(folder, is_of_points=data.is_point(dataset.image_shape))
        logger.info("the run is complete: step %d of %d. To go on: --config.steps=%d", first, config.steps, 2 * first)
    record["changes"] = ([] if old is None else old.get("changes", [])) + [
        {"step": first, **change} for change in changes
    ]
    return RunSetup(config, game, course, state, manager, is_complete, record, old is not None)


def begin(opened: RunSetup, folder: Path) -> None:
    """Writes `config.json`, and says what is trained."""
    processes.broadcast_from_primary(lambda: workdir.write(folder, opened.record))
    _announce(opened.record, folder, int(opened.state.step))


def with_chosen_microbatches(opened: RunSetup, source: Any, mesh: Any) -> tuple[RunSetup, compilation.Dispatch]:
    """The run with the fewest microbatches that fit the devices, and its train steps, compiled.

    A run that was begun keeps the number that it has, if it fits. Raises `UserError` where none does.
    """
    recorded = opened.config.microbatches if opened.was_begun else 0
    batches = opened.game.discriminator.steps

    def changed(number: int) -> RunSetup:
        game = dataclasses.replace(opened.game, microbatches=number)
        return opened._replace(config=memory.with_microbatches(opened.config, number), game=game)

    def compiled(number: int) -> jax.stages.Compiled:
        return compile_run(changed(number), source, mesh).compile(opened.state, source.abstract(batches))

    fit = memory.choose(
        opened.game,
        batch_size=opened.config.batch_size,
        devices=mesh.size,
        attempt=lambda number: memory.compiled_within_memory(functools.partial(compiled, number)),
        recorded=recorded,
    )
    record = opened.record | {"config": opened.record["config"] | {"microbatches": fit.microbatches}}
    record["memory"] = fit.record()
    if recorded not in (0, fit.microbatches):
        change = {"field": "microbatches", "from": recorded, "to": fit.microbatches}
        record["changes"] = [*record["changes"], {"step": int(opened.state.step), **change}]
    opened = changed(fit.microbatches)._replace(record=record)
    return opened, compile_run(opened, source, mesh).with_compiled(fit.compiled)


def compile_run(opened: RunSetup, source: Any, mesh: Any) -> Callable:
    """The train steps of a run: see `compilation.compile_steps`. They are compiled when they are first needed."""
    config = opened.config
    return compilation.compile_steps(
        functools.partial(
            run_step, game=for_devices(opened.game, config, mesh), course=opened.course, batch_of=source.batch_of
        ),
        mesh,
        wrapper=config.parallel,
        batch_size=config.batch_size,
        data_axis=source.data_axis,
        max_steps=source.max_steps_per_dispatch,
        hyperparams=base_hyperparams(config, opened.course),
        layout=sharding.state_sharding(opened.state, mesh, sharded=config.shard_state),
    )


def for_devices(game: Game, config: ConfigDict, mesh: Any) -> Game:
    """The game as the turns of a config play it on these devices: with `shard_state`, its updates in parts."""
    if not config.shard_state:
        return game
    return game.with_sharded_updates(
        *(functools.partial(place, mesh=mesh) for place in (sharding.shard, sharding.all_gather))
    )


def run_step(
    state: states.TrainState, arrays: Any, rows: Array, numbers: dict, *, game: Game, course: schedules.Schedules,
    batch_of: Callable, axis_name: str | None,
) -> tuple[states.TrainState, dict]:  # fmt: skip
    """One turn of a run with the `base_hyperparams` it, on what its source's `batch_of` makes of its arrays."""
    raw = batch_of(arrays, numbers["seed"], state.step, rows, game.discriminator.steps)
    hyperparams = course(state.images, numbers["base"])
    return steps.train_step(state, make_batches(raw, rows, game), hyperparams, game=game, axis_name=axis_name)


def base_hyperparams(config: ConfigDict, course: schedules.Schedules) -> dict:
    """What a run's turns are told, so that one compiled program serves every seed, rate and weight."""
    base = {field: np.float32(value) for field, value in course.base.items()}
    return {"base": base, "seed": np.uint32(config.seed)}


def make_batches(raw: dict, rows: Array, game: Game) -> dict:
    """Examples [batches, B, ...] as the steps want them: images in the game's range, and each example's row."""
    return {
        "image": data.to_range(raw["image"], game.output.image_range),
        "label": raw["label"],
        "row": jax.lax.broadcast_in_dim(rows, raw["label"].shape, (1,)),
    }


class Resident:
    """All examples on every device; a turn's batches are gathered inside the program."""

    data_axis = None
    max_steps_per_dispatch = MAX_STEPS_PER_DISPATCH

    def __init__(self, dataset: data.Dataset, config: ConfigDict, mesh: Any):
        # Copies: a file that they are mapped from could be written to during the run.
        images, labels = (np.array(array) for array in dataset.arrays())
        self._arrays = sharding.replicate((images, labels), mesh)
        self._batch_size = config.batch_size
        self.real_images = images[: _shown(dataset.image_shape)].copy()

    def batch_of(self, arrays: Any, seed: Array, step: Array, rows: Array, batches: int) -> dict:
        """Inside the program: the turn's examples of these rows."""
        return data.gather(*arrays, seed=seed, step=step, rows=rows, batches=batches, batch_size=self._batch_size)

    def abstract(self, batches: int) -> Any:
        """What `take` gives, for compilation ahead of time."""
        return self._arrays

    def opened(self, first: int, last: int, batches: int) -> contextlib.AbstractContextManager:
        """While it is open, the data of the steps first .. last - 1 can be taken."""
        return contextlib.nullcontext()

    def take(self) -> tuple[Any, float]:
        """The data of the next turns, and the seconds that were spent waiting for them."""
        return self._arrays, 0.0


class Streamed:
    """Examples read, and decoded where they must be, by threads of the host, a few turns ahead; sent turn by turn.

    Each host reads those that its own devices are to have.
    """

    data_axis = 1
    max_steps_per_dispatch = 1

    def __init__(self, dataset: data.Dataset, config: ConfigDict, mesh: Any):
        self._dataset = data.Decoded(*dataset.arrays()) if _decoded_bytes(dataset) <= DECODED_BYTES else dataset
        self._order = {
            "seed": config.seed,
            "batch_size": config.batch_size,
            "rows": sharding.process_rows(mesh, config.batch_size),
        }
        self._mesh = mesh
        self.real_images = dataset.read(np.arange(min(_shown(dataset.image_shape), len(dataset))))[0]

    def batch_of(self, arrays: Any, seed: Array, step: Array, rows: Array, batches: int) -> dict:
        """Inside the program: the examples are those that were given."""
        return arrays

    def abstract(self, batches: int) -> Any:
        """The shapes of what `take` gives, for compilation ahead of time."""
        shape = (batches, self._order["batch_size"])
        return {
            "image": jax.ShapeDtypeStruct((*shape, *self.real_images.shape[1:]), self.real_images.dtype),
            "label": jax.ShapeDtypeStruct(shape, np.int32),
        }

    @contextlib.contextmanager
    def opened(self, first: int, last: int, batches: int) -> Iterator[None]:
        """While it is open, the data of the steps first .. last - 1 can be taken."""
        self._stream = data.stream(self._dataset, first_step=first, last_step=last, batches=batches, **self._order)
        with contextlib.closing(self._stream):
            yield

    def take(self) -> tuple[Any, float]:
        """The data of the next turn, and the seconds that were spent waiting for it."""
        begun = time.perf_counter()
        batches = next(self._stream)
        waited = time.perf_counter() - begun
        return sharding.make_global_batch(batches, self._mesh, 1, self._order["batch_size"]), waited


class Recorder:
    """What happens beside the turns: figures, pictures, checkpoints, and the end.

    Of several processes each has one, and all come to the same lines; the first alone draws, evaluates and writes.
    """

    def __init__(self, config: ConfigDict, folder: Path, opened: RunSetup, real_images: np.ndarray, launched: float):
        self._config, self._game, self._manager, self._real_images = config, opened.game, opened.manager, real_images
        self._evaluator, self._best_manager = None, None
        if config.evaluate_every:
            processes.broadcast_from_primary(self._open_evaluator)
            self._best_manager = checkpoint.open_manager(folder / "best", keep=1)
        first = int(opened.state.step)
        self._diagnostics = Diagnostics(real_images)
        self._report = writer.RunWriter(folder, step=first, total=config.steps) if processes.is_primary() else None
        self._launched = launched
        self._recent: list[tuple[int, dict]] = []
        self._waited = 0.0
        self._since = (first, time.perf_counter())
        self.steps_per_dispatch = 1

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        managers = [self._manager] + ([self._best_manager] if self._best_manager else [])
        with contextlib.ExitStack() as ends:  # each of them, also where one fails
            if self._report:
                ends.callback(self._report.close)
            for manager in managers:
                ends.callback(manager.close)
            for manager in managers:
                manager.wait_until_finished()  # errors of the last save come out here

    def _open_evaluator(self) -> None:
        self._evaluator = evaluator.create(evaluation_options(self._config), self._config.seed)

    def steps_before_due(self, step: int) -> int:
        """Turns after `step` until something is due."""
        config = self._config
        intervals = (config.log_every, config.sample_every, config.evaluate_every, config.checkpoint_every)
        return min([config.steps - step] + [every - step % every for every in intervals if every])

    def record(self, step: int, count: int, metrics: dict, waited: float) -> None:
        """Notes the figures of `count` turns without waiting for them, but runs at most two dispatches ahead."""
        self._recent.append((count, metrics))
        self._waited += waited
        if len(self._recent) > 2:
            jax.block_until_ready(self._recent[-3][1])
        if self._report:
            self._report.advance(step)

    def due(self, step: int, state: states.TrainState) -> None:
        """Does what is due after a step."""
        config = self._config
        if due(step, config.log_every, config.steps):
            self._log(step, int(state.images))
        if due(step, config.sample_every, config.steps):
            self.sample(step, state)
        if due(step, config.evaluate_every, config.steps):
            self.evaluate(step, state)
        if due(step, config.checkpoint_every, config.steps) or step == config.steps:
            self.save(step, state)

    def stop(self, step: int, state: states.TrainState, number: int) -> None:
        """Saves everything before the time."""
        self.save(step, state)
        logger.info("%s: saved at step %d; the same command goes on from there", signal.Signals(number).name, step)

    def sample(self, step: int, state: states.TrainState) -> None:
        """Draws the run's picture: the same latents at every step."""
        is_of_points = data.is_point(self._game.image_shape)
        ema, discriminator = sharding.gather_to_process((state.ema, state.discriminator if is_of_points else None))
        if not processes.is_primary():
            return
        columns = sampling.class_columns(self._game)
        count = _shown(self._game.image_shape) // max(columns, 1) * max(columns, 1)
        ema = sampling.ready(self._config, self._game, ema)
        drawn = sampling.draw(self._game, ema, seed=self._config.seed, count=count, batch_size=count)
        images = next(drawn)["image"]
        if is_of_points:
            plane = plots.plane(self._real_images.reshape(-1, 2))
            points = plane.reshape(-1, *self._game.image_shape)
            logits, pull = sampling.landscape(self._game, discriminator, points, self._real_images)
            landscape = plots.Landscape(plane, np.reshape(logits, plane.shape[:2]), np.reshape(pull, plane.shape))
            self._report.points(step, images.reshape(-1, 2), self._real_images.reshape(-1, 2), landscape)
        else:
            self._report.samples(step, images, columns)
        self._diagnostics.observe_samples(step, images)

    def evaluate(self, step: int, state: states.TrainState) -> None:
        """Takes the figures of the averaged generator, and keeps the state if they are the best so far."""
        self._fetch(step)
        begun = time.perf_counter()
        ema = sharding.gather_to_process(state.ema)
        if processes.broadcast_from_primary(lambda: self._compute_metrics(step, ema)):
            checkpoint.save(self._best_manager, step, state)
        since_step, since = self._since
        self._since = (since_step, since + time.perf_counter() - begun)  # not a part of the turns' time

    def _compute_metrics(self, step: int, ema: states.GeneratorEMA) -> bool:
        """Whether they are the best so far."""
        figures = self._evaluator.compute(self._game, sampling.ready(self._config, self._game, ema))
        selection_metric = self._evaluator.selection_metric
        best = min(
            (line[selection_metric] for line in self._report.evaluations() if selection_metric in line),
            default=math.inf,
        )
        self._report.evaluation(step, figures)
        logger.info("step %d: %s", step, evaluator.describe(figures))
        return selection_metric in figures and figures[selection_metric] < best

    def save(self, step: int, state: states.TrainState) -> None:
        """Saves a checkpoint."""
        self._fetch(step)  # what is not finite is never saved
        checkpoint.save(self._manager, step, state)

    def _log(self, step: int, images: int) -> None:
        figures = {name: float(np.mean(values)) for name, values in self._fetch(step).items()}
        begun, since = self._since
        now = time.perf_counter()
        seconds_per_step = (now - since) / (step - begun)
        if self._report:
            self._report.metrics(
                step,
                {
                    "images": images,
                    "seconds": round(time.monotonic() - self._launched, 3),
                    **figures,
                    "images_per_second": self._config.batch_size * self._game.discriminator.steps / seconds_per_step,
                    "seconds_per_step": seconds_per_step,
                    "share_waiting_for_data": self._waited / (now - since),
                },
            )
            self._diagnostics.observe_metrics(step, figures)
        self.steps_per_dispatch = processes.broadcast_from_primary(
            lambda: max(1, int(DISPATCH_SECONDS / seconds_per_step))
        )
        self._recent.clear()
        self._waited = 0.0
        self._since = (step, now)

    def _fetch(self, step: int) -> dict[str, np.ndarray]:
        """The figures [turns] of the turns since the last log. Raises `Diverged` at the first that is not finite."""
        self._recent = jax.device_get(self._recent)
        turns = sum(count for count, _ in self._recent)
        names = self._recent[0][1] if turns else ()
        figures = {name: np.concatenate([metrics[name][:count] for count, metrics in self._recent]) for name in names}
        for turn in range(turns):
            for name, values in figures.items():
                if not math.isfinite(values[turn]):
                    raise Diverged(f"step {step - turns + 1 + turn}: {name} is {values[turn]}")
        return figures


class StopSignal:
    """Notes the first SIGINT or SIGTERM, to be acted on between two turns; a second one acts at once.

    So does SIGHUP, which comes when the terminal is closed, unless the run was launched to ignore it (`nohup`).
    """

    def __init__(self):
        self.signal = 0
        self._turns = 0

    def __enter__(self) -> "StopSignal":
        numbers = [signal.SIGINT, signal.SIGTERM]
        numbers += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, count: int, every: int, played: Any) -> int:
        """The signal that is to end the run now, or 0: the same on all processes.

        To be asked after every dispatch, of `count` turns that compute `played`. Several processes ask each other when
        they have played `every` turns, and wait for them: see `hosts`.
        """
        if processes.process_count() == 1:
            return self.signal
        self._turns += count
        if self._turns < every:
            return 0
        self._turns = 0
        jax.block_until_ready(played)
        return processes.process_max(self.signal)

    def _note(self, number: int, frame: object) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)


def _shown(image_shape: tuple[int, int, int]) -> int:
    return CLOUD if data.is_point(image_shape) else GRID


def is_resident(dataset: data.Dataset, config: ConfigDict) -> bool:
    """Whether a run keeps the whole dataset on the device."""
    choice = config.data.on_device
    if choice not in ("auto", "always", "never"):
        raise UserError(f"config.data.on_device={choice!r} is unknown; expected: auto, always, never")
    return choice == "always" or (choice == "auto" and _decoded_bytes(dataset) <= RESIDENT_BYTES)


def _decoded_bytes(dataset: data.Dataset) -> int:
    return len(dataset) * math.prod(dataset.image_shape)


def check_config_values(config: ConfigDict) -> None:
    """Raises `UserError` for a field that is missing or of another kind, and for a number that cannot be."""
    schema.check(config)
    if config.steps < 1:
        raise UserError(f"config.steps={config.steps} must be at least 1")
    if config.batch_size < 1 or config.discriminator_steps < 1:
        raise UserError(
            f"config.batch_size={config.batch_size}, discriminator_steps={config.discriminator_steps}: both must be at "
            f"least 1"
        )
    if config.log_every < 1:
        raise UserError(f"config.log_every={config.log_every} must be at least 1")
    for field in ("sample_every", "checkpoint_every", "evaluate_every"):
        if config[field] < 0:
            raise UserError(f"config.{field}={config[field]} must not be negative (0: only at the end, or never)")
    if config.evaluation.standing_batches < 0:
        raise UserError(
            f"config.evaluation.standing_batches={config.evaluation.standing_batches} must not be negative (0: the "
            f"averaged statistics)"
        )
    if config.shard_state and config.parallel != "jit":
        raise UserError(
            f"config.shard_state=True has no meaning with config.parallel={config.parallel!r}, which keeps the state "
            f"whole on every device; expected: config.parallel='jit'"
        )
    if config.microbatches == memory.AUTO and config.parallel != "jit":
        raise UserError(
            f"config.microbatches='auto' needs config.parallel='jit', and it is {config.parallel!r}; expected with it: "
            f"a whole number"
        )
    if not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed={config.seed} must be in 0 .. 2^32 - 1")
    images = config.steps * config.batch_size * config.discriminator_steps
    if images >= 2**32:
        raise UserError(f"config.steps={config.steps} shows {images} images; at most {2**32 - 1} can be counted")


def _check_memory(config: ConfigDict, game: Game, state: int, mesh: Any) -> None:
    """Raises `UserError` where the bytes of the state and a batch are more than a device has: a size was mistyped."""
    batch = config.batch_size * math.prod(game.image_shape) * 4 // mesh.size
    there = sharding.device_memory_bytes()
    if state + batch > there:
        raise UserError(
            f"the players and their optimizers take {state / 2**30:.1f} GiB and a batch {batch / 2**30:.1f}; a device "
            f"has {there / 2**30:.1f}. See config.batch_size, config.data.image_size, config.latent.size and the widths"
        )


def _record(config: ConfigDict, dataset: data.Dataset, shapes: states.TrainState) -> dict:
    """The content of `config.json`: what the run is, and what it runs with."""
    return {
        "config": config.to_dict(),
        "dataset": {
            "name": dataset.name,
            "split": dataset.split,
            "fingerprint": dataset.fingerprint,
            "examples": len(dataset),
            "image_shape": list(dataset.image_shape),
            "class_names": list(dataset.class_names),
        },
        "parameters": {
            "generator": rules.parameter_count(shapes.generator.params),
            "discriminator": rules.parameter_count(shapes.discriminator.params),
        },
        "versions": workdir.versions(),
    }


def _announce(record: dict, folder: Path, first: int) -> None:
    dataset, parameters, total = record["dataset"], record["parameters"], record["config"]["steps"]
    size = "x".join(map(str, dataset["image_shape"]))
    logger.info("%s: %d images of %s", dataset["name"], dataset["examples"], size)
    logger.info("G has %s parameters, D %s", f"{parameters['generator']:,}", f"{parameters['discriminator']:,}")
    if "memory" in record:
        logger.info(memory.chosen(record["memory"]))
    logger.info("%s in %s", f"going on from step {first} of {total}" if first else f"{total} steps", folder)


def _log_next_steps(config: ConfigDict, folder: Path) -> None:
    logger.info("step %d of %d done. In %s lie:", config.steps, config.steps, folder)
    logger.info("  samples/        the same latents through training")
    logger.info("  losses.png      both losses; metrics.jsonl and tensorboard/: every figure")
    logger.info("  checkpoints/    the last steps, whole")
    logger.info("Next: more samples   python -m gan.main --mode=sample --workdir=%s --num_samples=1000", folder)
    logger.info("      figures        python -m gan.main --mode=evaluate --workdir=%s", folder)
    logger.info("      train longer   the same command with --config.steps=%d", 2 * config.steps)
