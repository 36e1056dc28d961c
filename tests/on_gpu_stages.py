"""Stages for the tests of experiments.on_gpu's driver: the function with the stage's name is called."""

import os
import signal
import subprocess
import sys
import time


def run(stage):
    """Calls the function with the stage's name."""
    stage.add(what=stage.name)
    globals()[stage.name](stage)


def passes(stage):
    """Passes."""
    stage.headline("all is well")


def raises(stage):
    """Fails with a bug."""
    raise ValueError("the third layer\nis missing")


def runs_out_of_memory(stage):
    """Fails as XLA does when memory runs out."""
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 46170898432 bytes.")


def exits(stage):
    """Ends its process early."""
    print("the driver is gone", flush=True)
    os._exit(3)


def is_killed(stage):
    """Is killed by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(stage):
    """Never ends, ignores SIGTERM, and has started a process that does neither; its id is in the record."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stage.note(child=child.pid)
    time.sleep(600)


def takes_its_time(stage):
    """Works until its time is over, and lists what was not done."""
    while stage.left() > 0:
        time.sleep(0.05)
    stage.drop("the rest")
