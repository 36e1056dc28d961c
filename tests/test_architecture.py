"""The layers of the package, read off the imports: each imports only what is below it, and no leaf imports another."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE = ["errors", "rows", "estimators", "views", "config", "parallel", "io"]
"""From the bottom up: mistakes of the user's, configs, devices and processes, files of a run."""
LEAVES = {"augment", "data", "losses", "metrics", "networks", "optimizers", "penalties"}
CORE = [
    "schedules", "game", "checks", "state", "build", "updates", "steps", "inference", "evaluation", "explore", "export",
    "train", "cli", "main",
]  # fmt: skip
"""From the bottom up, above the leaves."""
FILES = sorted((ROOT / "gan").rglob("*.py"))


def component(path):
    """The module or package of gan that a file belongs to."""
    return path.relative_to(ROOT / "gan").parts[0].removesuffix(".py")


def imported(path):
    """The components of gan that a file imports, late imports too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "gan":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gan."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gan.")}
    return found - {"__version__"}


def allowed(name):
    """What a component may import."""
    if name in BASE:
        return set(BASE[: BASE.index(name) + 1])
    if name in LEAVES:
        return {*BASE, name}
    return {*BASE, *LEAVES, *CORE[: CORE.index(name) + 1]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    here = component(path)
    assert imported(path) <= ({"inference"} if here == "__init__" else allowed(here))


def test_every_component_has_a_layer():
    assert {component(path) for path in FILES} - {"__init__"} == {*BASE, *LEAVES, *CORE}


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
