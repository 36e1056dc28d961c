"""The flags of a plan, and its output."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax

from experiments import cli, plan
from experiments.benchmarks import timing
from experiments.benchmarks.systems import load
from experiments.plan import compile as ahead
from experiments.plan.hlo import exchanged_bytes, parse
from experiments.plan.machines import MACHINES, Machine
from experiments.plan.targets import describe, target_of
from experiments.plan.traffic import format_plan, row
from experiments.plan.work import data_of, work_of
from gan.errors import UserError
from gan.parallel import sharding


def main() -> int:
    """Parses the flags, prints the plan, and writes JSON."""
    flags = parser().parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max([1, *flags.check]))
    try:
        record = planned(flags)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    timing.write(flags.json, timing.machine() | record)
    return 0


def planned(flags: argparse.Namespace) -> dict:
    """Prints the plan, and returns its JSON record."""
    target = target_of(flags.compile) if flags.compile else None
    described = describe(target) if target else []
    on = flags.on or (target and target.machine) or "h100"
    machine = machine_of(flags, MACHINES[on])
    config = load(flags.config, flags.override)
    data = data_of(config, channels=flags.channels, classes=flags.classes, examples=flags.examples)
    work = work_of(config, data)
    rows = []
    for devices in flags.devices:
        try:
            rows.append(
                row(config, work, devices, machine, share=flags.share, disk=flags.disk_bytes_per_second,
                    read=flags.read_images_per_second)
            )  # fmt: skip
        except UserError as error:
            print(f"{devices} devices: {error}")
    print(format_plan(config, work, flags, on, machine, rows))
    record = {"config": flags.config, "override": flags.override, "on": on, "operations": work.operations}
    record["rows"] = [{**entry._asdict(), "step": entry.step, "limit": entry.limit} for entry in rows]
    for devices in flags.check:
        mesh = sharding.device_mesh(jax.devices()[:devices])
        found = exchanged_bytes(parse(ahead.compiled_text(config, data, mesh)))
        record.setdefault("checked", {})[devices] = found
        sizes = ", ".join(f"{kind} {size / 1e6:,.3f} MB" for kind, size in found.items())
        print(f"compiled for {devices} virtual devices, a step exchanges: {sizes}")
    if target:
        compiled = ahead.compile_ahead(config, data, target, described)
        print(ahead.format_compiled(target.name, compiled))
        if flags.hlo:
            flags.hlo.write_text(compiled.text)
        record |= {"target": target.name} | ahead.record(compiled)
    return record


def machine_of(flags: argparse.Namespace, machine: Machine) -> Machine:
    """The machine, with rates replaced by those of the flags."""
    if flags.flops_per_second:
        machine = dataclasses.replace(machine, operations=dict.fromkeys(machine.operations, flags.flops_per_second))
    if flags.link_bytes_per_second:
        rate = flags.link_bytes_per_second
        machine = dataclasses.replace(machine, link_bytes=rate, network_bytes=rate)
    return dataclasses.replace(machine, hosts_of=flags.hosts_of or machine.hosts_of)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = cli.Parser(description=plan.__doc__)
    flags.add_argument("--config", required=True, help="FILE or FILE:ARG")
    flags.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE")
    flags.add_argument("--devices", nargs="+", type=_positive(int), default=[1, 8, 64, 256])
    flags.add_argument("--on", choices=list(MACHINES), help="default: the machine of --compile, or h100")
    flags.add_argument("--hosts-of", type=_positive(int), help="devices of a host; default: the machine's")
    flags.add_argument("--flops-per-second", type=_positive(float), help="of a device; default: the machine's")
    flags.add_argument("--share", type=_positive(float), default=0.3, help="the achieved share of that rate")
    flags.add_argument(
        "--link-bytes-per-second", type=_positive(float), help="that a device sends; default: the machine's"
    )
    flags.add_argument("--disk-bytes-per-second", type=_positive(float), default=1e9, help="of all hosts together")
    flags.add_argument("--read-images-per-second", type=float, default=0.0, help="read speed of one host; 0: unlimited")
    flags.add_argument("--encoded-bytes", type=int, default=0, help="size of a stored image; 0: decoded")
    flags.add_argument("--channels", type=int, default=0, help="of a dataset that is not in the table")
    flags.add_argument("--classes", type=int, help="of such a dataset; 0: none")
    flags.add_argument("--examples", type=_positive(int), help="of such a dataset")
    flags.add_argument(
        "--check",
        nargs="*",
        type=_positive(int),
        default=[],
        help="compile for this many virtual devices, and count bytes",
    )
    flags.add_argument(
        "--compile",
        metavar="TARGET",
        help="also compile for h100, h100x8 or v5e:2x2, which need not be present",
    )
    flags.add_argument("--hlo", type=Path, help="write the compiled HLO of --compile to this file")
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
    cli.run(main)
