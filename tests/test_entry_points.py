"""Every `python -m experiments...` goes through one door: a mistake is one line and status 2, and so is a full disk."""

import errno
import os
import runpy
import sys
from pathlib import Path

import pytest
import runs

from experiments import cli

DOORS = sorted(
    ".".join(path.relative_to(runs.ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in (runs.ROOT / "experiments").rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text()
)


def end_of(name, flags, monkeypatch, capsys):
    """The status and stderr of `python -m name` with these flags, in this process."""
    monkeypatch.setattr(sys, "argv", [name, *flags])
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    return end.value.code, capsys.readouterr().err


def test_all_of_them_are_known():
    assert len(DOORS) >= 17
    assert {"experiments.sweep", "experiments.sweep.population_size", "experiments.on_gpu.stage"} <= set(DOORS)


@pytest.mark.parametrize("name", DOORS)
def test_a_mistake_in_a_flag_is_one_line(name, monkeypatch, capsys):
    status, error = end_of(name, ["--no_such_flag=1"], monkeypatch, capsys)
    assert status == 2
    assert error.startswith("error: ") and error.count("\n") == 1, error


def test_the_number_of_members_needs_a_config(monkeypatch, capsys):
    name = "experiments.sweep.population_size"
    assert "--config is missing" in end_of(name, [], monkeypatch, capsys)[1]
    assert "nearest: --config.steps" in end_of(name, ["--config=dcgan", "--config.stepz=3"], monkeypatch, capsys)[1]


@pytest.mark.parametrize(
    "error, line",
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "table.md"), "table.md: No space left on device: make room"),
        (RuntimeError("INTERNAL: Out of memory allocating 274877906944 bytes."), "out of memory (INTERNAL: Out of"),
    ],
)
def test_a_failure_of_the_machine_is_one_line(error, line, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run(fail)
    printed = capsys.readouterr().err
    assert end.value.code == 2
    assert printed.startswith(f"error: {line}") and printed.count("\n") == 1


def test_no_experiment_parses_its_flags_on_its_own():
    for path in (runs.ROOT / "experiments").rglob("*.py"):
        assert "argparse.ArgumentParser(" not in path.read_text() or path == Path(cli.__file__), path
