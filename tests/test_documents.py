"""The documents: their Python runs as written, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

from gan import losses, networks, penalties
from gan.io import loggers

ROOT = Path(__file__).parent.parent
DOCUMENTS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCUMENTS.glob("*.md"))]


@pytest.fixture
def tables():
    """The tables as they were, after a document has added rows to them."""
    before = [
        (table, dict(table)) for table in (losses.LOSSES, penalties.PENALTIES, networks.NETWORKS, loggers.LOGGERS)
    ]
    yield
    for table, rows in before:
        table.clear()
        table.update(rows)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them: lower case, without punctuation, spaces as hyphens."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_files_and_headings_resolve(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "CHANGELOG"], ids=lambda page: page.stem)
def test_files_and_modules_that_are_named_exist(page):
    text = page.read_text()
    named = re.findall(r"\b(?:gan|experiments|configs|tests)/[\w/]*(?:\.\w+)?", text)
    modules = re.findall(r"python -m ((?:gan|experiments)(?:\.\w+)+)", text)
    for path in set(named) - {path for path in named if "NAME" in path}:
        assert (ROOT / path).exists(), path
    for module in set(modules):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
