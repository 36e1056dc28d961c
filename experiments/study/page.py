"""A study as one HTML page that needs neither server nor network: page.html with the study's figures put into it."""

import base64
import dataclasses
import html
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from experiments.study import reading
from experiments.study.reading import Reading
from gan.io import atomic

TEMPLATE = Path(__file__).parent / "page.html"

PICTURE = 280
"""Pixels of a trial's picture in the page; the whole one is a link."""

MOST_PICTURES = 200
"""Trials whose picture stands in the page itself; of more, the others are links."""


def write(found: Reading, folder: Path) -> None:
    """Writes index.html, whole or not at all."""
    atomic.write_text(folder / "index.html", render(found, folder))


def render(found: Reading, folder: Path) -> str:
    """The page. Pictures are read from the runs in `folder`."""
    # "</script" would end the script that the data stand in, and "<!--" hide its end.
    data = json.dumps(_data(found, folder), allow_nan=False).replace("<", "\\u003c")
    title = found.question.splitlines()[0]
    return TEMPLATE.read_text().replace("{{title}}", html.escape(title)).replace("{{data}}", data)


def _data(found: Reading, folder: Path) -> dict[str, Any]:
    with_pictures = [run for run in found.runs if run.picture][:MOST_PICTURES]
    pictures = {run.name: _thumbnail(folder / run.picture) for run in with_pictures}
    names = reading.parameter_names(found)
    return {
        "question": found.question,
        "objective": found.objective,
        "lessIsBetter": found.less_is_better,
        "written": found.written,
        "parameters": names,
        "settings": [
            {
                "number": setting.number,
                "parameters": setting.parameters,
                "values": list(setting.values.values()),
                "mean": setting.mean,
                "text": reading.spread(setting),
                "n": setting.n,
                "remarks": reading.remarks(setting),
                "seconds": setting.seconds,
            }
            for setting in found.settings
        ],
        "runs": [dataclasses.asdict(run) | {"thumbnail": pictures.get(run.name, "")} for run in found.runs],
        "comparisons": [
            {"first": first, "second": second, "verdict": pair.verdict, **dataclasses.asdict(pair)}
            for (first, second), pair in found.comparisons.items()
        ],
        "importances": found.importances,
    }


def _thumbnail(path: Path) -> str:
    """A picture as a data URL, small; "" where it cannot be read."""
    data = io.BytesIO()
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            small = picture if picture.mode == "L" else picture.convert("RGB")
            small.thumbnail((PICTURE, PICTURE), Image.Resampling.BOX)
            small.save(data, format="JPEG", quality=85)
    except Exception:  # PIL raises many kinds; the page links to the file
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
