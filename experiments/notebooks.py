"""Execute the notebooks of docs/notebooks, each in a new folder, and write their outputs into them.

python -m experiments.notebooks [NAME ...]

Needs the extra `notebooks`: pip install '.[notebooks]'.
"""

import base64
import io
import os
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from experiments import cli
from gan.errors import UserError
from gan.io import atomic

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "notebooks"
TIMEOUT = 600
"""Seconds for one cell."""


def execute(path: Path, folder: Path) -> Any:
    """The notebook, an `nbformat.NotebookNode`, with its outputs, executed in `folder`, in which runs are written.

    Raises `nbclient.exceptions.CellExecutionError` where a cell fails, and `UserError` where nbclient is missing.
    """
    try:
        import nbformat  # late: an extra
        from nbclient import NotebookClient
    except ImportError as error:
        raise UserError("notebooks need nbclient and nbformat: pip install '.[notebooks]' in a checkout") from error
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


def main() -> None:
    """Executes the notebooks that are named, or all, and writes them."""
    paths = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
    parser = cli.Parser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(paths)}; by default all")
    for name in parser.parse_args().names or paths:
        if name not in paths:
            raise UserError(f"{name} is no notebook; expected: {', '.join(paths)}")
        with tempfile.TemporaryDirectory() as folder:
            executed = execute(paths[name], Path(folder))
        atomic.write_text(paths[name], nbformat_text(executed))
        print(f"{paths[name].relative_to(ROOT)}: {paths[name].stat().st_size / 1000:.0f} kB")


def nbformat_text(notebook: Any) -> str:
    """The text of a notebook's file."""
    import nbformat  # late: an extra

    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    cli.run(main)
