"""The plan of the house, read off the imports: leaves import no sibling, the spine imports downwards only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE = {"console", "errors", "estimators", "fields", "hosts", "names", "rows"}
"""Below everything: how a run speaks, how its processes meet, how a mistake is told, a config's fields, rows."""
LEAVES = {
    "augment", "checkpoint", "data", "diagnostics", "losses", "metrics", "networks", "optimizers", "penalties",
    "report", "sharding", "workdir",
}  # fmt: skip
SPINE = ["schedules", "game", "state", "steps", "memory", "sampling", "evaluation", "loop", "population", "main"]
FILES = sorted((ROOT / "gan").rglob("*.py"))


def room(path):
    """The name of a file's place in the house: its module, or its folder for networks and data."""
    return path.relative_to(ROOT / "gan").parts[0].removesuffix(".py")


def imported(path):
    """The rooms of gan that a file imports, late imports too."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "gan":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gan."):
            rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gan.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    here = room(path)
    if here == "__init__":
        assert not imported(path)
    elif here in BASE:
        assert imported(path) <= BASE
    elif here in LEAVES:
        assert imported(path) <= BASE | {here}
    else:
        below = set(SPINE[: SPINE.index(here)])
        assert imported(path) <= BASE | LEAVES | below


def test_every_room_is_in_the_plan():
    assert {room(path) for path in FILES} - {"__init__"} == BASE | LEAVES | set(SPINE)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.name)
def test_configs_import_nothing_of_gan(path):
    assert not imported(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_experiments_or_tensorflow(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            assert name.split(".")[0] not in ("experiments", "tensorflow", "configs"), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_where_it_stands_and_public_things_what_they_are(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
