"""The results page as Markdown, made of the records and of the declared entries alone."""

import re
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.results import records
from experiments.results.entries import Column, Entry, Section, images_per_step
from experiments.results.published import Published
from experiments.results.records import Record
from gan.config import loading
from gan.config.flattening import flatten

PAGE = Path(__file__).parents[2] / "docs" / "results.md"

INTRODUCTION = """# Results

What each recipe reached, with its seeds, its budget and its hardware, beside what was published.
`python -m experiments.results` writes this page from a record of each run, the JSON files in `docs/results`. Do not
edit it: [contributing](../CONTRIBUTING.md#results) says how a record is added.

- **done**: trained and evaluated with every seed. **N of M seeds**: with some of them. **not run**: with none. A seed
  that **diverged** has no metrics.
- Metrics are those of the last checkpoint as mean ± standard deviation over the seeds (n - 1 in its denominator),
  against the dataset's test split. [Evaluation](evaluation.md) defines them. Real training images, as many as samples,
  are the baseline.
- *Images* are the real images that a run saw, and what part they are of the recipe's own length.
- *Seconds* are wall time from the start of training to its last step, compilation included, on a machine that may
  have done other work. In parentheses: seconds of all cores together. Runs that were trained in one program share both.
- A published value stands beside a result, and is the same quantity only where the section says so.
"""


class _Plan(NamedTuple):
    """What a line says before there is a record."""

    entry: Entry
    config: ConfigDict
    own: ConfigDict
    """The config without the overrides and the budget of the entry."""


def text(sections: Sequence[Section], found: Sequence[Record]) -> str:
    """The whole page."""
    tables = [(section, records.of_section(section, list(found))) for section in sections]
    parts = [INTRODUCTION, _summary(tables), *(_section(section, rows) for section, rows in tables)]
    return "\n".join(parts)


def spread(values: Sequence[float], form: str) -> str:
    """Mean ± sample standard deviation; the value alone where there is one, and nothing where there is none."""
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{deviation}"


def status(entry: Entry, found: Sequence[Record]) -> str:
    """The status of an entry with these records."""
    if not found:
        return "not run"
    diverged = sum(record.status == "diverged" for record in found)
    mark = "**done**" if len(found) == len(entry.seeds) else f"{len(found)} of {len(entry.seeds)} seeds"
    return f"{mark}, {diverged} diverged" if diverged else mark


def _summary(tables: Iterable[tuple[Section, Mapping[str, Sequence[Record]]]]) -> str:
    lines = ["| table | recipes | done | not run |", "|---|---|---|---|"]
    for section, rows in tables:
        marks = [status(entry, rows[entry.name]) for entry in section.entries]
        done, not_run = sum(mark.startswith("**done") for mark in marks), marks.count("not run")
        lines.append(f"| [{section.title}](#{_anchor(section.title)}) | {len(marks)} | {done} | {not_run} |")
    return "\n".join([*lines, ""])


def _section(section: Section, rows: Mapping[str, Sequence[Record]]) -> str:
    is_published = any(entry.published for entry in section.entries)
    heads = ["recipe", "status", "images", *(column.title for column in section.columns)]
    heads += ["published"] * is_published + ["seconds", "hardware, jax", "commit"]
    lines = [f"## {section.title}", "", section.text, "", _row(heads), "|---" * len(heads) + "|"]
    plans = [_Plan(entry, entry.configured(), loading.load(entry.config)) for entry in section.entries]
    lines += [_entry(section, plan, rows[plan.entry.name], is_published) for plan in plans]
    flat = [record for entry in section.entries for record in rows[entry.name]]
    lines += _baselines(section, flat, len(heads))
    if flat:
        lines += ["", *_protocols(flat), *_notes(flat)]
    commands = [f"python -m experiments.results run --only={section.name}", *map(_command, plans)]
    return "\n".join([*lines, "", "```bash", *commands, "```", ""])


def _entry(section: Section, plan: _Plan, found: Sequence[Record], is_published: bool) -> str:
    """The line of an entry."""
    entry = plan.entry
    labels = ", labels" if plan.config.generator.conditioning != "none" else ""
    cells = [f"`{entry.name}`{labels}", status(entry, found), _images(plan)]
    cells += [spread(_values(found, column), column.form) for column in section.columns]
    if is_published:
        cells.append("; ".join(map(_published, entry.published)))
    cells += [_seconds(found), _joined(_hardware(record) for record in found)]
    return _row([*cells, _joined(record.versions.get("git_commit", "unknown")[:7] for record in found)])


def _published(given: Published) -> str:
    return f"{given.value} ([{given.source}](https://arxiv.org/abs/{given.arxiv}))"


def _values(found: Sequence[Record], column: Column) -> list[float]:
    return [record.metrics[column.metric] for record in found if column.metric in record.metrics]


def _images(plan: _Plan) -> str:
    """The images of a run, and what part they are of the config's own length."""
    images, whole = (config.steps * images_per_step(config) for config in (plan.config, plan.own))
    percent = 100 * images / whole
    return f"{images:,}" if images == whole else f"{images:,} ({percent:{'.0f' if percent >= 10 else '.2g'}}%)"


def _seconds(found: Sequence[Record]) -> str:
    """The mean over runs of wall seconds and, where they are known, of the seconds of all cores."""
    if not found:
        return ""
    wall = statistics.fmean(record.seconds / record.together for record in found)
    known = [record.cpu_seconds / record.together for record in found if record.cpu_seconds]
    return f"{wall:.0f} ({statistics.fmean(known):.0f})" if known else f"{wall:.0f}"


def _hardware(record: Record) -> str:
    return f"{record.hardware}, jax {record.versions.get('jax', 'unknown')}"


def _baselines(section: Section, found: Sequence[Record], width: int) -> list[str]:
    """A line for the real examples of each dataset and size that was evaluated."""
    lines = []
    for record in found:
        if record.real:
            cells = [f"{record.real[column.metric]:{column.form}}" if column.metric in record.real else ""
                     for column in section.columns]  # fmt: skip
            size = "" if record.image_shape[0] == 1 else f", {'x'.join(map(str, record.image_shape[:2]))}"
            name = f"*real examples of `{record.protocol['dataset']}`{size}*"
            lines.append(_row([name, "", "", *cells, *[""] * (width - 3 - len(cells))]))
    return list(dict.fromkeys(lines))


def _protocols(found: Sequence[Record]) -> list[str]:
    """How the metrics were computed: a line for each protocol, with the recipes that it is of, where there are several.

    Values of different protocols are not comparable, so that a change of one must show.
    """
    recipes: dict[str, list[str]] = {}
    for record in found:
        if record.protocol and record.entry not in recipes.setdefault(_protocol(record), []):
            recipes[_protocol(record)].append(record.entry)
    if len(recipes) == 1:
        return [f"Protocol: {next(iter(recipes))}."]
    return [f"- Protocol of {', '.join(f'`{name}`' for name in names)}: {line}." for line, names in recipes.items()]


def _protocol(record: Record) -> str:
    """The protocol of a record in a line."""
    given: Mapping[str, Any] = record.protocol
    size = "" if record.image_shape[0] == 1 else f" of {'x'.join(map(str, record.image_shape))}"
    parts = [
        f"{given['num_samples']:,} samples with seed {given['seed']}",
        f"against {given['reference_examples']:,} examples{size} of `{given['dataset']}`",
        f"split `{given['reference_split']}`, fingerprint {str(given['fingerprint'])[:8]}",
    ]
    if "extractor" in given:
        parts.append(f"features of `{given['extractor']}` {str(given.get('extractor_identity'))[:8]}")
    if "classifier_test_accuracy" in given:
        parts.append(f"whose accuracy is {100 * given['classifier_test_accuracy']:.1f}%")
    if given["standing_batches"]:
        parts.append(f"{given['standing_batches']} batches of standing statistics")
    return f"{parts[0]} {', '.join(parts[1:])}"


def _notes(found: Sequence[Record]) -> list[str]:
    """What the evaluations warned of, and how runs diverged. Of lines that differ in numbers alone, the first."""
    lines: dict[tuple[str, str], str] = {}
    seeds: dict[tuple[str, str], list[int]] = {}
    for record in found:
        for line in [*record.warnings, *([record.failure] if record.failure else [])]:
            kind = (record.entry, re.sub(r"\d[\d.,e-]*", "", line))
            lines.setdefault(kind, line)
            seeds.setdefault(kind, []).append(record.seed)
    notes = [f"- `{kind[0]}`, seed {', '.join(map(str, seeds[kind]))}: {line}." for kind, line in lines.items()]
    return ["", *notes] if notes else []


def _command(plan: _Plan) -> str:
    """The command that trains a run of an entry by itself."""
    own, config = flatten(plan.own), flatten(plan.config)
    fields = [field for field in (*plan.entry.overrides, "steps") if config[field] != own[field]]
    flags = [f"--config.{field}={_flag(config[field])}" for field in dict.fromkeys(fields)]
    return shlex.join(["python", "-m", "gan.main", f"--config={plan.entry.config}", *flags])


def _flag(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _joined(texts: Iterable[str]) -> str:
    """Distinct texts in their order."""
    return "; ".join(dict.fromkeys(texts))


def _anchor(title: str) -> str:
    """The anchor of a heading."""
    kept = "".join(character for character in title.lower() if character.isalnum() or character in " -_")
    return kept.replace(" ", "-")
