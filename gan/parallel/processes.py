"""The processes of a multi-process run, on one machine or several: initialization, collectives, shutdown and failures.

The work is done by JAX's runtime, `jax.distributed` and `multihost_utils`. Every process runs the same program, and
only the primary process, number 0, writes files. With one process every function here returns at once.

Each collective is a compiled function of its own. None may be called while a training step is running: on CPUs two
functions that communicate at the same time receive each other's bytes.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from gan.errors import Reported, UserError, report

T = TypeVar("T")

LOST = 4
"""The exit status of a process after another process of the run was lost."""

INITIALIZATION_SECONDS = 300
"""How long processes wait for each other when the run starts."""

SILENCE_SECONDS = 40
"""A process that does not respond for so long is lost."""

POLL_SECONDS = 5
"""The time between two checks that all processes are alive."""

_shutting_down = threading.Event()


def initialize(coordinator: str | None = None, processes: int | None = None, index: int | None = None) -> None:
    """Connects this process to the others of the run. Call it before anything else of JAX.

    Arguments that are None are detected from the environment: Slurm, Kubernetes (a Job or a JobSet, with the package
    kubernetes installed), a TPU pod, or Open MPI.

    Args:
      coordinator: HOST:PORT of the coordinator, on the host of process 0.
      processes: the number of processes.
      index: of this process, 0 .. processes - 1.

    Raises `UserError` where there is no such environment. Where the others do not connect within
    INITIALIZATION_SECONDS, the process ends with exit status 2.
    """
    # Without this, the loss of any process ends all others in the C++ runtime with a stack trace and no message. With
    # it, that of process 0 still can: see `_on_abort`.
    jax.config.update("jax_enable_recoverability", True)
    # JAX's preemption service handles SIGTERM and agrees on a step. But Orbax also asks it, about other steps and from
    # a thread of its own, and the agreement can then be missed.
    jax.config.update("jax_enable_preemption_service", False)
    # On CPUs XLA's concurrency scheduler may order the collectives differently in each process, which then receive each
    # other's bytes.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_enable_concurrency_optimized_scheduler=false"
    # If the others never connect, the C++ runtime ends this process; this timer reports it first.
    absent = threading.Timer(INITIALIZATION_SECONDS, _report_absence, [coordinator])
    absent.daemon = True
    absent.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            index,
            # With all three given, JAX's detection is not needed, and it would assign one device to each process.
            cluster_detection_method=None if coordinator is None else "deactivate",
            initialization_timeout=2 * INITIALIZATION_SECONDS,
            # By default the runtime listens on all addresses of the host of process 0.
            coordinator_bind_address=coordinator if _is_loopback(coordinator) else None,
            heartbeat_timeout_seconds=2 * SILENCE_SECONDS,  # after which the C++ runtime ends this process
        )
    except ValueError as error:
        raise UserError(
            f"--multihost: neither Slurm, Kubernetes, a TPU pod nor Open MPI was detected "
            f"({_first_line(error)}); expected: --coordinator=HOST:PORT --num_processes=N --process_id=0 .. N-1"
        ) from error
    except RuntimeError as error:  # raised by the runtime, for example for an address in use
        raise UserError(f"--coordinator={coordinator}: {_first_line(error)}") from error
    finally:
        absent.cancel()
    if jax.process_count() > 1:
        if not is_primary():
            ctypes.pythonapi.PyOS_setsig(signal.SIGABRT, _on_abort)
        _watch.start()


def process_count() -> int:
    """The number of processes of the run."""
    return jax.process_count()


def is_primary() -> bool:
    """Whether this is process 0, which writes the metrics and images of the run."""
    return jax.process_index() == 0


def broadcast_from_primary(action: Callable[[], T]) -> T:
    """Runs `action` on the primary process and returns its result on all. A collective: all processes must call it.

    With several processes the result must be JSON. A `UserError` is raised on all and reported by the primary process.
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
    """Runs `action` on every process, first on the primary one: the others then find its files on a shared disk."""
    if process_count() == 1:
        return action()
    results = []
    broadcast_from_primary(lambda: results.append(action()))
    return results[0] if is_primary() else action()


def all_succeed(succeeded: bool) -> bool:
    """Whether something succeeded on every process. A collective: all processes must call it."""
    return not process_max(not succeeded)


def process_max(number: int) -> int:
    """The maximum of a number over the processes. A collective: all processes must call it."""
    return int(np.max(multihost_utils.process_allgather(np.int32(number)))) if process_count() > 1 else number


def shutdown() -> None:
    """Waits for all processes; then each may end. The primary process, which coordinates, ends last."""
    if process_count() == 1:
        return
    multihost_utils.sync_global_devices("the end of a run")
    _shutting_down.set()
    if is_primary():
        _watch.join()  # until the other processes have ended
    jax.distributed.shutdown()
    _watch.join()


def abort(status: int) -> None:
    """Ends this process at once, without waiting for its threads, which may be blocked in the runtime."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def is_peer_failure(error: BaseException) -> bool:
    """Whether an exception was caused by the loss of another process."""
    if process_count() == 1:
        return False
    is_from_runtime = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
    return is_from_runtime and any(sign in str(error) for sign in ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "NCCL"))


def report_loss(reason: str) -> None:
    """Reports the loss of another process, and ends this one at once with the exit status LOST."""
    print(
        f"process {jax.process_index()} of {process_count()}: another process of the run was lost ({reason}). "
        f"Run the same command, with any number of processes, to resume from the last checkpoint",
        file=sys.stderr,
    )
    abort(LOST)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    """Handles SIGABRT, by which the C++ runtime ends this process where it finds before us that process 0 is lost.

    A handler of Python's would be called by the main thread, to which an abort does not return; this one is C's. While
    process 0 can be reached the abort has another cause, and goes on.
    """
    host, _, port = str(distributed.global_state.coordinator_address).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError as error:
        if not _shutting_down.is_set():
            report_loss(f"process 0: {_first_line(error)}")


def _is_loopback(address: str | None) -> bool:
    return address is not None and address.rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]")


def _report_absence(coordinator: str | None) -> None:
    flag = f"--coordinator={coordinator}" if coordinator else "--multihost"
    abort(report(f"{flag}: not all processes of the run connected within {INITIALIZATION_SECONDS} seconds"))


def _watch_peers() -> None:
    """Ends this process when another one is lost: a collective in the main thread may wait for it forever.

    Each check is a barrier of the processes that the runtime believes to be alive. During the shutdown the primary
    process continues to check until it is the only one.
    """
    everyone = {device.process_index for device in jax.devices()}
    while is_primary() or not _shutting_down.is_set():
        _shutting_down.wait(POLL_SECONDS)
        silence = threading.Timer(SILENCE_SECONDS, _report_silence)
        silence.daemon = True
        silence.start()
        try:
            with multihost_utils.live_devices(jax.devices()) as devices:
                live = {device.process_index for device in devices}
            reason = f"process {', '.join(map(str, sorted(everyone - live)))}"
        except Exception as error:  # the runtime raises various types when its coordinator, process 0, is lost
            live, reason = {jax.process_index()}, _first_line(error)
        finally:
            silence.cancel()
        if live < everyone and not _shutting_down.is_set():
            report_loss(reason)
        if live == {jax.process_index()}:
            return


def _report_silence() -> None:
    if not _shutting_down.is_set():
        report_loss(f"silent for {SILENCE_SECONDS} seconds")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


_watch = threading.Thread(target=_watch_peers, daemon=True)
