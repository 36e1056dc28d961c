"""The images below a folder: listed, and assigned to splits and classes by the names of their folders."""

import collections
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gan.data import pixels
from gan.data.reasons import one_line
from gan.errors import UserError
from gan.io.progress import progress

EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    *((".avif",) if "AVIF" in pixels.FORMATS else ()),
)  # fmt: skip
SPLITS = ("train", "test", "val", "valid", "validation")
"""Names of folders that are splits, in lower case, where all folders beside them are splits too."""
OTHER_FOLDERS = ("@eaDir", "#recycle", "$RECYCLE.BIN")
"""Folders of thumbnails and of deleted files, which network drives and operating systems make."""
LINK_DEPTH = 3
"""Down to this depth (wrapper, split, class) two links may lead to one folder; deeper it is listed once per class."""


class Place(NamedTuple):
    """Where an image belongs."""

    split: str
    class_name: str
    """The name of its class folder; "" if there are none."""


def list_images(source: pathlib.Path, ignored: collections.Counter | None = None) -> list[str]:
    """Sorted relative paths of the images below a folder. Hidden files and files of other extensions are left out.

    Args:
      source: the folder.
      ignored: counts the other files by extension.
    """
    names, visited = [], set()
    above: dict[str, frozenset[str]] = {}

    def fail(error):
        raise UserError(f"config.data.dir: {error.filename} cannot be listed ({error.strerror})") from error

    walk = os.walk(source, followlinks=True, onerror=fail)
    for parent, folders, files in progress(walk, total=None, what=f"Listing the folders of {source}"):
        real = os.path.realpath(parent)
        outer = above.get(os.path.dirname(parent), frozenset())
        relative = pathlib.Path(parent).relative_to(source)
        scope = relative.parts[:LINK_DEPTH]
        # A link to a parent folder would never end; links between folders would multiply.
        if real in outer or (scope, real) in visited:
            folders.clear()
            continue
        visited.add((scope, real))
        prefix = os.path.join(*relative.parts) if relative.parts else ""
        above[parent] = outer | {real}
        folders[:] = [name for name in folders if not _is_left_out(name)]
        names += [os.path.join(prefix, name) for name in files if _is_image(name, ignored)]
    return sorted(names)


def select_images(names: Iterable[str], ignored: collections.Counter | None = None) -> list[str]:
    """The relative paths that `list_images` would list, sorted, among those of all files."""
    selected = set()
    for name in names:
        *folders, file = name.split("/")
        if file and not any(map(_is_left_out, folders)) and _is_image(file, ignored):
            selected.add(name)
    return sorted(selected)


def _is_left_out(folder):
    return folder.startswith((".", "__MACOSX")) or folder in OTHER_FOLDERS


def _is_image(file, ignored):
    """Whether a file of this name is read; one of another extension, unless it is hidden, is counted in `ignored`."""
    if file.startswith("."):
        return False
    if file.lower().endswith(EXTENSIONS):
        return True
    if ignored is not None:
        ignored[os.path.splitext(file)[1].lower() or "no extension"] += 1
    return False


def counts_text(ignored: collections.Counter) -> str:
    """The extensions of files that are no images, the most frequent first: "12 .txt, 1 .csv"."""
    ranked = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    counts = ", ".join(f"{count:,} {extension}" for extension, count in ranked[:5])
    counts = counts.encode("utf-8", "backslashreplace").decode()  # names that are not UTF-8 cannot be printed
    return one_line(counts) + (", ..." if len(ignored) > 5 else "")


def places(source: pathlib.Path, names: Sequence[str], labels: Sequence[int] | None = None) -> list[Place]:
    """The split and the class of each image, from its relative path.

    Folders are classes: root/cats/1.png. Folders named train, test, val, valid or validation are splits, if all folders
    beside them are: root/train/cats/1.png. A folder that only wraps others is descended into. With labels, of
    `dataset_json`, folders are no classes: an image's class is named by its label, or is "" if that is -1.

    Raises:
      UserError: some images are in class folders and others are not, split folders lie beside other folders, or a class
        folder's name is not printable.
    """
    parts = [name.split(os.sep) for name in names]
    depth = _descend(parts, 0)
    splits = ["train"] * len(parts)
    if _has_splits(source, parts, depth):
        splits = [path[depth].lower() for path in parts]
        depth = _descend(parts, depth + 1)
    if labels is not None:
        classes = ["" if label < 0 else str(label) for label in labels]
        return [Place(split, class_name) for split, class_name in zip(splits, classes, strict=True)]
    classes = [path[depth] if len(path) > depth + 1 else "" for path in parts]
    distinct = sorted(set(classes), key=natural_order)
    if "" in distinct and len(distinct) > 1:
        stray = names[classes.index("")]
        raise UserError(
            f"{source / stray} lies beside the class folders {', '.join(distinct[1:4])}: put every image into a "
            "subfolder, or all of them directly into config.data.dir"
        )
    for name in distinct:
        if not name.isprintable() or name != name.strip():  # TFDS stores the names in a text file, one per line
            raise UserError(f"{source / name}: a class folder's name must be printable, without space around it")
    return [Place(split, class_name) for split, class_name in zip(splits, classes, strict=True)]


def natural_order(name: str) -> list:
    """A sort key by which numbers in names sort by value: 1, 2, 10."""
    pieces = re.split("([0-9]+)", name)
    return [(int(piece), piece) if index % 2 else piece for index, piece in enumerate(pieces)]


def _descend(parts, depth):
    """The depth below folders that contain nothing but one folder of folders; a split's folder is not passed."""
    while all(len(path) > depth + 2 for path in parts):
        folders = {path[depth] for path in parts}
        if len(folders) > 1 or folders.pop().lower() in SPLITS:
            break
        depth += 1
    return depth


def _has_splits(source, parts, depth):
    if any(len(path) == depth + 1 for path in parts):
        return False
    folders = {path[depth] for path in parts}
    splits = {name for name in folders if name.lower() in SPLITS}
    if len(splits) > 1 and splits != folders:
        raise UserError(
            f"{source.joinpath(*parts[0][:depth])} contains the splits {', '.join(sorted(splits))} beside "
            f"{', '.join(sorted(folders - splits)[:3])}: move the latter out of config.data.dir"
        )
    return splits == folders
