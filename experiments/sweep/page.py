"""A study as one HTML page that needs neither server nor network: page.html with the study's results embedded."""

import base64
import dataclasses
import html
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from experiments.sweep import results as study_results
from experiments.sweep.results import Results
from gan.io import atomic

TEMPLATE = Path(__file__).parent / "page.html"

THUMBNAIL_PIXELS = 280
"""The side of the samples of a trial in the page, which link to the full image."""

MAX_THUMBNAILS = 200
"""The number of trials whose samples are embedded in the page. Further trials have a link only."""


def write(results: Results, folder: Path) -> None:
    """Writes index.html atomically."""
    atomic.write_text(folder / "index.html", render(results, folder))


def render(results: Results, folder: Path) -> str:
    """The page. Samples are read from the runs in `folder`."""
    # "</script" would end the script that holds the data, and "<!--" would hide its end.
    data = json.dumps(_data(results, folder), allow_nan=False).replace("<", "\\u003c")
    title = results.question.splitlines()[0]
    return TEMPLATE.read_text().replace("{{title}}", html.escape(title)).replace("{{data}}", data)


def _data(results: Results, folder: Path) -> dict[str, Any]:
    with_samples = [run for run in results.runs if run.samples][:MAX_THUMBNAILS]
    thumbnails = {run.name: _thumbnail(folder / run.samples) for run in with_samples}
    names = study_results.parameter_names(results)
    return {
        "question": results.question,
        "objective": results.objective,
        "lessIsBetter": results.less_is_better,
        "written": results.written,
        "parameters": names,
        "settings": [
            {
                "number": setting.number,
                "parameters": setting.parameters,
                "values": list(setting.values.values()),
                "mean": setting.mean,
                "text": study_results.mean_and_std(setting),
                "n": setting.n,
                "remarks": study_results.remarks(setting),
                "seconds": setting.seconds,
            }
            for setting in results.settings
        ],
        "runs": [dataclasses.asdict(run) | {"thumbnail": thumbnails.get(run.name, "")} for run in results.runs],
        "comparisons": [
            {"first": first, "second": second, "verdict": pair.verdict, **dataclasses.asdict(pair)}
            for (first, second), pair in results.comparisons.items()
        ],
        "importances": results.importances,
    }


def _thumbnail(path: Path) -> str:
    """A small version of an image as a data URL; "" if the image cannot be read."""
    data = io.BytesIO()
    try:
        with Image.open(path, formats=("PNG",)) as image:
            small = image if image.mode == "L" else image.convert("RGB")
            small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.BOX)
            small.save(data, format="JPEG", quality=85)
    except Exception:  # PIL raises many types; the page still links to the file
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
