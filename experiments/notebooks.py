"""Execute the notebooks of docs/notebooks, each in a new folder, and write their outputs into them.

python -m experiments.notebooks [NAME ...]

Needs the extra `notebooks`: pip install '.[notebooks]'.
"""

import base64
import io
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "notebooks"
TIMEOUT = 600
"""Seconds for one cell."""


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, executed in `folder`, in which runs are written.

    Raises `nbclient.exceptions.CellExecutionError` where a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    # Without the tests' XLA flags, which save compilation and cost execution.
    variables = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "MPLBACKEND")}
    variables |= {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources, record_timing=False)
    client.execute(env=variables)
    notebook.metadata.language_info = {"name": "python"}  # without the versions of whoever executed it
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _reduced(output.data["image/png"])
    return notebook


def _reduced(png: str) -> str:
    """A plot, PNG in base64, with 64 colors: a third of the size."""
    image, data = Image.open(io.BytesIO(base64.b64decode(png)), formats=("PNG",)), io.BytesIO()
    image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(data, format="PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode()


def main(names: list[str]) -> None:
    """Executes the notebooks of these names, or all, and writes them."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                nbformat.write(execute(path, Path(folder)), path)
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
