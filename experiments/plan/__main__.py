"""The flags of a plan, and what it prints and writes."""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import jax

from experiments import plan
from experiments.benchmarks import timing
from experiments.benchmarks.systems import load
from experiments.plan import compile as ahead
from experiments.plan.hlo import exchanged_bytes, parse
from experiments.plan.machines import MACHINES, Machine
from experiments.plan.targets import describe, target_of
from experiments.plan.traffic import row, told
from experiments.plan.work import data_of, work_of
from gan.errors import UserError, report
from gan.parallel import sharding


def main() -> int:
    """Parses the flags, prints the plan, and writes JSON."""
    flags = parser().parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max([1, *flags.check]))
    try:
        record = planned(flags)
    except (UserError, ValueError, OSError) as error:
        return report(error)
    timing.write(flags.json, timing.machine() | record)
    return 0


def planned(flags: argparse.Namespace) -> dict:
    """Prints the plan that the flags ask for, and returns it as JSON holds it."""
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
    print(told(config, work, flags, on, machine, rows))
    record = {"config": flags.config, "override": flags.override, "on": on, "operations": work.operations}
    record["rows"] = [{**entry._asdict(), "turn": entry.turn, "limit": entry.limit} for entry in rows]
    for devices in flags.check:
        mesh = sharding.device_mesh(jax.devices()[:devices])
        found = exchanged_bytes(parse(ahead.compiled_text(config, data, mesh)))
        record.setdefault("checked", {})[devices] = found
        told_bytes = ", ".join(f"{kind} {size / 1e6:,.3f} MB" for kind, size in found.items())
        print(f"compiled for {devices} virtual devices, a turn exchanges: {told_bytes}")
    if target:
        compiled = ahead.compile_ahead(config, data, target, described)
        print(ahead.printed(target.name, compiled))
        if flags.hlo:
            flags.hlo.write_text(compiled.text)
        record |= {"target": target.name} | ahead.record(compiled)
    return record


def machine_of(flags: argparse.Namespace, machine: Machine) -> Machine:
    """The machine, with the rates that the flags give in place of its own."""
    if flags.flops_per_second:
        machine = dataclasses.replace(machine, operations=dict.fromkeys(machine.operations, flags.flops_per_second))
    if flags.link_bytes_per_second:
        rate = flags.link_bytes_per_second
        machine = dataclasses.replace(machine, link_bytes=rate, network_bytes=rate)
    return dataclasses.replace(machine, hosts_of=flags.hosts_of or machine.hosts_of)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(description=plan.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--config", required=True, help="FILE or FILE:ARG")
    flags.add_argument("--override", nargs="*", default=[], help="FIELD=VALUE")
    flags.add_argument("--devices", nargs="+", type=_positive(int), default=[1, 8, 64, 256])
    flags.add_argument("--on", choices=list(MACHINES), help="default: what --compile names, or h100")
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
    flags.add_argument(
        "--compile",
        metavar="TARGET",
        help="also compile for h100, h100x8 or v5e:2x2, none of which has to be there",
    )
    flags.add_argument("--hlo", type=Path, help="write the program that --compile made there")
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
