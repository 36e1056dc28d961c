"""Stages for the tests of experiments.on_gpu's driver: one module that does what the stage's name says."""

import os
import signal
import subprocess
import sys
import time


def run(stage):
    """Does what the stage is called."""
    stage.add(what=stage.name)
    globals()[stage.name](stage)


def passes(stage):
    """Comes to its end."""
    stage.headline("all is well")


def raises(stage):
    """Fails as a bug does."""
    raise ValueError("the third layer\nis missing")


def runs_out_of_memory(stage):
    """Fails as XLA does."""
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 46170898432 bytes.")


def exits(stage):
    """Ends its process under way."""
    print("the driver is gone", flush=True)
    os._exit(3)


def is_killed(stage):
    """Ends as the system ends a process."""
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(stage):
    """Never ends, deaf to SIGTERM, and has started a process that does not either; its id is in the record."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stage.note(child=child.pid)
    time.sleep(600)


def takes_its_time(stage):
    """Works until its time is over, and lists what it did not come to."""
    while stage.left() > 0:
        time.sleep(0.05)
    stage.drop("the rest")
