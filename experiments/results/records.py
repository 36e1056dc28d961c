"""Records of trained runs, which the page is made of: a JSON file for each run, docs/results/SECTION-ENTRY-seedN.json.

A record is made of what a run's folder holds: `config.json`, `metrics.jsonl` and `evaluation.json`.
"""

import dataclasses
import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

from ml_collections import ConfigDict

from experiments.results.entries import SECTIONS, Entry, Section
from gan.config.flattening import flatten
from gan.errors import UserError, nearest
from gan.io.atomic import write_json
from gan.io.workdir import FREE_FIELDS, KEEP_EVERY

FORMAT = 2
FOLDER = Path(__file__).parents[2] / "docs" / "results"
STATUSES = ("done", "diverged")
PROTOCOL = (
    "num_samples",
    "seed",
    "dataset",
    "fingerprint",
    "reference_split",
    "reference_examples",
    "standing_batches",
)
"""What every evaluation records of its protocol."""
NOT_THE_RECIPE = {*FREE_FIELDS, KEEP_EVERY, "seed"} - {"steps"}
"""Fields of a config that change where and how a run is executed and what it writes, and not what is trained."""


@dataclasses.dataclass(frozen=True)
class Record:
    """A run of an entry with one seed."""

    section: str
    entry: str
    config: str
    overrides: dict[str, Any]
    settings: dict[str, Any]
    """The fields of the config that was trained, but for NOT_THE_RECIPE: a preset may change after the run."""
    seed: int
    status: str
    failure: str
    """Why it diverged; empty where it did not."""
    steps: int
    images: int
    seconds: float
    """Of wall time from the start of training to the last step, compilation included."""
    cpu_seconds: float
    """The same in seconds of all cores together; 0: not known, as of a run that was resumed."""
    together: int
    """How many runs were trained in one program, and share these seconds."""
    hardware: str
    versions: dict[str, str]
    image_shape: list[int]
    metrics: dict[str, float]
    real: dict[str, float]
    """The same metrics of real training images."""
    warnings: list[str]
    protocol: dict[str, Any]

    @property
    def file(self) -> str:
        """The name of its file."""
        return file_name(self.section, self.entry, self.seed)


def file_name(section: str, entry: str, seed: int) -> str:
    """The name of a record's file."""
    return f"{section}-{entry}-seed{seed}.json"


def of_run(
    folder: Path, section: str, entry: Entry, seed: int, *, hardware: str, failure: str = "", cpu_seconds: float = 0.0,
    together: int = 1,
) -> Record:  # fmt: skip
    """The record of the run in `folder`, which was evaluated, or of one that diverged: `failure` says how.

    Raises `UserError` where a file of the run is missing.
    """
    try:
        run = json.loads((folder / "config.json").read_text())
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        evaluation = {} if failure else json.loads((folder / "evaluation.json").read_text())
    except OSError as error:
        raise UserError(f"{folder} is no run with an evaluation: {error.filename}: {error.strerror}") from error
    last = json.loads(lines[-1]) if lines else {"step": 0, "images": 0, "seconds": 0.0}
    evaluated = evaluation.get("checkpoints", {}).get("last", {"metrics": {}, "warnings": []})
    protocol = {name: value for name, value in evaluation.get("protocol", {}).items() if name != "versions"}
    return Record(
        section=section, entry=entry.name, config=entry.config, overrides=_as_json(entry.overrides),
        settings=settings(run["config"]), seed=seed, status="diverged" if failure else "done", failure=failure,
        steps=last["step"], images=last["images"], seconds=round(float(last["seconds"]), 1),
        cpu_seconds=round(cpu_seconds, 1), together=together, hardware=hardware, versions=run["versions"],
        image_shape=run["dataset"]["image_shape"], metrics=_rounded(evaluated["metrics"]),
        real=_rounded(evaluation.get("real_training_images", {})), warnings=evaluated["warnings"], protocol=protocol,
    )  # fmt: skip


def hardware_of_cpu() -> str:
    """The number of cores of this process and the model of the processor."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass  # not Linux
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {model}"


def write(record: Record, folder: Path) -> Path:
    """Writes the record, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / record.file, {"format": FORMAT, **dataclasses.asdict(record)})
    return folder / record.file


def read_all(folder: Path) -> list[Record]:
    """All records of a folder. Raises `UserError` for the first that has another form, or is of another recipe."""
    return [read(path) for path in sorted(folder.glob("*.json"))]


def read(path: Path) -> Record:
    """The record in a file. Raises `UserError` where it has another form, or is of another recipe than its entry."""
    try:
        found = json.loads(path.read_text())
        version = found.pop("format")
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no record ({type(error).__name__}: {error}); expected: format {FORMAT}") from error
    if version != FORMAT:
        raise UserError(f"{path} has format {str(version)[:40]}; expected: {FORMAT}")
    if wrong := _problem(found):
        raise UserError(f"{path}: {wrong}; remove the file, and train the run again")
    record = Record(**found)
    if record.file != path.name:
        raise UserError(f"{path} holds the record of {record.file}; rename it")
    if wrong := _difference(record):
        raise UserError(f"{path} is of another recipe than its entry in experiments/results/entries.py: {wrong}")
    return record


def find(section: str, entry: str) -> Entry | None:
    """The declared entry of these names; None where there is none."""
    entries = (one for group in SECTIONS if group.name == section for one in group.entries)
    return next((one for one in entries if one.name == entry), None)


def _problem(found: Mapping[str, Any]) -> str:
    """What makes the content of a file no record, in a few words; empty where nothing does."""
    fields = {field.name: get_origin(field.type) or field.type for field in dataclasses.fields(Record)}
    for name in fields.keys() ^ found.keys():
        near = nearest(name, fields) if name in found else ""
        return f"the field {name!r} is {'unknown' if name in found else 'missing'}{near}"
    for name, kind in fields.items():
        if type(found[name]) is not kind and not (kind is float and type(found[name]) is int):
            return f"{name}={str(found[name])[:40]!r} is not of the type {kind.__name__}"
    for group in ("metrics", "real"):
        for name, value in found[group].items():
            if type(value) not in (int, float) or not math.isfinite(value):
                return f"{group}.{name}={str(value)[:40]} is not a finite number"
    if len(found["image_shape"]) != 3:
        return f"image_shape={str(found['image_shape'])[:40]}; expected: height, width and channels"
    if found["status"] not in STATUSES:
        return f"status={found['status'][:40]!r}; expected: {', '.join(STATUSES)}"
    if found["status"] == "done" and (missing := [name for name in PROTOCOL if name not in found["protocol"]]):
        return f"protocol.{missing[0]} is missing"
    return ""


def _difference(record: Record) -> str:
    """How the recipe of a record differs from the declared one; empty where it does not."""
    entry = find(record.section, record.entry)
    if entry is None or record.seed not in entry.seeds:
        return f"{record.section}/{record.entry} with seed {record.seed} is not declared"
    mine = {"config": record.config, **record.overrides}
    declared = {"config": entry.config, **_as_json(entry.overrides)}
    for field in sorted(mine.keys() | declared.keys()):
        if mine.get(field) != declared.get(field):
            return f"{field}={mine.get(field)!r}, not {declared.get(field)!r}"
    config = entry.configured(record.seed)
    if record.status == "done" and record.steps != config.steps:
        return f"{record.steps} steps, not {config.steps}"
    today = settings(config)
    changed = [name for name in sorted(record.settings.keys() & today.keys()) if record.settings[name] != today[name]]
    if changed:
        return f"{changed[0]} was {record.settings[changed[0]]!r} in the run and is {today[changed[0]]!r} now"
    return ""


def settings(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """The fields of a config that are its recipe, {"generator.width": 64, ...}, as JSON gives them back."""
    fields = flatten(config)
    return _as_json({name: fields[name] for name in sorted(fields) if name not in NOT_THE_RECIPE})


def _as_json(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides as JSON gives them back: lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in overrides.items()}


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    """Six digits are more than any seed agrees on."""
    return {name: float(f"{value:.6g}") for name, value in metrics.items()}


def of_section(section: Section, records: list[Record]) -> dict[str, list[Record]]:
    """The records of each entry of a section, by seed."""
    own = [record for record in records if record.section == section.name]
    return {
        entry.name: sorted((record for record in own if record.entry == entry.name), key=lambda record: record.seed)
        for entry in section.entries
    }
