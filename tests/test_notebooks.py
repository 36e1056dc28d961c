"""The notebooks: they are executed without an error, and are committed with outputs that are small."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_executed_without_an_error(path, tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    from experiments import notebooks

    cells = [cell for cell in notebooks.execute(path, tmp_path).cells if cell.cell_type == "code"]
    failed = [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert not failed and sum(bool(cell.outputs) for cell in cells) > 4


def test_notebooks_are_committed_with_outputs_that_are_small():
    assert len(PATHS) == 3 and sum(path.stat().st_size for path in PATHS) < 600_000
    for path in PATHS:
        text = path.read_text()
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), path.name
        outputs = json.dumps([output for cell in cells for output in cell["outputs"]])
        assert not [word for word in ("Traceback", "site-packages", "/tmp", "/home", "error:") if word in outputs]


def test_the_first_cell_installs_the_library_only_where_it_is_missing():
    firsts = set()
    for path in PATHS:
        first = next(cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code")
        assert "import gan" not in "".join(first["source"]) and not first["outputs"]
        firsts.add("".join(first["source"]))
    assert len(firsts) == 1 and 'find_spec("gan") is None' in firsts.pop()
