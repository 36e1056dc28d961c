"""`--mode=train`: trains a run in one process, or as one of several processes."""

import logging
import traceback
from pathlib import Path

from ml_collections import ConfigDict

from gan.cli import flags
from gan.errors import Diverged, Reported, UserError, machine_failure, report


def run(config: ConfigDict, workdir: Path, launched: float) -> int:
    """Trains the run, or resumes it, and returns the exit status.

    Args:
      config: of the run.
      workdir: the folder of the run.
      launched: the time of launch by `time.monotonic`, from which the `seconds` of metrics.jsonl count.
    """
    multi_process = _is_multi_process()  # before JAX is loaded: it raises for flags in error
    from gan.train import loop

    if multi_process:
        return _train_as_process(config, workdir, launched)
    return loop.train(config, workdir, launched)


def _is_multi_process() -> bool:
    """Whether other processes train the run too. Raises `UserError` where the flags do not fit together."""
    coordinator, count, index = flags.COORDINATOR.value, flags.NUM_PROCESSES.value, flags.PROCESS_ID.value
    given = {"--coordinator": coordinator, "--num_processes": count, "--process_id": index}
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) == len(given):
        return flags.MULTIHOST.value
    if coordinator is None or count is None or index is None:
        raise UserError(f"{missing[0]} is missing; expected: --coordinator, --num_processes and --process_id together")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator={coordinator} is invalid; expected: HOST:PORT")
    if index >= count:
        raise UserError(f"--process_id={index} is invalid; expected: 0 .. {count - 1}")
    return True


def _train_as_process(config: ConfigDict, workdir: Path, launched: float) -> int:
    """Trains as one process of several. A process that fails ends at once: the others cannot be waited for."""
    from gan.parallel import processes
    from gan.train import loop

    processes.initialize(flags.COORDINATOR.value, flags.NUM_PROCESSES.value, flags.PROCESS_ID.value)
    if not processes.is_primary():
        logging.getLogger("gan").setLevel(logging.ERROR)  # every process would log the same lines
    try:
        status = loop.train(config, workdir, launched)
    except Diverged:  # in every process
        processes.shutdown()
        raise
    except Reported:
        processes.abort(2)
    except UserError as error:
        processes.abort(report(error))
    except Exception as error:
        if processes.is_peer_failure(error):
            processes.report_loss(str(error).splitlines()[0])
        if line := machine_failure(error, str(workdir)):
            processes.abort(report(line))
        traceback.print_exc()
        processes.abort(1)
    processes.shutdown()
    return status
