"""Processes that play one run together, on one machine or on many: how they join, agree, and part. Below all.

JAX's own runtime does the work, `jax.distributed` and `multihost_utils`. Every process runs the same program; the first
one alone writes what is written once. With one process all of this is nothing.

What is asked here of all processes is a program of its own. None may be asked for while a turn is still being played:
on a CPU two programs that exchange something at the same time take each other's bytes.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from gan.errors import Reported, UserError

T = TypeVar("T")

LOST = 4
"""The exit status of a process that lost another one."""

JOIN_SECONDS = 300
"""How long processes wait for each other at the start."""

SILENCE_SECONDS = 40
"""A process that has not been met for so long is lost."""

LOOK_SECONDS = 5
"""From one look after the others to the next."""

_parting = threading.Event()


def initialize(coordinator: str | None = None, processes: int | None = None, index: int | None = None) -> None:
    """Makes this process one of a run's, before JAX does anything else.

    What is None is found from the environment: of Slurm, Kubernetes (a Job or a JobSet, with the package kubernetes
    installed), a TPU pod, or Open MPI.

    Args:
      coordinator: HOST:PORT at which all meet; on the first process's host.
      processes: how many there are.
      index: this one's number, 0 .. processes - 1.

    Raises `UserError` where there is no such environment, or where the others do not come in JOIN_SECONDS.
    """
    # A lost process would otherwise end all others in the runtime's C++, with a stack trace and no word of the run.
    jax.config.update("jax_enable_recoverability", True)
    # Its preemption service would take SIGTERM for itself, and agree on a step; but Orbax asks it of other steps, from
    # a thread of its own, and an agreement can then be missed.
    jax.config.update("jax_enable_preemption_service", False)
    # On CPUs XLA's scheduler for concurrency may have the processes exchange in different orders: they take each
    # other's bytes for their own.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_enable_concurrency_optimized_scheduler=false"
    # Others that never come would end this process in the same way: told here, before the runtime's patience ends.
    absent = threading.Timer(JOIN_SECONDS, _report_absence, [coordinator])
    absent.daemon = True
    absent.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            index,
            # Given all three, nothing is to be detected; else JAX would, and give each process one device.
            cluster_detection_method=None if coordinator is None else "deactivate",
            initialization_timeout=2 * JOIN_SECONDS,
            # The runtime listens on all addresses of the first host, unless it is told one.
            coordinator_bind_address=coordinator if _is_loopback(coordinator) else None,
            heartbeat_timeout_seconds=2 * SILENCE_SECONDS,  # and then it ends this process, again in C++
        )
    except ValueError as error:
        raise UserError(
            f"--multihost: no environment of Slurm, Kubernetes, a TPU pod or Open MPI tells of the other processes "
            f"({_first_line(error)}); expected: --coordinator=HOST:PORT --num_processes=N --process_id=0 .. N-1"
        ) from error
    except RuntimeError as error:  # of the runtime: an address that is taken, say
        raise UserError(f"--coordinator={coordinator}: {_first_line(error)}") from error
    finally:
        absent.cancel()
    if jax.process_count() > 1:
        _watch.start()


def process_count() -> int:
    """How many processes play the run."""
    return jax.process_count()


def is_primary() -> bool:
    """Whether this is the process that writes the run's figures and pictures."""
    return jax.process_index() == 0


def broadcast_from_primary(action: Callable[[], T]) -> T:
    """What `action()` gives on the first process, on all of them; all must come here. JSON, where there are several.

    Its `UserError` is raised on all, and told to the user by the first.
    """
    if process_count() == 1:
        return action()
    outcome: dict[str, Any] = {}
    failure = None
    if is_primary():
        try:
            outcome = {"value": action()}
        except UserError as error:
            failure, outcome = error, {"error": str(error)}
    text = np.frombuffer(json.dumps(outcome).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = multihost_utils.broadcast_one_to_all(np.resize(text, size))
    outcome = json.loads(bytes(text))
    if failure is not None:
        raise failure
    if "error" in outcome:
        raise Reported(outcome["error"])
    return outcome["value"]


def primary_first(action: Callable[[], T]) -> T:
    """What `action()` gives each process: the first goes ahead, so that what it leaves on a shared disk is whole."""
    if process_count() == 1:
        return action()
    given = []
    broadcast_from_primary(lambda: given.append(action()))
    return given[0] if is_primary() else action()


def all_succeed(succeeded: bool) -> bool:
    """Whether something succeeded on every process; all must come here."""
    return not process_max(not succeeded)


def process_max(number: int) -> int:
    """The largest of the processes' numbers; all must come here."""
    return int(np.max(multihost_utils.process_allgather(np.int32(number)))) if process_count() > 1 else number


def shutdown() -> None:
    """Waits until all are here, from where each may end; the first, at which they meet, ends last."""
    if process_count() == 1:
        return
    multihost_utils.sync_global_devices("the end of a run")
    _parting.set()
    if is_primary():
        _watch.join()  # until it is alone
    jax.distributed.shutdown()
    _watch.join()


def abort(status: int) -> None:
    """Ends this process at once, whatever the others do: no thread of it that stands in the runtime is waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def is_peer_failure(error: BaseException) -> bool:
    """Whether an exception of a run says that another process is no more."""
    if process_count() == 1:
        return False
    runtime = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
    return runtime and any(sign in str(error) for sign in ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "NCCL"))


def report_loss(reason: str) -> None:
    """Ends this process at once: the others cannot be waited for."""
    print(
        f"process {jax.process_index()} of {process_count()}: another process of the run was lost ({reason}). "
        f"The same command, of any number of processes, goes on from the last checkpoint",
        file=sys.stderr,
    )
    abort(LOST)


def _is_loopback(place: str | None) -> bool:
    return place is not None and place.rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]")


def _report_absence(coordinator: str | None) -> None:
    place = f"--coordinator={coordinator}" if coordinator else "--multihost"
    print(f"error: {place}: not all processes of the run came in {JOIN_SECONDS} seconds", file=sys.stderr)
    abort(2)


def _watch_peers() -> None:
    """Ends this process should another be lost while an operation of all hangs, as some do where one is missing.

    To look is to meet all others that the runtime takes for alive. When they part, the first looks until it is alone.
    """
    everyone = {device.process_index for device in jax.devices()}
    while is_primary() or not _parting.is_set():
        _parting.wait(LOOK_SECONDS)
        silence = threading.Timer(SILENCE_SECONDS, _report_silence)
        silence.daemon = True
        silence.start()
        try:
            with multihost_utils.live_devices(jax.devices()) as devices:
                live = {device.process_index for device in devices}
            reason = f"number {', '.join(map(str, sorted(everyone - live)))}"
        except Exception as error:  # whatever the runtime raises where its own place, the first process, is gone
            live, reason = {jax.process_index()}, _first_line(error)
        finally:
            silence.cancel()
        if live < everyone and not _parting.is_set():
            report_loss(reason)
        if live == {jax.process_index()}:
            return


def _report_silence() -> None:
    if not _parting.is_set():
        report_loss(f"silent for {SILENCE_SECONDS} seconds")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


_watch = threading.Thread(target=_watch_peers, daemon=True)
