"""gan.io.workdir: the lock of a run's folder."""

import os
import subprocess
import sys

import pytest
import runs

from gan.errors import UserError
from gan.io import workdir

HOLD = """
import sys, pathlib
from gan.io import workdir
with workdir.lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_folder_is_locked_once(tmp_path):
    folder = tmp_path / "new" / "run"
    with workdir.lock(folder):
        with pytest.raises(workdir.InUse, match=f"run is in use by process {os.getpid()}"), workdir.lock(folder):
            pass
        with workdir.lock(tmp_path / "new" / "other"):  # another folder is free
            pass
    with workdir.lock(folder):  # it is free again
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="file/run is not writable: Not a directory"),
        workdir.lock(tmp_path / "file/run"),
    ):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], cwd=runs.ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(workdir.InUse, match=f"in use by process {holder.pid}"), workdir.lock(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with workdir.lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
