"""A dataset of Hugging Face's `datasets`, saved with `save_to_disk`: read by PyArrow alone, prepared like a folder.

The folder has a `dataset_dict.json` that names its splits, one subfolder each, or is one split itself. A split's
`dataset_info.json` describes its columns, and its `state.json` names its Arrow files.
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow
import tensorflow_datasets as tfds

from gan.data import folder, image_files, listing
from gan.data.encoded_files import ArrowFiles
from gan.data.reasons import one_line
from gan.errors import UserError

VERSION = "1"
DICT, INFO, STATE = "dataset_dict.json", "dataset_info.json", "state.json"


class Columns(NamedTuple):
    """The columns of a dataset that are read."""

    image: str
    label: str
    """"" where there is none."""
    class_names: tuple[str, ...]


def builder(
    data_dir: str | os.PathLike, root: pathlib.Path, skip_broken: bool, white: float
) -> tfds.core.DatasetBuilder:
    """The TFDS builder for the images of a saved dataset, prepared or to be prepared under `root`.

    The image is the column of the kind Image, or the one called image or img if there are several; the label is the
    column of the kind ClassLabel, or the one called label if there are several. The arguments are those of
    `folder.builder`.

    Raises:
      UserError: no saved dataset, columns of other kinds, damaged files, or what `folder.builder` raises.
    """
    if not data_dir:
        raise UserError("config.data.name='huggingface' needs config.data.dir: a folder written by save_to_disk")
    source = pathlib.Path(os.path.expanduser(data_dir)).absolute()
    splits = _splits(source)
    paths = {split: _arrow_paths(source / subfolder) for split, subfolder in splits.items()}
    columns = {split: _columns(source / subfolder) for split, subfolder in splits.items()}
    if len(set(columns.values())) > 1:
        raise UserError(
            f"config.data.dir={str(source)!r}: its splits {', '.join(splits)} have other columns or classes"
        )
    [columns] = set(columns.values())
    names = [str(path.relative_to(source)) for of_split in paths.values() for path in of_split]
    digests = image_files.content_digests(source, names, root / "seen")
    identity = (VERSION, folder.VERSION, skip_broken, float(white), columns, list(splits), names, digests)
    data_root = root / f"huggingface-{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}"
    if (found := folder.prepared(data_root)) is not None:
        return found
    class_names = list(columns.class_names) or [""]
    images, places = {}, []
    for split, of_split in paths.items():
        images[split], labels = _read(source, of_split, columns)
        odd = [label for label in labels if not 0 <= label < len(class_names)]
        if odd:
            raise UserError(
                f"config.data.dir={str(source)!r}: split {split!r} has the label {odd[0]}; expected: 0 to "
                f"{len(class_names) - 1}"
            )
        places += [listing.Place(split, class_names[label]) for label in labels]
    files = ArrowFiles(source, images)
    rows = files.images()
    return folder.checked(files, rows, places, class_names, files.digests(rows), skip_broken, white, data_root)


def _splits(source):
    """{split: subfolder} of a saved dataset; "train" where it is not divided."""
    if (source / STATE).is_file():
        return {"train": ""}
    if not (source / DICT).is_file():
        raise UserError(
            f"config.data.dir={str(source)!r} has no {DICT} and no {STATE}; expected: a folder written by save_to_disk "
            "of Hugging Face's datasets"
        )
    names = _entry(source / DICT, "splits", list)
    if not names or not all(isinstance(name, str) and re.fullmatch(r"\w+", name) for name in names):
        raise UserError(f"{source / DICT}: the splits are {one_line(names, 80)}; expected: names of letters and digits")
    return {name: name for name in names}


def _arrow_paths(split):
    """The Arrow files of a split."""
    entries = _entry(split / STATE, "_data_files", list)
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    if not names or not all(isinstance(name, str) and name == os.path.basename(name) for name in names):
        raise UserError(f"{split / STATE} names no Arrow files")
    return [split / name for name in names]


def _columns(split):
    features = _entry(split / INFO, "features", dict)
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    image = _chosen(kinds, "Image", ("image", "img"))
    if image is None:
        raise UserError(f"{split / INFO} has no column of images; it has: {one_line(kinds, 120)}")
    label = _chosen(kinds, "ClassLabel", ("label", "labels"))
    names = [] if label is None else features[label].get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isprintable() for name in names):
        raise UserError(f"{split / INFO}: the names of column {label!r} are no list of printable names")
    return Columns(image, label or "", tuple(names))


def _chosen(kinds: Mapping[str, Any], kind: str, preferred: tuple[str, ...]) -> str | None:
    """The column of a kind: one that has a preferred name, else the only one."""
    found = [name for name, other in kinds.items() if other == kind]
    return next((name for name in preferred if name in found), found[0] if len(found) == 1 else None)


def _read(source, paths, columns):
    """(the column of images, the labels as a list) of a split, mapped into memory."""
    try:
        tables = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all() for path in paths]
        table = pyarrow.concat_tables(tables)
        image = table.column(columns.image)
        if not pyarrow.types.is_struct(image.type) or image.type.get_field_index("bytes") < 0:
            raise ValueError(f"column {columns.image!r} is {image.type}")
        labels = table.column(columns.label).to_pylist() if columns.label else [0] * len(table)
    except (OSError, KeyError, ValueError) as error:  # Arrow's own errors are ValueErrors
        raise UserError(f"{paths[0]} cannot be read as an Arrow file ({one_line(error, 120)})") from error
    return image, [-1 if label is None else label for label in labels]


def _entry(path, name, kind):
    """An entry of a JSON file of a saved dataset."""
    try:
        entry = json.loads(path.read_text())[name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a file of a saved dataset ({one_line(error, 80)})") from error
    if not isinstance(entry, kind):
        raise UserError(f"{path} is not a file of a saved dataset ({name!r} is no {kind.__name__})")
    return entry
