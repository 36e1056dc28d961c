"""What would a config cost on so many accelerators, and what limits it? Arithmetic on its shapes, nothing is trained.

python -m experiments.plan --config=configs/r3gan.py:cifar10
python -m experiments.plan --config=configs/biggan.py:imagenet128 --classes=1000 --examples=1281167 --on=tpu_v4
python -m experiments.plan --config=configs/dcgan.py:mnist --override batch_size=2048 --devices 1 2 4 8 --check 4

A turn's seconds are those of its arithmetic, plus those of its exchange between devices, or else those of reading its
images or of saving checkpoints, which go on beside it, where one of these is longer. docs/scaling.md says what stands
in the table, where the machines' figures come from, and what is left out.
"""

import argparse
import dataclasses
import functools
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from experiments.benchmarks import flops, timing
from experiments.benchmarks.systems import load
from gan import game as rules
from gan import loop, schedules, sharding
from gan import state as states
from gan.errors import UserError


@dataclasses.dataclass(frozen=True)
class Machine:
    """An accelerator, its links, and what it hangs on. Rates are a second's."""

    operations: Mapping[str, float]
    """Of products, at most, by the type of the numbers, as JAX multiplies them by default."""
    link_bytes: float
    """What a device can send to others of its host, or of its pod, while it receives as much."""
    network_bytes: float
    """What a host can send to other hosts for each of its devices."""
    hosts_of: int
    """Devices on a host."""
    memory_bytes: float
    """Of a device."""
    source: str


MACHINES: Mapping[str, Machine] = {
    "h100": Machine(
        {"bfloat16": 989.4e12, "float32": 494.7e12}, 450e9, 50e9, 8, 80e9,
        "NVIDIA, H100 SXM data sheet (dense; float32 as TF32; NVLink 900 GB/s for both directions) and DGX H100 data "
        "sheet (eight 400 Gb/s adapters)",
    ),
    "a100": Machine(
        {"bfloat16": 312e12, "float32": 156e12}, 300e9, 25e9, 8, 80e9,
        "NVIDIA, A100 80GB SXM data sheet (dense; float32 as TF32; NVLink 600 GB/s for both directions) and DGX A100 "
        "data sheet (eight 200 Gb/s adapters)",
    ),
    "tpu_v5e": Machine(
        {"bfloat16": 197e12, "float32": 197e12}, 200e9, 200e9, 8, 16e9,
        "Google, docs.cloud.google.com/tpu/docs/v5e (float32 in one pass of bfloat16; all-reduce 51.2 TB/s in a pod of "
        "256)",
    ),
    "tpu_v4": Machine(
        {"bfloat16": 275e12, "float32": 275e12}, 268.6e9, 268.6e9, 4, 32 * 2**30,
        "Google, docs.cloud.google.com/tpu/docs/v4 (float32 in one pass of bfloat16; all-reduce 1.1 PB/s in a pod of "
        "4096)",
    ),
}  # fmt: skip
"""Published figures."""

DATASETS: Mapping[str, tuple[int, int, int]] = {
    "digits": (1, 10, 1797),
    "mnist": (1, 10, 60_000),
    "fashion_mnist": (1, 10, 60_000),
    "cifar10": (3, 10, 50_000),
    "stacked_mnist": (3, 1000, 60_000),
    "imagenet_resized/32x32": (3, 1000, 1_281_167),
}
"""Channels, classes and examples to train on, so that a plan needs no data."""


@dataclasses.dataclass(frozen=True)
class Data:
    """What a plan has to know of a dataset."""

    image_shape: tuple[int, int, int]
    classes: int
    examples: int

    def __len__(self) -> int:
        return self.examples


class Work(NamedTuple):
    """What one turn of a config is, whatever plays it."""

    operations: Counter[str]
    """Of products, by type."""
    images: int
    """Real images."""
    image_bytes: int
    """Of one of them, decoded."""
    is_resident: bool
    """Whether the images are read once and then lie on every device."""
    gradients: int
    """Bytes of all gradients that devices add up: each player's parameters, once an update."""
    statistics: int
    """Bytes of the batch statistics that devices add up, at most, but for passes that penalties make."""
    state: states.TrainState
    """Shapes of what is kept between turns."""


class Row(NamedTuple):
    """A turn on so many devices: bytes, and seconds of each thing that could limit it."""

    devices: int
    batch: int
    compute: float
    exchanged: float
    """Bytes that each device sends."""
    exchange: float
    reading: float
    """Seconds that a host needs to read its share of a turn's images; 0 where they are resident."""
    saving: float
    """Seconds of saving that fall to a turn."""
    state_bytes: int
    """Of each device."""
    parts_bytes: int
    """The same with config.shard_state."""

    @property
    def turn(self) -> float:
        """Seconds."""
        return max(self.compute + self.exchange, self.reading, self.saving)

    @property
    def limit(self) -> str:
        """What takes longest."""
        return max("compute", "exchange", "reading", "saving", key=lambda name: getattr(self, name))


def main() -> int:
    """Parses the flags, prints the plan, and writes JSON."""
    flags = parser().parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max([1, *flags.check]))
    machine = MACHINES[flags.on]
    if flags.flops_per_second:
        machine = dataclasses.replace(machine, operations=dict.fromkeys(machine.operations, flags.flops_per_second))
    if flags.link_bytes_per_second:
        rate = flags.link_bytes_per_second
        machine = dataclasses.replace(machine, link_bytes=rate, network_bytes=rate)
    machine = dataclasses.replace(machine, hosts_of=flags.hosts_of or machine.hosts_of)
    try:
        config = load(flags.config, flags.override)
        data = data_of(config, channels=flags.channels, classes=flags.classes, examples=flags.examples)
        work = work_of(config, data)
    except (UserError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = []
    for devices in flags.devices:
        try:
            rows.append(
                row(config, work, devices, machine, share=flags.share, disk=flags.disk_bytes_per_second,
                    read=flags.read_images_per_second)
            )  # fmt: skip
        except UserError as error:
            print(f"{devices} devices: {error}")
    print(told(config, work, flags, machine, rows))
    record = {"config": flags.config, "override": flags.override, "on": flags.on, "operations": work.operations}
    record["rows"] = [{**entry._asdict(), "turn": entry.turn, "limit": entry.limit} for entry in rows]
    for devices in flags.check:
        found = collectives(compiled_turn(config, data, sharding.device_mesh(jax.devices()[:devices])))
        record.setdefault("checked", {})[devices] = found
        told_bytes = ", ".join(f"{kind} {size / 1e6:,.3f} MB" for kind, size in found.items())
        print(f"compiled for {devices} virtual devices, a turn exchanges: {told_bytes}")
    timing.write(flags.json, timing.machine() | record)
    return 0


def data_of(config: ConfigDict, *, channels: int = 0, classes: int | None = None, examples: int | None = None) -> Data:
    """What a plan knows of a config's dataset; what is given stands in place of the table's."""
    known = DATASETS.get(config.data.name, (None, None, None))
    found = (channels or config.data.channels or known[0], *(
        listed if given is None else given for given, listed in zip((classes, examples), known[1:], strict=True)
    ))  # fmt: skip
    for flag, value in zip(("--channels", "--classes", "--examples"), found, strict=True):
        if value is None:
            raise UserError(f"{flag} is missing: what is known are {', '.join(DATASETS)}, not {config.data.name!r}")
    if not config.data.image_size:
        raise UserError("config.data.image_size=() leaves the images' size open; legal: (height, width)")
    return Data((*config.data.image_size, found[0]), *found[1:])


def work_of(config: ConfigDict, data: Data) -> Work:
    """Counts a config's turn, from its program before compilation."""
    turn, given = program(config, data)
    game, shapes = turn.keywords["game"], given[0]
    players = {"generator": shapes.generator, "discriminator": shapes.discriminator}
    updates = {name: getattr(game, name).steps for name in players}
    # The vectors of a spectral normalisation are made from parameters, by every device.
    statistics = {
        name: _bytes({part: tree for part, tree in player.batch_stats.items() if part != rules.SPECTRAL_NORM})
        for name, player in players.items()
    }
    # Where a player looks at a whole batch, each pass through it, forward or back, adds up so much, at most. In D's
    # update: G forward, twice where it makes pseudo images; D forward and back, on real images and on generated ones.
    # In G's: both forward and back, D on the generated images, and forward on the real ones if the loss compares.
    in_d = (2 if game.augment.pseudo else 1) * statistics["generator"] + 4 * statistics["discriminator"]
    in_g = 2 * statistics["generator"] + 3 * statistics["discriminator"]
    return Work(
        operations=flops.by_type(functools.partial(turn, axis_name=None), *given),
        images=config.batch_size * game.discriminator.steps,
        image_bytes=math.prod(data.image_shape),
        is_resident=loop.is_resident(data, config),
        gradients=sum(updates[name] * _bytes(player.params) for name, player in players.items()),
        statistics=game.microbatches * (updates["discriminator"] * in_d + updates["generator"] * in_g),
        state=shapes,
    )


def row(
    config: ConfigDict, work: Work, devices: int, machine: Machine, *, share: float, disk: float, read: float
) -> Row:
    """A turn on so many devices, whose products run at that share of their published rate.

    `disk` are the bytes a second that all hosts together can save, `read` the images a second that one host can make
    ready; 0: any number.
    """
    mesh = AbstractMesh((devices,), (sharding.AXIS,))
    sharding.check_batch(config.batch_size, mesh)
    hosts = -(-devices // machine.hosts_of)
    whole, parts = (
        sharding.bytes_per_device(work.state, sharding.of_state(work.state, mesh, in_parts=in_parts))
        for in_parts in (False, True)
    )
    every = config.checkpoint_every or config.steps
    # In each half of a ring, adding up and handing round, a device sends (n - 1) / n of the bytes. With shard_state the
    # second half hands round the parts of the parameters: as many.
    exchanged = 2 * (devices - 1) / devices * (work.gradients + work.statistics)
    link = min(machine.link_bytes, machine.network_bytes * machine.hosts_of) if hosts > 1 else machine.link_bytes
    return Row(
        devices=devices,
        batch=config.batch_size // devices,
        compute=sum(count / machine.operations[dtype] for dtype, count in work.operations.items()) / devices / share,
        exchanged=exchanged,
        exchange=exchanged / link,
        reading=0.0 if work.is_resident or not read else work.images / hosts / read,
        saving=whole / disk / every,
        state_bytes=whole,
        parts_bytes=parts,
    )


def told(config: ConfigDict, work: Work, flags: argparse.Namespace, machine: Machine, rows: list[Row]) -> str:
    """The plan as it is printed."""
    types = ", ".join(f"{count / 1e9:,.1f} GFLOP in {dtype}" for dtype, count in work.operations.items())
    state = _bytes(work.state)
    every = config.checkpoint_every or config.steps
    lines = [
        f"{flags.config}: {config.steps:,} turns of {work.images:,} real images, {types} each",
        f"a checkpoint of {state / 1e6:,.1f} MB every {every:,} turns: {state / flags.disk_bytes_per_second:,.2f} s",
        f"a turn adds up {work.gradients / 1e6:,.1f} MB of gradients, {work.statistics / 1e6:,.2f} MB at most of batch "
        f"statistics",
        f"on {flags.on}, at {flags.share:.0%} of its rate, {machine.hosts_of} on a host: {machine.source}",
    ]
    heads = ("devices", "batch", "compute ms", "sent MB", "exchange ms", "read img/s host", "MB/s host", "saving %",
             "state MB", "in parts", "turn ms", "img/s", "efficiency", "hours", "limit")  # fmt: skip
    table = []
    for entry in rows:
        hosts = -(-entry.devices // machine.hosts_of)
        rate = work.images / entry.turn
        bytes_read = flags.encoded_bytes or work.image_bytes
        reads = ("-", "-") if work.is_resident else (f"{rate / hosts:,.0f}", f"{rate / hosts * bytes_read / 1e6:,.1f}")
        table.append(
            (entry.devices, entry.batch, f"{1e3 * entry.compute:,.2f}", f"{entry.exchanged / 1e6:,.1f}",
             f"{1e3 * entry.exchange:,.2f}", *reads, f"{entry.saving / entry.turn:.2%}",
             f"{entry.state_bytes / 1e6:,.1f}", f"{entry.parts_bytes / 1e6:,.1f}", f"{1e3 * entry.turn:,.2f}",
             f"{rate:,.0f}", f"{rows[0].turn * rows[0].devices / (entry.turn * entry.devices):.0%}",
             f"{entry.turn * config.steps / 3600:,.1f}", entry.limit)
        )  # fmt: skip
    lines.append(timing.table(heads, table))
    lines += [
        f"{entry.devices} devices: the state alone is {size / machine.memory_bytes:.0%} of a device's memory"
        for entry in rows
        if (size := entry.parts_bytes if config.shard_state else entry.state_bytes) > machine.memory_bytes / 2
    ]
    return "\n".join(lines)


def program(config: ConfigDict, data: Data) -> tuple[functools.partial, tuple]:
    """A run's turn on streamed data, without its `axis_name`, and the shapes that it is given."""
    game = rules.build(config, image_shape=data.image_shape, num_classes=data.classes)
    course = schedules.build(config)
    shapes = jax.eval_shape(functools.partial(states.create, game), course(0), np.uint32(config.seed))
    batches = (game.discriminator.steps, config.batch_size)
    arrays = {
        "image": jax.ShapeDtypeStruct((*batches, *data.image_shape), np.uint8),
        "label": jax.ShapeDtypeStruct(batches, np.int32),
    }
    rows = jax.ShapeDtypeStruct((config.batch_size,), np.int32)
    turn = functools.partial(loop.turn, game=game, course=course, batch_of=_as_given)
    return turn, (shapes, arrays, rows, loop.numbers_of(config, course))


def compiled_turn(config: ConfigDict, data: Data, mesh: Mesh) -> str:
    """The program of a config's turn, as it is compiled for these devices."""
    turn, (shapes, arrays, _, numbers) = program(config, data)
    game = loop.as_played(turn.keywords["game"], config, mesh)
    layout = sharding.of_state(shapes, mesh, in_parts=config.shard_state)
    turns = sharding.compile_turns(
        functools.partial(turn, game=game),
        mesh,
        wrapper=config.parallel,
        batch_size=config.batch_size,
        data_axis=1,
        most=1,
        numbers=numbers,
        layout=layout,
    )
    given = sharding.abstract((shapes, arrays), (layout, sharding.split_rows(mesh, 1)))
    return jax.jit(lambda state, data: turns(state, data, 1)).lower(*given).compile().as_text()


def collectives(text: str) -> Counter[str]:
    """The bytes of all arrays that a compiled program exchanges, by the kind of exchange, as XLA prints it.

    What is inside a loop is counted as often as the loop is played, of branches the one that exchanges most.
    """
    bodies: dict[str, list[str]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = head[2]
            entry, bodies[name] = name if head[1] else entry, []
        elif name:
            bodies[name].append(line)

    @functools.cache
    def inside(name: str) -> Counter[str]:
        total = Counter()
        for line in bodies[name]:
            if found := re.search(rf" = (.*?) ({'|'.join(COLLECTIVES)})\(", line):
                total[found[2]] += _printed_bytes(found[1])
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            for called in re.findall(r"(?:body|to_apply|calls)=%?([\w.-]+)", line):
                for kind, size in inside(called).items():
                    total[kind] += size * (int(trips[1]) if trips else 1)
            several = re.search(r"branch_computations=\{(.*?)\}", line)
            two = re.findall(r"(?:true|false)_computation=%?([\w.-]+)", line)
            if branches := re.findall(r"[\w.-]+", several[1]) if several else two:
                total += max(map(inside, branches), key=Counter.total)
        return total

    return inside(entry)


COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_ITEMS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}


def _printed_bytes(shapes: str) -> int:
    """Of `f32[4,8]{1,0}`, or of `(f32[4]{0}, s32[])`."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    return sum(_ITEMS[dtype] * math.prod(int(size) for size in sizes.split(",") if size) for dtype, sizes in arrays)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _as_given(arrays: dict, seed: Array, step: Array, rows: Array, batches: int) -> dict:
    return arrays


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--config", required=True, help="FILE or FILE:ARG")
    flags.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE")
    flags.add_argument("--devices", nargs="+", type=_positive(int), default=[1, 8, 64, 256])
    flags.add_argument("--on", default="h100", choices=list(MACHINES))
    flags.add_argument("--hosts-of", type=_positive(int), help="devices on a host, if not the machine's own")
    flags.add_argument("--flops-per-second", type=_positive(float), help="of a device, in place of the machine's")
    flags.add_argument("--share", type=_positive(float), default=0.3, help="of that rate that products run at")
    flags.add_argument("--link-bytes-per-second", type=_positive(float), help="that a device sends, likewise")
    flags.add_argument("--disk-bytes-per-second", type=_positive(float), default=1e9, help="of all hosts together")
    flags.add_argument("--read-images-per-second", type=float, default=0.0, help="of one host; 0: any number")
    flags.add_argument("--encoded-bytes", type=int, default=0, help="of an image as it is stored; 0: decoded")
    flags.add_argument("--channels", type=int, default=0, help="of the images, where the dataset is not known")
    flags.add_argument("--classes", type=int, help="of the dataset, likewise; 0: none")
    flags.add_argument("--examples", type=_positive(int), help="of the dataset, likewise")
    flags.add_argument(
        "--check", nargs="*", type=_positive(int), default=[], help="compile for so many virtual devices, and count"
    )
    flags.add_argument("--json", type=Path)
    return flags


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return number


if __name__ == "__main__":
    sys.exit(main())
