"""Targets to compile a step for: GPUs of one host, or a slice of TPUs. None of them need be present.

JAX's plugins compile for a described device (`jax.experimental.topologies`) without a driver or a device.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re
from pathlib import Path

import jax
from jax.experimental import topologies

from experiments.plan.machines import MACHINES
from gan.errors import UserError

GPUS = {"h100": Path(__file__).with_name("h100.txtpb")}
"""Descriptions of GPUs, which XLA prints on a machine that has one (`GpuTargetConfigProto`)."""
TPUS = {"v4": "tpu_v4", "v5e": "tpu_v5e"}
"""The machine of MACHINES for each TPU generation, by libtpu's name."""
EXPECTED = (
    f"expected {', '.join(GPUS)}, h100x2 to h100x{MACHINES['h100'].hosts_of} (GPUs of one host), or a slice of TPUs as "
    f"libtpu names it (v5e:2x2, v4:2x2x1, v5p:2x2x1)"
)
OPTIONS = {
    "cuda": {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False},  # both need a device for autotuning
    "tpu": {},
}
"""XLA options for a device that is only described, passed to each compilation."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A target of `--compile`."""

    name: str
    platform: str
    """"cuda" or "tpu"."""
    machine: str
    """A name of MACHINES, or "" for TPUs that are not in it."""
    gpus: int

    @property
    def memory_bytes(self) -> float | None:
        """Of one device, or None if it is not in MACHINES."""
        return MACHINES[self.machine].memory_bytes if self.machine else None


def plugin_is_installed(platform: str) -> bool:
    """Whether JAX's plugin for "cuda" or "tpu" is installed: `pip install '.[cuda]'` or `'.[tpu]'` in a checkout."""
    if platform == "tpu":
        return importlib.util.find_spec("libtpu") is not None
    return any(plugin.name.startswith("xla_cuda") for plugin in importlib.metadata.entry_points(group="jax_plugins"))


def target_of(name: str) -> Target:
    """The target of `--compile=NAME`. Raises `UserError` if it is unknown, or if its plugin is not installed."""
    if ":" in name:
        target = Target(name, "tpu", TPUS.get(name.partition(":")[0], ""), 0)
    else:
        machine, count = re.fullmatch(r"(.*?)(?:x(\d{1,3}))?", name, re.DOTALL).groups()
        target = Target(name, "cuda", machine, int(count or 1))
        if machine not in GPUS or not 1 <= target.gpus <= MACHINES[machine].hosts_of:
            raise UserError(f"--compile={name} is unknown: {EXPECTED}")
    if not plugin_is_installed(target.platform):
        raise UserError(
            f"--compile={name} needs JAX's plugin for {target.platform.upper()}, but no device: "
            f"pip install '.[{target.platform}]' in a checkout"
        )
    return target


def describe(target: Target) -> list[jax.Device]:
    """The devices of a target, which need not be present.

    To be called before JAX runs anything: its plugins read the environment once, when they are loaded.
    """
    jax.config.update("jax_platforms", "cpu")  # devices that are present are not used
    jax.config.update("jax_enable_compilation_cache", False)  # a cached program takes no time to compile
    # There may be no CUDA driver to check. libtpu fails if it cannot find out which host this is, and if another
    # process has loaded it, although neither uses a device.
    for name, value in (("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1"), ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
                        ("TPU_WORKER_HOSTNAMES", "localhost"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")):  # fmt: skip
        os.environ.setdefault(name, value)
    try:
        if target.platform == "tpu":
            # JAX shows the two cores of a v4 as one device; libtpu does so on request.
            cores = {"chip_config_name": "megacore"} if target.machine == "tpu_v4" else {}
            return list(topologies.get_topology_desc(target.name, "tpu", **cores).devices)
        description = GPUS[target.machine].read_text()
        topology = f"1x1x{target.gpus}"
        return list(topologies.get_topology_desc("", "cuda", target_config=description, topology=topology).devices)
    except NotImplementedError as error:
        raise UserError(f"--compile={target.name}: JAX's plugin is installed but was not loaded: {error}") from error
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise
        raise UserError(f"--compile={target.name} is unknown: {EXPECTED}; libtpu: {error}") from error
