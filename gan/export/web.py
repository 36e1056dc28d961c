"""A page that samples from a generator in the browser: static files, which any web server serves.

The page, its script and its style are in `gan/export/page/`. The generator runs in ONNX Runtime Web, whose files come
from the npm package onnxruntime-web. Nothing is loaded from another host.
"""

import json
import shutil
from importlib import resources
from pathlib import Path

from gan.data import is_point
from gan.errors import UserError
from gan.export import onnx
from gan.game import Normal
from gan.inference.model import Model
from gan.io import atomic

RUNTIME = Path("node_modules/onnxruntime-web")
"""Where npm installs ONNX Runtime Web, in the folder where the command runs."""

RUNTIME_FILES = ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm")
"""The files of the runtime that the page loads."""

PAGE = ("index.html", "page.mjs", "page.css")
"""The files of `gan/export/page`."""


def check(model: Model) -> None:
    """Raises `UserError` where the page cannot show what the generator makes, or the runtime's files are missing."""
    channels = model.game.image_shape[2]
    if is_point(model.game.image_shape) or channels not in (1, 3):
        raise UserError("--format=web shows grey or color images, which this generator does not make")
    missing = [str(RUNTIME / name) for name in RUNTIME_FILES if not (RUNTIME / name).is_file()]
    if missing:
        raise UserError(f"--format=web needs {missing[0]}; expected: npm install onnxruntime-web, in this folder")


def save(model: Model, graph: Path, folder: Path, truncation: float | None) -> None:
    """Writes the page of the generator whose ONNX graph is in the file `graph` to `folder`."""
    folder.mkdir(exist_ok=True)
    page = resources.files("gan.export") / "page"
    for name in PAGE:
        text = (page / name).read_text(encoding="utf-8")
        atomic.write_text(folder / name, text.replace("__SETTINGS__", settings(model, truncation)))
    for source in (graph, *(RUNTIME / name for name in RUNTIME_FILES)):
        with atomic.replacing(folder / source.name) as tmp:
            shutil.copyfile(source, tmp)


def settings(model: Model, truncation: float | None) -> str:
    """What the page needs to know, as JSON that an HTML file may hold: `<` is escaped, for names are data."""
    game, prior = model.game, model.game.prior
    numbers = (
        {"mean": prior.mean, "sd": prior.sd} if isinstance(prior, Normal) else {"low": prior.low, "high": prior.high}
    )
    found = {
        "step": model.step,
        "graph": onnx.FILE,
        "latentSize": game.latent_size,
        "imageShape": list(game.image_shape),
        "classNames": list(model.class_names) if game.is_conditional else [],
        "prior": numbers,
        "isNormal": isinstance(prior, Normal),
        "hasStyles": game.has_styles,
        "truncation": truncation,
    }
    return json.dumps(found).replace("<", "\\u003c")
