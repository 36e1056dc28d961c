"""What SECURITY.md says of the code: only programs are executed, nothing is unpickled, and no port is opened."""

import ast
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from gan import data

ROOT = Path(__file__).parent.parent
FILES = sorted(path for folder in ("gan", "experiments", "configs") for path in (ROOT / folder).rglob("*.py"))
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
"""Modules that execute, or can execute, what they read."""
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
    "gradio",
}
BUILT_IN = {"eval", "exec", "compile", "__import__", "breakpoint"}
PROGRAMS = {"experiments/sweep/experiment.py": {"runpy"}}
"""Files that execute a file as a program: an experiment. A config is executed by gan/config/loading.py."""
SERVERS = {"gan/explore/app.py": {"gradio"}, "gan/parallel/processes.py": {"socket"}}
"""The one file that may serve, of which tests/test_app.py checks where it listens, and one that only connects."""
LOADERS = {"load", "loads", "fromfile", "memmap", "import_module", "run_path", "run_module", "system", "popen"}
ALLOWED = {"json": {"load", "loads"}, "runpy": {"run_path"}, "np": {"load"}, "data": {"load"},
           "inception": {"load"}, "dinov2": {"load"}, "toys": {"load"}, "image": {"load"}, "systems": {"load"},
           "loading": {"load"}, "directions": {"load"}, "model": {"load"}}  # fmt: skip
"""The calls that are allowed: `np.load` only with allow_pickle=False, `image.load` decodes for PIL, and the others are
functions of this package."""
STAGES = "experiments/on_gpu/stage.py"
"""The file that imports a module by name: one of STAGES in experiments/on_gpu/__main__.py."""


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_executed_or_unpickled(path):
    tree = ast.parse(path.read_text())
    names = set(imports(tree))
    allowed = PROGRAMS.get(str(path.relative_to(ROOT)), set())
    assert not names & RUNNING and names & SERVING <= SERVERS.get(str(path.relative_to(ROOT)), set())
    assert names & {"runpy", "importlib"} <= allowed | {"importlib"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        place = f"{path.name}:{node.lineno}"
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        assert "shell" not in keywords, place
        if isinstance(node.func, ast.Name):
            assert node.func.id not in BUILT_IN, place
        if isinstance(node.func, ast.Attribute):
            assert node.func.attr not in {"listen", "create_server"}, place
        if isinstance(node.func, ast.Attribute) and node.func.attr in LOADERS:
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            is_stage = ast.unparse(node.func) == "importlib.import_module" and path == ROOT / STAGES
            assert is_stage or node.func.attr in ALLOWED.get(owner, ()), place
            if owner == "np":
                pickles = keywords.get("allow_pickle")
                assert isinstance(pickles, ast.Constant) and pickles.value is False, place


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_images_are_decoded_in_one_file(path):
    """With limits on size and format. Elsewhere only image files of this package are read, which are PNG."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
            formats = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}.get("formats")
            assert formats == ("FORMATS" if path.name == "pixels.py" else "('PNG',)"), node.lineno


def listening():
    """The addresses on which this process listens, from /proc."""
    own = {os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is_open(number)}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, address, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in own:
                found.append(address)
    return found


def _is_open(number):
    return os.path.lexists(f"/proc/self/fd/{number}")


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="no /proc")
def test_reading_data_opens_no_port():
    dataset = data.load(name="digits", image_size=(8, 8))
    stream = data.stream(dataset, seed=0, first_step=0, last_step=9, batches=1, batch_size=8)
    assert next(stream)["image"].dtype == np.uint8
    assert listening() == []
    stream.close()
    with socket.socket() as server:  # the check finds an open port
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert len(listening()) == 1
