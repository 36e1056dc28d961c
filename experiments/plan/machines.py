"""Published rates and memory sizes of accelerators."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Machine:
    """An accelerator, its links and its host. Rates are per second."""

    operations: Mapping[str, float]
    """Peak floating point operations by dtype, at JAX's default precision."""
    link_bytes: float
    """What a device can send to others of its host or pod, while it receives as much."""
    network_bytes: float
    """What a host can send to other hosts, per device."""
    hosts_of: int
    """Devices of a host."""
    memory_bytes: float
    """Memory of a device."""
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
"""Machines by the names of --on."""
