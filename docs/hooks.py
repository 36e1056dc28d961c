"""What `make docs` adds to the pages of this folder: tables and a reference that are generated from the source.

- `configs.md` and `fields.md`, from the docstrings of configs/ and the comments of configs/default.py.
- `reference/`, a page for each public module of gan.
- The changelog and the other pages at the root of the repository.
- Links to source files lead to the pages made of them. Links to other files outside docs/ become plain text, unless
  `repo_url` is set in mkdocs.yml.
"""

import ast
import logging
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

logging.getLogger("mkdocs.plugins.griffe").setLevel(logging.ERROR)  # arguments that are described together are fine

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

ROOT_PAGES = {"changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md", "contributing.md": "CONTRIBUTING.md"}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)[^)#\s]+)(#[^)\s]*)?\)")


def on_files(files, config):
    """Adds the generated pages."""
    pages = {"configs.md": _configs(), "fields.md": _fields(), **_reference()}
    for name, source in ROOT_PAGES.items():
        # Links of a page at the root are seen from the root: docs/x.md is x.md here, and everything else is outside.
        text = re.sub(r"\]\((?!https?:|#)(?!docs/)", "](../", (ROOT / source).read_text())
        pages[name] = text.replace("](docs/", "](")
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_config(config):
    """Adds the reference to the navigation, a section for each package."""
    sections = {}
    for name in sorted(_reference()):
        module = Path(name).stem
        if module != "index":
            sections.setdefault(".".join(module.split(".")[:2]), []).append({module: name})
    pages = [{"Overview": "reference/index.md"}]
    pages += [found[0] if len(found) == 1 else {package: found} for package, found in sections.items()]
    for section in config.nav:
        if "Reference" in section:
            section["Reference"] = pages
    return config


def on_page_markdown(markdown, page, config, files):
    """Rewrites links that leave docs/."""

    def replaced(match):
        text, target, anchor = match.groups()
        if page_of := _page_of(target.removeprefix("../")):
            return f"[{text}]({page_of}{anchor or ''})"
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{target.removeprefix('../')}{anchor or ''})"
        return text if "`" in text else f"`{target.removeprefix('../')}`"

    return LINK.sub(replaced, markdown)


def _page_of(path: str) -> str:
    """The page of the site that shows a file of the repository; "" where there is none."""
    for name, source in ROOT_PAGES.items():
        if path == source:
            return name
    if path == "README.md":
        return "index.md"
    if path == "configs/default.py":
        return "fields.md"
    if path.rstrip("/") == "configs":
        return "configs.md"
    if path.startswith("configs/"):
        return f"configs.md#{Path(path).stem}"
    page = f"reference/{path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}.md"
    return page if path.startswith("gan/") and page in _reference() else ""


def _configs() -> str:
    lines = ["# Shipped configs", "", "Each is known by its name: `python -m gan.main --config=NAME[:VARIANT]`.", ""]
    for path in sorted((ROOT / "configs").glob("*.py")):
        if path.stem == "default":
            continue
        summary, _, rest = ast.get_docstring(ast.parse(path.read_text())).partition("\n\n")
        commands, _, text = rest.partition("\n\n")
        lines += [f"## {path.stem}", "", summary.replace("\n", " "), "", "```bash", commands, "```", "", text, ""]
    return "\n".join(lines)


def _fields() -> str:
    from gan.cli import fields

    lines = ["# Fields of a config", "", "Override one with `--config.FIELD=VALUE`. From `configs/default.py`.", "",
             "| field | default | meaning |", "|---|---|---|"]  # fmt: skip
    for name, value, meaning in fields.rows():
        lines.append(f"| `{name}` | `{value!r}` | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def _reference() -> dict[str, str]:
    """A page for each package and module of gan that has public names, and an index with their first lines."""
    pages, index = {}, ["# Reference", "", "| module | |", "|---|---|"]
    for path in sorted((ROOT / "gan").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module.startswith("gan.cli") or module == "gan.main":
            continue
        summary = ast.get_docstring(ast.parse(path.read_text())).partition("\n\n")[0].replace("\n", " ")
        pages[f"reference/{module}.md"] = f"# {module}\n\n::: {module}\n"
        index.append(f"| [{module}]({module}.md) | {summary.replace('|', chr(92) + '|')} |")
    return {"reference/index.md": "\n".join(index)} | pages
