"""The communication of a step, and the time of everything that could limit it."""

import argparse
from typing import NamedTuple

from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from experiments.benchmarks import timing
from experiments.plan.machines import Machine
from experiments.plan.work import Work, tree_bytes
from gan.parallel import sharding


class Row(NamedTuple):
    """A step on a number of devices: bytes, and the seconds of everything that could limit it."""

    devices: int
    batch: int
    compute: float
    exchanged: float
    """Bytes that each device sends."""
    exchange: float
    reading: float
    """Seconds that a host needs to read its share of a step's images; 0 if they are resident."""
    saving: float
    """Seconds of saving, per step."""
    state_bytes: int
    """Of each device."""
    sharded_state_bytes: int
    """The same with config.shard_state."""

    @property
    def step(self) -> float:
        """Seconds."""
        return max(self.compute + self.exchange, self.reading, self.saving)

    @property
    def limit(self) -> str:
        """What takes longest."""
        return max("compute", "exchange", "reading", "saving", key=lambda name: getattr(self, name))


def row(
    config: ConfigDict, work: Work, devices: int, machine: Machine, *, share: float, disk: float, read: float
) -> Row:
    """Estimates a step on a number of devices, whose products achieve `share` of the published rate.

    `disk` is the bytes per second that all hosts together can save, `read` the images per second that one host can
    read and decode; 0: unlimited.
    """
    mesh = AbstractMesh((devices,), (sharding.AXIS,))
    sharding.check_batch(config.batch_size, mesh)
    hosts = -(-devices // machine.hosts_of)
    replicated, sharded = (
        sharding.bytes_per_device(work.state, sharding.state_sharding(work.state, mesh, sharded=is_sharded))
        for is_sharded in (False, True)
    )
    every = config.checkpoint_every or config.steps
    # In each half of a ring all-reduce, a device sends (n - 1) / n of the bytes. With shard_state, the second half is
    # an all-gather of the parameters: as many bytes.
    exchanged = 2 * (devices - 1) / devices * (work.gradients + work.statistics)
    link = min(machine.link_bytes, machine.network_bytes * machine.hosts_of) if hosts > 1 else machine.link_bytes
    return Row(
        devices=devices,
        batch=config.batch_size // devices,
        compute=sum(count / machine.operations[dtype] for dtype, count in work.operations.items()) / devices / share,
        exchanged=exchanged,
        exchange=exchanged / link,
        reading=0.0 if work.is_resident or not read else work.images / hosts / read,
        saving=replicated / disk / every,
        state_bytes=replicated,
        sharded_state_bytes=sharded,
    )


def format_plan(
    config: ConfigDict, work: Work, flags: argparse.Namespace, on: str, machine: Machine, rows: list[Row]
) -> str:
    """Formats the plan."""
    types = ", ".join(f"{count / 1e9:,.1f} GFLOP in {dtype}" for dtype, count in work.operations.items())
    state = tree_bytes(work.state)
    every = config.checkpoint_every or config.steps
    lines = [
        f"{flags.config}: {config.steps:,} steps of {work.images:,} real images, {types} each",
        f"a checkpoint of {state / 1e6:,.1f} MB every {every:,} steps: {state / flags.disk_bytes_per_second:,.2f} s",
        f"a step sums {work.gradients / 1e6:,.1f} MB of gradients, {work.statistics / 1e6:,.2f} MB at most of batch "
        f"statistics over devices",
        f"on {on}, at {flags.share:.0%} of its rate, {machine.hosts_of} on a host: {machine.source}",
    ]
    heads = ("devices", "batch", "compute ms", "sent MB", "exchange ms", "read img/s host", "MB/s host", "saving %",
             "state MB", "sharded", "step ms", "img/s", "efficiency", "hours", "limit")  # fmt: skip
    table = []
    for entry in rows:
        hosts = -(-entry.devices // machine.hosts_of)
        rate = work.images / entry.step
        bytes_read = flags.encoded_bytes or work.image_bytes
        reads = ("-", "-") if work.is_resident else (f"{rate / hosts:,.0f}", f"{rate / hosts * bytes_read / 1e6:,.1f}")
        table.append(
            (entry.devices, entry.batch, f"{1e3 * entry.compute:,.2f}", f"{entry.exchanged / 1e6:,.1f}",
             f"{1e3 * entry.exchange:,.2f}", *reads, f"{entry.saving / entry.step:.2%}",
             f"{entry.state_bytes / 1e6:,.1f}", f"{entry.sharded_state_bytes / 1e6:,.1f}", f"{1e3 * entry.step:,.2f}",
             f"{rate:,.0f}", f"{rows[0].step * rows[0].devices / (entry.step * entry.devices):.0%}",
             f"{entry.step * config.steps / 3600:,.1f}", entry.limit)
        )  # fmt: skip
    lines.append(timing.table(heads, table))
    lines += [
        f"{entry.devices} devices: the state alone takes {size / machine.memory_bytes:.0%} of a device's memory"
        for entry in rows
        if (size := entry.sharded_state_bytes if config.shard_state else entry.state_bytes) > machine.memory_bytes / 2
    ]
    return "\n".join(lines)
