"""The Python of the documents runs as it stands there."""

import re
from pathlib import Path

import pytest

from gan import losses, networks, penalties

DOCUMENTS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def tables():
    """The tables as they were, after a document has added rows to them."""
    before = [(table, dict(table)) for table in (losses.LOSSES, penalties.PENALTIES, networks.NETWORKS)]
    yield
    for table, rows in before:
        table.clear()
        table.update(rows)


@pytest.mark.parametrize("name", ["extending", "evaluation"])
def test_the_code_of_a_document_runs(name, tables, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (DOCUMENTS / f"{name}.md").read_text(), re.DOTALL)
    assert blocks
    names = {"__name__": "document"}
    for block in blocks:
        exec(compile(block, name, "exec"), names)
    printed = [float(word) for word in capsys.readouterr().out.split()]
    assert all(value > 0 for value in printed)
    assert len(printed) == (3 if name == "extending" else 0)
