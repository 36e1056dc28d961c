"""What SECURITY.md says of the sources: only programs are run, nothing is unpickled, and nobody is listened to."""

import ast
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from gan import data

ROOT = Path(__file__).parent.parent
FILES = sorted(path for room in ("gan", "experiments", "configs") for path in (ROOT / room).rglob("*.py"))
RUNNING = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "code",
    "codeop",
}
"""Modules that run, or can run, what they read."""
SERVING = {
    "socket",
    "socketserver",
    "http",
    "http.server",
    "xmlrpc",
    "asyncio",
    "wsgiref",
    "flask",
    "uvicorn",
    "aiohttp",
}
BUILT_IN = {"eval", "exec", "compile", "__import__", "breakpoint"}
PROGRAMS = {"experiments/sweep/experiment.py": {"runpy"}}
"""Where a file is run as the program that it is: an experiment, and the config that it names."""
LOADERS = {"load", "loads", "fromfile", "memmap", "import_module", "run_path", "run_module", "system", "popen"}
ALLOWED = {"json": {"load", "loads"}, "runpy": {"run_path"}, "np": {"load"}, "data": {"load"},
           "inception": {"load"}, "toys": {"load"}, "image": {"load"}, "systems": {"load"}}  # fmt: skip
"""Of them, those that are called here: `np.load` only with allow_pickle=False, `image.load` decodes for PIL, and the
others are functions of ours."""
STAGES = "experiments/on_gpu/stage.py"
"""Where a module is imported by its name, one of STAGES in experiments/on_gpu/__main__.py."""


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_run_or_unpickled_that_is_read(path):
    tree = ast.parse(path.read_text())
    names = set(imports(tree))
    allowed = PROGRAMS.get(str(path.relative_to(ROOT)), set())
    assert not names & RUNNING and not names & SERVING
    assert names & {"runpy", "importlib"} <= allowed | {"importlib"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        told = f"{path.name}:{node.lineno}"
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        assert "shell" not in keywords, told
        if isinstance(node.func, ast.Name):
            assert node.func.id not in BUILT_IN, told
        if isinstance(node.func, ast.Attribute) and node.func.attr in LOADERS:
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            is_stage = ast.unparse(node.func) == "importlib.import_module" and path == ROOT / STAGES
            assert is_stage or node.func.attr in ALLOWED.get(owner, ()), told
            if owner == "np":
                pickles = keywords.get("allow_pickle")
                assert isinstance(pickles, ast.Constant) and pickles.value is False, told


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_images_are_decoded_at_one_place(path):
    """With its bounds; elsewhere only the pictures that we wrote ourselves, which are PNG."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
            formats = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}.get("formats")
            assert formats == ("FORMATS" if path.name == "pixels.py" else "('PNG',)"), node.lineno


def listening():
    """The places at which this process waits for others to connect, as /proc has them."""
    own = {os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is_open(number)}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, place, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in own:
                found.append(place)
    return found


def _is_open(number):
    return os.path.lexists(f"/proc/self/fd/{number}")


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="no /proc")
def test_reading_data_listens_nowhere():
    dataset = data.load(name="digits", image_size=(8, 8))
    stream = data.stream(dataset, seed=0, first_step=0, last_step=9, batches=1, batch_size=8)
    assert next(stream)["image"].dtype == np.uint8
    assert listening() == []
    stream.close()
    with socket.socket() as server:  # and it would be seen
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert len(listening()) == 1
