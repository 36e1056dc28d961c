"""FIELD=VALUE on the command line of an experiment, as `--config.FIELD=VALUE` is on a run's."""

import ast
from collections.abc import Sequence

from ml_collections import ConfigDict


def override(config: ConfigDict, changes: Sequence[str]) -> None:
    """Sets fields of a config: strings as they stand, all else as Python literals. Raises `ValueError` for others."""
    for change in changes:
        field, equals, text = change.partition("=")
        tree = config
        for part in field.split("."):
            if part not in tree:
                raise ValueError(f"--override {change}: the config has no field {field}")
            tree = tree[part]
        if not equals:
            raise ValueError(f"--override {change} is not FIELD=VALUE")
        config.update_from_flattened_dict({field: text if isinstance(tree, str) else ast.literal_eval(text)})
