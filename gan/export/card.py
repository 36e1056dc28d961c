"""The model card of an export, `README.md`: Markdown with the front matter of the Hugging Face hub.

It says what the records of the run say, and nothing else.
"""

import json
from collections.abc import Mapping

from gan.config.flattening import flatten
from gan.game import Normal
from gan.inference.exported import Export
from gan.inference.model import Model

GRID = "samples.png"
"""The image grid that the card shows."""

LOADING = """```python
import gan  # pip install flaxgan

model = gan.load("FOLDER")
images = model.sample(16, seed=0)  # uint8 [16, H, W, C]
```
"""
PROGRAM = """```python
import jax  # pip install jax flatbuffers
from jax import export

with open("FOLDER/generator.stablehlo", "rb") as file:
    program = export.deserialize(bytearray(file.read()))
latent = {latent}
label = jax.numpy.zeros(16, "int32")
images, values = program.call(latent, label)  # uint8 and float32, both [16, H, W, C]
```

A program is code. JAX promises to read it for six months after it was written.
"""
GRAPH = """```python
import numpy, onnxruntime

session = onnxruntime.InferenceSession("FOLDER/generator.onnx")
print([(entry.name, entry.shape, entry.type) for entry in session.get_inputs()])
```
"""
PAGE = """```bash
python -m http.server --bind localhost --directory FOLDER/web 8000
```

Then open http://localhost:8000 in a browser.
"""


def card(model: Model, record: Mapping, export: Export, evaluation: Mapping | None) -> str:
    """The text of the card.

    Args:
      model: what is exported.
      record: the `config.json` of the export.
      export: its entry `export`.
      evaluation: of the exported checkpoint, see `evaluation_of`; None: it was not evaluated.
    """
    height, width, channels = model.game.image_shape
    network, dataset = record["config"]["generator"]["network"], record["dataset"]
    classes = f" in {len(model.class_names)} classes" if model.class_names else ""
    conditional = "conditional" if model.game.is_conditional else "unconditional"
    truncation = "" if export.truncation is None else f" Samples are truncated: {export.truncation:g}."
    parts = [
        _front_matter(model, record, evaluation),
        f"# {network} on {dataset['name']}\n",
        f"The generator of a generative adversarial network: the average of its weights (EMA) at step {model.step}. It "
        f"is {conditional} and makes images of {height} x {width} pixels; channels: {channels}.{truncation}\n",
        f"![Samples of seed 0]({GRID})\n",
        "## Data\n",
        f"{dataset['examples']:,} examples of split `{dataset['split']}` of {dataset['name']}{classes}; fingerprint "
        f"`{dataset['fingerprint']}`.\n",
        "## Metrics\n",
        _metrics(evaluation),
        "## Training\n",
        _training(record),
        "## Use\n",
        _use(model, export),
        "## Limits\n",
        "The images are like the training data and have their biases. Nothing was checked that is not in this file: "
        "neither other data, nor whether samples repeat training images, unless a metric above says so. The license "
        "of the weights is not stated: whoever publishes them sets `license` in the first lines of this file, and has "
        "to consider that of the data.\n",
    ]
    return "\n".join(parts)


def evaluation_of(record: Mapping | None, step: int, truncation: float | None) -> dict | None:
    """The part of an `evaluation.json` that is of this checkpoint and truncation; None where there is none."""
    if record is None or record.get("protocol", {}).get("truncation") != truncation:
        return None
    found = {name: entry for name, entry in record.get("checkpoints", {}).items() if entry.get("step") == step}
    if not found:
        return None
    name = next(iter(found))
    return dict(record) | {"checkpoints": {name: found[name]}}


def _front_matter(model: Model, record: Mapping, evaluation: Mapping | None) -> str:
    network, name = record["config"]["generator"]["network"], record["dataset"]["name"]
    lines = [
        "---",
        "library_name: flaxgan",
        "pipeline_tag: unconditional-image-generation",
        "# license: yours to choose; see https://huggingface.co/docs/hub/repositories-licenses",
        _list("tags", ["gan", "generative-adversarial-network", "jax", "flax", network]),
    ]
    if name != "folder":
        lines.append(_list("datasets", [name]))
    if evaluation is not None:
        lines.append(_list("metrics", list(_shown(evaluation))))
    return "\n".join([*lines, "---\n"])


def _list(field: str, entries: list[str]) -> str:
    """A field of YAML. A string of JSON is one of YAML, whatever characters it has."""
    return "\n".join([f"{field}:", *(f"- {json.dumps(entry)}" for entry in entries)])


def _shown(evaluation: Mapping) -> dict[str, float]:
    (entry,) = evaluation["checkpoints"].values()
    return {name: value for name, value in entry["metrics"].items() if isinstance(value, int | float)}


def _metrics(evaluation: Mapping | None) -> str:
    if evaluation is None:
        return "This checkpoint was not evaluated.\n"
    (entry,) = evaluation["checkpoints"].values()
    real = evaluation.get("real_training_images", {})
    rows = [
        f"| {name} | {value:.5g} | {f'{real[name]:.5g}' if isinstance(real.get(name), int | float) else ''} |"
        for name, value in _shown(evaluation).items()
    ]
    warnings = [f"- {_plain(warning)}" for warning in entry.get("warnings", [])]
    protocol = [f"- {name}: `{_plain(value)}`" for name, value in evaluation["protocol"].items()]
    parts = ["| metric | samples | real training images |", "|---|---|---|", *rows, ""]
    return "\n".join([*parts, *warnings, "", "Protocol:\n", *protocol, ""])


def _training(record: Mapping) -> str:
    fields = {
        name: value
        for name, value in flatten(record["config"]).items()
        if value != "" and not name.startswith("evaluation.") and (value or not name.startswith("penalties."))
    }
    versions = ", ".join(f"{name} {_plain(version)}" for name, version in record.get("versions", {}).items())
    lines = [f"{name} = {_plain(value)}" for name, value in fields.items()]
    return f"Trained with {versions}.\n\n```\n" + "\n".join(lines) + "\n```\n"


def _plain(value: object) -> str:
    """A value on one line, without the characters that would end a code block or a cell of a table."""
    return " ".join(str(value).split()).replace("`", "'").replace("|", "/")


def _use(model: Model, export: Export) -> str:
    prior = model.game.prior
    normal = f'jax.random.normal(jax.random.key(0), (16, {model.game.latent_size}), "float32")'
    uniform = normal.replace("random.normal(", "random.uniform(")
    low, width, drawn = (
        (prior.mean, prior.sd, normal) if isinstance(prior, Normal) else (prior.low, prior.high - prior.low, uniform)
    )
    latent = drawn if (low, width) == (0.0, 1.0) else f"{low:g} + {width:g} * {drawn}"
    parts = {"safetensors": LOADING, "stablehlo": PROGRAM.format(latent=latent), "onnx": GRAPH, "web": PAGE}
    return "\n".join(["FOLDER is this folder.\n", *(parts[name] for name in export.formats)])
