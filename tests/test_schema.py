"""gan.config.schema: every field rejects every value of another type, in one line that names the field."""

import math

import numpy as np
import pytest
import runs
from ml_collections import ConfigDict
from test_configs import parsed

from gan import checks
from gan.build import make_game
from gan.config import schema
from gan.config.flattening import flatten
from gan.errors import UserError

CONFIG = parsed(runs.ROOT / "configs/dcgan.py")
FIELDS = flatten(CONFIG)
OF_NO_FIELD = [
    {"a": 1}, {}, ConfigDict({"a": 1}), None, b"x", {1, 2}, 1j, object(), print, range(3), np.zeros(3), np.float32(1),
    math.nan, math.inf, -math.inf, 10**400, -(10**400), 10**5000, [1, "a"], ((1,), 2),
]  # fmt: skip
OF_OTHER_FIELDS = {
    int: [True, 1.0, "1", "", (1,), 2**32],
    float: [True, "1", "nan", "", (1.0,), 2.0**128],
    bool: [0, 1, 1.0, "True", (True,)],
    str: [0, 1.0, True, ("a",)],
    tuple: [1, "8,8", True, (1.5,), (True,), (None,), (b"x",)],
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_rejects_every_value_of_another_type(field):
    config = CONFIG.to_dict()
    *groups, last = field.split(".")
    group = config
    for name in groups:
        group = group[name]
    for value in OF_NO_FIELD + OF_OTHER_FIELDS[type(FIELDS[field])]:
        group[last] = value
        with pytest.raises(UserError) as caught:
            changed = ConfigDict(config, type_safe=False)
            checks.check_values(changed)
            make_game(changed, image_shape=(8, 8, 1))  # checks the fields of the networks
        message = str(caught.value)
        assert message.startswith(f"config.{field}=") and "; expected: " in message, message
        assert message.isprintable() and len(message) < 300, message


@pytest.mark.parametrize("group", ["data", "generator", "penalties", "schedules", "schedules.penalties"])
def test_a_group_of_fields_is_there_and_holds_fields(group):
    config = CONFIG.to_dict()
    *above, last = group.split(".")
    outer = config[above[0]] if above else config
    for value in (3, None, "x", [1]):
        outer[last] = value
        with pytest.raises(UserError, match=f"^config.{group}=.*; expected: fields"):
            schema.check(config)
    del outer[last]
    with pytest.raises(UserError, match=f"^config.{group} is missing"):
        schema.check(config)
