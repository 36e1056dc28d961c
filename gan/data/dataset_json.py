"""The labels in a `dataset.json` beside images, as StyleGAN's dataset_tool.py writes it.

{"labels": [["00000/img00000000.png", 6], ...]}, or {"labels": null} for images without labels.
"""

import json
from collections.abc import Sequence

from gan.errors import UserError

NAME = "dataset.json"
MAX_CLASSES = 2**16


def read_labels(where: str, content: bytes, names: Sequence[str]) -> list[int] | None:
    """The label of each image of `names`, or -1 for all of them where the file says that there are none.

    None where the file has no entry "labels": it is of another kind.

    Args:
      where: the path of the file, for the messages.
      content: of the file.
      names: relative paths of the images.

    Raises:
      UserError: not JSON, labels that are no whole numbers from 0 on, or an image without a label.
    """
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}); expected: labels as StyleGAN's, or no such file") from error
    if not isinstance(record, dict) or "labels" not in record:
        return None
    if record["labels"] is None:
        return [-1] * len(names)
    try:
        pairs = [(str(name).replace("\\", "/"), label) for name, label in record["labels"]]
    except (TypeError, ValueError) as error:
        raise UserError(f'{where}: "labels" is no list of pairs; expected: [["00000/1.png", 6], ...]') from error
    known = dict(pairs)
    if twice := next((name for name, label in pairs if known[name] != label), None):
        raise UserError(f"{where} has two labels for {twice}; expected: one for every image")
    for name in names:
        if name not in known:
            raise UserError(f"{where} has no label for {name}; expected: one for every image")
        label = known[name]
        if type(label) is not int or not 0 <= label < MAX_CLASSES:
            raise UserError(
                f"{where}: the label of {name} is {str(label)[:40]}; expected: a whole number, 0 to {MAX_CLASSES - 1}"
            )
    return [known[name] for name in names]
